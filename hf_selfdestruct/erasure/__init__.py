"""Closed forms that take a blocked task out of a model's inputs before the first step."""
