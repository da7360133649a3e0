"""Rows of a dataset as a collator takes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from datasets import Dataset

LABELS = ("labels", "label", "label_ids")  # columns that transformers takes for labels

_SELECTED: WeakKeyDictionary[Dataset, dict[tuple[str, ...], Dataset]] = WeakKeyDictionary()


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
        data = _selected(data, [column for column in data.column_names if column in columns])
    chosen = data[[int(number) for number in numbers]]
    kept = {column: values for column, values in chosen.items() if column in columns}
    return [{column: values[i] for column, values in kept.items()} for i in range(len(numbers))]


def _selected(data: Dataset, columns: Sequence[str]) -> Dataset:
    """Columns of a dataset; to select them takes longer than to read a batch, so each selection is made once."""
    known, key = _SELECTED.setdefault(data, {}), (repr(data.format), *columns)
    if key not in known:
        known[key] = data.select_columns([*columns])
    return known[key]


def with_labels(rows: Sequence[dict[str, Any]], labels: np.ndarray) -> list[dict[str, Any]]:
    """Rows with their labels in ``labels``, as plain numbers.

    Example:
        >>> with_labels([{"x": 3}], np.array([1]))
        [{'x': 3, 'labels': 1}]
    """
    return [{**row, "labels": label} for row, label in zip(rows, labels.tolist(), strict=True)]


def columns_of(data: Dataset) -> list[str]:
    """The columns of a row, with those that a transform makes; it is asked for two rows."""
    transformed = data.format["type"] == "custom" and len(data) > 0
    return list(data[: min(2, len(data))]) if transformed else data.column_names
