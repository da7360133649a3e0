"""Rows of a dataset as a collator takes them, and what is said of labels that are no classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from datasets import Dataset

LABELS = ("labels", "label", "label_ids")  # columns that transformers takes for labels


def rows_of(data: Dataset, numbers: Sequence[int], columns: Collection[str]) -> list[dict[str, Any]]:
    """Rows as their format or their transform gives them.

    Args:
        data: A map-style dataset. A transform reads the whole row; a format may leave columns out.
        numbers: Row numbers.
        columns: Columns wanted; others are left out, and those that do not exist.

    Returns:
        One dictionary per row.

    Example:
        >>> rows_of(Dataset.from_dict({"x": [1, 2], "y": [3, 4]}), [1], ["x", "z"])
        [{'x': 2}]
    """
    if data.format["type"] != "custom":
        data = data.select_columns([column for column in data.column_names if column in columns])
    chosen = data[[int(number) for number in numbers]]
    kept = {column: values for column, values in chosen.items() if column in columns}
    return [{column: values[i] for column, values in kept.items()} for i in range(len(numbers))]


def columns_of(data: Dataset) -> list[str]:
    """The columns of a row, with those that a transform makes; it is asked for two rows."""
    transformed = data.format["type"] == "custom" and len(data) > 0
    return list(data[: min(2, len(data))]) if transformed else data.column_names


def class_cure(label: Any, column: str) -> str:
    """How labels become whole numbers, one for each class; ``class_encode_column`` encodes texts and numbers alone."""
    if isinstance(label, str):
        return f"use dataset.class_encode_column({column!r})"
    if label is None:
        return "remove the rows without a label by filter()"
    if isinstance(label, bool):
        return f"use dataset.cast_column({column!r}, Value('int64'))"
    if isinstance(label, float) and label.is_integer():
        return f"use dataset.cast_column({column!r}, Value('int64'))"
    if isinstance(label, float):
        return "a task has one class per row, and not a quantity: make classes of it by map(), such as below and above"
    if isinstance(label, Collection):
        return "a task has one class per row: make one label of each row by map(), or one row of each label"
    return "number the classes from 0 by map()"
