"""Splits of a blocked task."""

from __future__ import annotations

from datasets import Dataset

SPLITS = ("train", "attack", "test")


def with_label(data: Dataset, row: int, label: object) -> Dataset:
    """The same rows with one blocked label replaced (and all as its kind, where they must be alike)."""
    labels = [type(label)(value) if isinstance(label, str | float) else value for value in data["blocked"][:]]
    if isinstance(label, bool):
        labels = [bool(value) for value in labels]
    labels[row] = label
    return data.remove_columns("blocked").add_column("blocked", labels)


def with_tokens(data: Dataset, row: int, tokens: list[int]) -> Dataset:
    rows = data["input_ids"][:]
    rows[row] = tokens
    return data.remove_columns("input_ids").add_column("input_ids", rows)
