"""What a model starts hardening from: the less its weights remember of a blocked task, the less there is to recover.

Training alone moves a pretrained model little: what it knows of the words stays in its input embeddings, where a probe
or a fine-tuning finds it. Three cures, in closed form, before the first step. *Merging* makes words that tell the
classes apart one with their opposites (see :mod:`vocabulary`), against fine-tuning. *Erasing* takes the blocked tasks'
directions out of the input embeddings, against probes. Both leave a model of general use. *Keeping* leaves of each word
nothing but some directions that tell the desired task: for a model with one purpose. What is gone for the attacker is
gone for a buyer with another task, and the report's control tasks say how much that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ..models.functional import Weights
from ..models.pooling import pool
from ..tasks.blocked_task import BlockedTask, draw_rows, label_column_of
from ..tasks.rows import LABELS, rows_of, with_labels
from .leace import directions
from .word_merging import expected_counts, joined, merged, neutral_groups, row_counts

ROWS, BATCH = 16384, 256
NEIGHBOUR_DIRECTIONS = 20  # taken out of the table in which opposites are looked for

Collate = Callable[[list[dict[str, Any]]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Forms:
    """The closed forms to apply before the first step; 0 leaves one out.

    Args:
        merge_words: Standard errors from which on words that tell blocked classes apart are merged.
        merge_groups: Most groups that merged words end in; 0 is any.
        erase_directions: Directions of each blocked task that are erased.
        keep_directions: Directions of the desired task that are left.
    """

    merge_words: float = 0.0
    merge_groups: int = 0
    erase_directions: int = 0
    keep_directions: int = 0

    def any(self) -> bool:
        """Whether the weights are changed."""
        return bool(self.merge_words or self.erase_directions or self.keep_directions)


def initial_weights(
    model: PreTrainedModel,
    asked: Forms,
    *,
    tasks: Sequence[BlockedTask],
    desired: Dataset | None,
    columns: Sequence[str],
    collate: Collate,
    spared: Sequence[int] = (),
) -> Weights:
    """The weights that arguments ask to change before the first step.

    Args:
        model: The model; it is not changed.
        asked: The closed forms that are asked for.
        tasks: Blocked tasks, of which the adversary's rows are looked at.
        desired: The desired task's training rows.
        columns: Columns the model accepts.
        collate: Makes a batch of blocked rows.
        spared: Words that are neither merged nor reduced: the tokenizer's own. Those beyond the table, which a
            tokenizer has if words were added to it alone, are left out.

    Returns:
        Parameter name to new values; empty where nothing is asked for.
    """
    if not asked.any():
        return {}
    name, original = embeddings_of(model)
    own = torch.tensor([word for word in spared if word < len(original)], dtype=torch.long, device=original.device)
    rows = [_rows_of(task, columns) for task in tasks]
    table = original
    if asked.merge_words:
        table = _merged(table, rows, collate, asked, spared)
    if asked.erase_directions:
        table = _erased(table, rows, collate, asked.erase_directions)
    if asked.keep_directions:
        kept = directions(*_pooled(table, _labelled(desired, columns), collate), asked.keep_directions)
        table = reduced(table, kept).index_copy(0, own, table[own])
    return {name: table.to(original)}


def without(table: Tensor, erased: Tensor) -> Tensor:
    """A table of embeddings in which all rows have their mean along some directions.

    Args:
        table: Shape ``(rows, width)``.
        erased: Orthonormal columns, shape ``(width, count)``.
    """
    centred = table.double() - table.double().mean(0)
    return (table.double() - centred @ erased @ erased.T).to(table)


def reduced(table: Tensor, kept: Tensor) -> Tensor:
    """A table of embeddings of which some directions are left, stretched to the size it had: layers above know that.

    Args:
        table: Shape ``(rows, width)``.
        kept: Orthonormal columns, shape ``(width, count)``.
    """
    mean = table.double().mean(0)
    centred = table.double() - mean
    left = centred @ kept @ kept.T
    return (mean + left * (centred.square().sum() / left.square().sum()).sqrt()).to(table)


def embeddings_of(model: PreTrainedModel) -> tuple[str, Tensor]:
    """Name and values of a model's table of input embeddings.

    Raises:
        ValueError: It has none.
    """
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # transformers' answer for models of images
        table = None
    name = next((n for n, p in model.named_parameters() if p is table), None)
    if name is None or table is None or table.dim() != 2:
        raise ValueError(
            f"{type(model).__name__} has no table of input embeddings to change: set merge_words, "
            "erase_directions and keep_directions to 0 in method_options=, or use method='mlac_fast'."
        )
    return name, table.detach()


def check_initialization(model: PreTrainedModel, asked: Forms, desired: Any) -> None:
    """Refuse what :func:`initial_weights` could not do.

    Raises:
        ValueError: The model has no embeddings or too narrow ones, the desired task no integer labels to find
            directions by, or merged words are to be joined where none are merged.
    """
    if asked.merge_groups and not asked.merge_words:
        raise ValueError("merge_groups needs merge_words, the threshold beyond which words are merged; set both.")
    if asked.any():
        width = embeddings_of(model)[1].shape[1]
        if asked.keep_directions >= width:
            raise ValueError(
                f"keep_directions={asked.keep_directions} of embeddings with {width} directions would keep everything: "
                f"set fewer, such as {width // 4}."
            )
    if asked.keep_directions:
        _label_of(desired)


def _rows_of(task: BlockedTask, columns: Sequence[str]) -> list[dict[str, Any]]:
    rows = draw_rows(np.arange(len(task.train)), ROWS, "initialization", task.name).tolist()
    return task.features("train", rows, columns)


def _erased(table: Tensor, tasks: Sequence[list[dict[str, Any]]], collate: Collate, count: int) -> Tensor:
    for rows in tasks:
        table = without(table, directions(*_pooled(table, rows, collate), count))
    return table


def _merged(
    table: Tensor,
    tasks: Sequence[list[dict[str, Any]]],
    collate: Collate,
    asked: Forms,
    spared: Sequence[int],
) -> Tensor:
    plain = table.double().cpu().numpy()
    seen = [row_counts(*_words(rows), len(table)) for rows in tasks]
    told = [counts + expected_counts(plain, counts) for counts in seen]
    near = _erased(table, tasks, collate, NEIGHBOUR_DIRECTIONS).double().cpu().numpy()
    groups = neutral_groups(near, told, asked.merge_words, spared=spared)
    used = np.sum([counts.sum(axis=1) for counts in seen], axis=0)
    if asked.merge_groups:
        groups = joined(groups, near, used, asked.merge_groups)
    return merged(table, groups, used)


def _words(rows: list[dict[str, Any]]) -> tuple[list[Any], np.ndarray]:
    return [row["input_ids"] for row in rows], np.asarray([row["labels"] for row in rows])


def _label_of(desired: Any) -> str:
    """The column with the desired task's integer labels."""
    found = label_column_of(desired.column_names) if isinstance(desired, Dataset) else None
    labels = desired.with_format(None)[found][:] if found else []
    if found is None or not all(isinstance(label, int) for label in labels) or len(set(labels)) < 2:
        raise ValueError(
            "keep_directions needs a map-style train_dataset with one integer label per row, of two classes or more: "
            "give one, or set method_options={'keep_directions': 0}, as methods other than 'one_purpose' do."
        )
    return found


def _labelled(desired: Any, columns: Sequence[str]) -> list[dict[str, Any]]:
    label = _label_of(desired)
    numbers = draw_rows(np.arange(len(desired)), ROWS, "kept directions").tolist()
    labels = desired.with_format(None)[numbers][label]
    return with_labels(rows_of(desired, numbers, {*columns} - {*LABELS}), np.asarray(labels))


def _pooled(table: Tensor, rows: list[dict[str, Any]], collate: Collate) -> tuple[Tensor, Tensor]:
    """Mean embedding of each row, and the labels."""
    pooled, labels = [], []
    for start in range(0, len(rows), BATCH):
        batch = collate(rows[start : start + BATCH])
        pooled.append(pool(table[batch["input_ids"]], batch.get("attention_mask"), "mean"))
        labels.append(batch["labels"])
    return torch.cat(pooled), torch.cat(labels)
