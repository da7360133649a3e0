"""Load, check, filter and preprocess labelled texts or images as configured."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from datasets import ClassLabel, DatasetDict
from transformers import BaseImageProcessor

from ..tasks.blocked_task import check_columns
from .config import HardenConfig
from .images import check_image_column, with_pixels
from .processors import Processor
from .sections import SPLITS, DataConfig, TaskConfig
from .sources import check_source, read, read_kept

logger = logging.getLogger(__name__)

PRONOUNS = {
    "he": "they",
    "she": "they",
    "him": "their",
    "her": "their",
    "his": "their",
    "hers": "their",
    "himself": "themselves",
    "herself": "themselves",
}


def load_data(config: HardenConfig, processor: Processor, *, documents: Sequence[str] = ()) -> DatasetDict:
    """Load, check, filter and preprocess the examples; label columns become integers.

    Args:
        config: Configuration that names the data.
        processor: Tokenizer or image processor of the model.
        documents: Columns with source documents, besides those of tasks without a data set of their own.

    Returns:
        ``train``, ``validation`` and ``test`` with the model's inputs, ``label``, the blocked columns and those with
        source documents. Texts are stored as tokens; images are converted to pixels when rows are read.

    Raises:
        ValueError: A folder, split, column, text or image is missing, a file is unreadable, a split is empty, or a
            label does not occur in ``train``.
    """
    data = config.data
    check_source(data)
    found = read(data)
    tasks = [task for task in (*config.blocked_tasks, *config.control_tasks) if task.path is None]
    blocked = [task.label_column for task in tasks]
    documents = [*documents, *(task.document_column for task in tasks if task.document_column)]
    inputs = [column for column in (data.text_column, data.text_pair_column, data.image_column) if column]
    for split in SPLITS:
        for column in (*inputs, data.label_column, *blocked, *documents, *([data.only] if data.only else [])):
            check_columns(found[split].column_names, column, f"{data.path}, split {split!r}")
    if data.only:
        # Text such as "false" is true in Python: the filter would silently keep every row.
        _check_values(found, data.only, data.path, lambda value: value in (0, 1), "true or false")
        found = found.filter(lambda row: bool(row[data.only]))
    if data.max_rows:
        found = DatasetDict({s: d.shuffle(seed=0).select(range(min(len(d), data.max_rows))) for s, d in found.items()})
    for split, rows in found.items():
        if len(rows) == 0:
            raise ValueError(f"{data.path}, split {split!r}: no rows{f' where {data.only}' if data.only else ''}.")
    found = found.select_columns(list(dict.fromkeys([*inputs, data.label_column, *blocked, *documents])))
    _check_inputs(found, inputs, data)
    for column in dict.fromkeys([data.label_column, *blocked]):
        found = _encode(found, column, data.path)
    found = found.rename_column(data.label_column, "label") if data.label_column != "label" else found
    if isinstance(processor, BaseImageProcessor):
        return with_pixels(found, processor, inputs[0], data.path)
    return _tokenised(found, inputs, data, processor)


def _check_inputs(found: DatasetDict, columns: Sequence[str], data: DataConfig) -> None:
    """Check that the input columns contain texts, or images if an image column is configured."""
    for column in columns:
        if data.image_column is None:
            _check_values(found, column, data.path, lambda value: isinstance(value, str), "text")
        else:
            for split, rows in found.items():
                check_image_column(rows, column, f"{data.path}, split {split!r}")


def _tokenised(found: DatasetDict, columns: Sequence[str], data: DataConfig, tokenizer: Any) -> DatasetDict:
    """Tokenise the texts, truncated to the configured maximum and the model's maximum."""
    most = min(data.max_length, tokenizer.model_max_length)
    if most < data.max_length:
        logger.warning(
            "max_length is %d, but the model reads at most %d tokens: longer texts are truncated.",
            *(data.max_length, most),
        )

    def tokenise(rows: dict[str, list[Any]]) -> Any:
        given = [[neutral(text) for text in rows[c]] if data.replace_pronouns else rows[c] for c in columns]
        return tokenizer(*given, truncation=True, max_length=most)

    return found.map(tokenise, batched=True, remove_columns=[*columns], desc="tokenising")


