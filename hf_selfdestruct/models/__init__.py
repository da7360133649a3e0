"""Models as functions of their weights, task heads, and computation on several processes."""
