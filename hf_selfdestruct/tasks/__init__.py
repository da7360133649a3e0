"""Kinds of task: rows, splits, and what is blocked."""