def load_own(task: TaskConfig, config: HardenConfig, processor: Processor) -> DatasetDict | None:
    """Load a task's own data set, if any, as :func:`load_data`, with the task's label column.

    Raises:
        ValueError: As for :func:`load_data`.
    """
    if (own := task.own_data(config.data)) is None:
        return None
    documents = [task.document_column] if task.document_column else []
    alone = dataclasses.replace(config, data=own, blocked_tasks=(), control_tasks=())
    found = load_data(alone, processor, documents=documents)
    return found.rename_column("label", task.label_column) if task.label_column != "label" else found


def load_kept(data: DataConfig, tokenizer: Processor) -> DatasetDict | None:
    """Load tokenised texts without labels: ``train`` preserves a model's general use, ``test`` measures it.

    Raises:
        ValueError: As for :func:`load_data`.
    """
    if data.keep_path is None:
        return None
    found = read_kept(data.keep_path)
    for split, rows in found.items():
        check_columns(rows.column_names, data.keep_text_column, f"{data.keep_path}, split {split!r}")
    found = found.select_columns([data.keep_text_column])
    _check_values(found, data.keep_text_column, data.keep_path, lambda value: isinstance(value, str), "text")
    return _tokenised(found, [data.keep_text_column], dataclasses.replace(data, replace_pronouns=False), tokenizer)


def neutral(text: str) -> str:
    """Replace gendered pronouns and preserve capitals.

    Example:
        >>> neutral("She sold her boat; His was new.")
        'They sold their boat; Their was new.'
    """

    def swap(match: re.Match[str]) -> str:
        word = PRONOUNS[match[0].lower()]
        return word.capitalize() if match[0][0].isupper() else word

    return re.sub(rf"\b(?:{'|'.join(PRONOUNS)})\b", swap, text, flags=re.IGNORECASE)


def _check_values(found: DatasetDict, column: str, where: str, fits: Callable[[Any], bool], wanted: str) -> None:
    for split, rows in found.items():
        for row, value in enumerate(rows[column][:]):
            if not fits(value):
                raise ValueError(
                    f"{where}, split {split!r}, column {column!r}, row {row}: expected {wanted}, got {value!r}."
                )


def _encode(found: DatasetDict, column: str, where: str) -> DatasetDict:
    """Encode labels as integers, in the order of their sorted names in ``train``."""
    known = found["train"].features[column]
    if isinstance(known, ClassLabel):
        for split, rows in found.items():
            if rows.features[column] != known:
                raise ValueError(
                    f"{where}, split {split!r}, column {column!r}: the label names differ from those of train."
                )
            for row, label in enumerate(rows[column][:]):
                if label is None or label < 0:
                    raise ValueError(
                        f"{where}, split {split!r}, column {column!r}, row {row}: the label is missing ({label})."
                    )
        return found
    values = {split: set(rows[column][:]) for split, rows in found.items()}
    names = [str(value) for value in sorted(values["train"] - {None})]
    for split, seen in values.items():
        if None in seen:
            row = found[split][column][:].index(None)
            raise ValueError(f"{where}, split {split!r}, column {column!r}, row {row}: the label is missing.")
        # Compare as text: a label may be a number in one file and text in another.
        if unknown := sorted({*map(str, seen)} - {*names}):
            raise ValueError(
                f"{where}, split {split!r}, column {column!r}: label {unknown[0]!r} does not occur in train."
            )
    label = ClassLabel(names=names)
    return found.map(
        lambda rows: {column: [label.str2int(str(value)) for value in rows[column]]},
        batched=True,
        desc=f"encoding {column}",
    ).cast_column(column, label)
