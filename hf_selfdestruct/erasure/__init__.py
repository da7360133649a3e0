"""Closed forms that remove a blocked task from a model's input embeddings before the first step."""
