"""Models as functions of their weights, their heads, and their copies on several devices."""
