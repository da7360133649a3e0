"""Edit the weights in closed form before hardening starts.

Training alone changes a pretrained model little: knowledge about words remains in the input embeddings, where a probe
or fine-tuning recovers it. Three edits remove it before the first step. *Merging* gives words that reveal a class one
shared embedding with their opposites (see :mod:`word_merging`), against fine-tuning. *Erasing* removes the blocked
tasks' directions from the embeddings, against probes. Both preserve general use. *Keeping* reduces the embeddings to
some directions that predict the desired task, for a model with a single purpose. *Noise* forgets more than the
embeddings: all weights of the trunk are mixed with random ones, and training relearns what the desired task and the
keeping losses need (UNDO, 2506.06278). The edits also remove information that other benign tasks need; the report's
control tasks measure how much.
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

from ..models import heads
from ..models.functional import Weights
from ..models.pooling import pool
from ..tasks.blocked_task import BlockedTask, draw_rows, label_column_of, seed_of
from ..tasks.rows import LABELS, rows_of, with_labels
from .leace import directions
from .word_merging import expected_counts, joined, merged, neutral_groups, row_counts

ROWS, BATCH = 16384, 256
NEIGHBOUR_DIRECTIONS = 20  # erased from the table that is used to find opposites

Collate = Callable[[list[dict[str, Any]]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Forms:
    """The closed forms to apply before the first step; 0 disables one.

    Args:
        merge_words: Threshold, in standard errors, above which words that reveal a blocked label are merged.
        merge_groups: Maximum number of merged groups; 0 for no limit.
        erase_directions: Number of directions to erase per blocked task.
        keep_directions: Number of directions of the desired task to retain.
        noise: Share of random weights that each weight of the trunk is mixed with, in [0, 1].
    """

    merge_words: float = 0.0
    merge_groups: int = 0
    erase_directions: int = 0
    keep_directions: int = 0
    noise: float = 0.0

    def of_words(self) -> bool:
        """Whether any of them edits the input embeddings alone."""
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
    seed: int = 0,
) -> Weights:
    """Compute the edited weights.

    Args:
        model: The model; it is not changed.
        asked: The closed forms to apply.
        tasks: Blocked tasks; only their adversary rows are used.
        desired: Training rows of the desired task.
        columns: Columns that the model accepts.
        collate: Collates a batch of blocked rows.
        spared: Tokens that are neither merged nor reduced: the tokenizer's special tokens. Tokens without an embedding,
            which exist if tokens were added to the tokenizer only, are ignored.
        seed: Of the random weights.

    Returns:
        Parameter name to new values; empty if no closed form is enabled.
    """
    mixed = noised(model, asked.noise, seed) if asked.noise else {}
    if not asked.of_words():
        return mixed
    name, original = embeddings_of(model)
    original = mixed.get(name, original)
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
    return {**mixed, name: table.to(original)}


def noised(model: PreTrainedModel, share: float, seed: int) -> Weights:
    """Compute the trunk's weights mixed with random ones: ``(1 - share) * weights + share * random``.

    Args:
        model: The model; it is not changed.
        share: In [0, 1].
        seed: Of the random weights.
    """
    head = {*heads.head_names(model)}
    trunk = {name: value.detach() for name, value in model.named_parameters() if name not in head}
    random = heads.draw(heads.live_skeleton(model), trunk, seed_of("noise", seed))
    return {name: torch.lerp(value, random[name].to(value), share) for name, value in trunk.items()}


def without(table: Tensor, erased: Tensor) -> Tensor:
    """Erase directions from a table of embeddings: all rows become equal to their mean along them.

    Args:
        table: Shape ``(rows, width)``.
        erased: Orthonormal columns, shape ``(width, count)``.
    """
    centred = table.double() - table.double().mean(0)
    return (table.double() - centred @ erased @ erased.T).to(table)


def reduced(table: Tensor, kept: Tensor) -> Tensor:
    """Reduce a table of embeddings to some directions, rescaled to its former variance, which the layers expect.

    Args:
        table: Shape ``(rows, width)``.
        kept: Orthonormal columns, shape ``(width, count)``.
    """
    mean = table.double().mean(0)
    centred = table.double() - mean
    left = centred @ kept @ kept.T
    return (mean + left * (centred.square().sum() / left.square().sum()).sqrt()).to(table)


def embeddings_of(model: PreTrainedModel) -> tuple[str, Tensor]:
    """Return the name and the values of a model's input embeddings.

    Raises:
        ValueError: The model has no table of input embeddings.
    """
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # raised by image models of transformers
        table = None
    name = next((n for n, p in model.named_parameters() if p is table), None)
    if name is None or table is None or table.dim() != 2:
        raise ValueError(
            f"{type(model).__name__} has no table of input embeddings to edit: set merge_words, erase_directions and "
            "keep_directions to 0 in method_options=, or choose a method without them, such as 'mlac_fast'."
        )
    return name, table.detach()


def check_initialization(model: PreTrainedModel, asked: Forms, desired: Any) -> None:
    """Check that :func:`initial_weights` can apply the closed forms.

    Raises:
        ValueError: The model has no embeddings or too narrow ones, the desired task has no integer labels, or
            ``merge_groups`` is set without ``merge_words``.
    """
    if asked.merge_groups and not asked.merge_words:
        raise ValueError("merge_groups needs merge_words, the threshold for merging words; set it too.")
    if asked.of_words():
        width = embeddings_of(model)[1].shape[1]
        if asked.keep_directions >= width:
            raise ValueError(
                f"keep_directions={asked.keep_directions} has no effect on embeddings with {width} dimensions: set a "
                f"smaller number, such as {width // 4}."
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
    """Return the column with the desired task's integer labels."""
    found = label_column_of(desired.column_names) if isinstance(desired, Dataset) else None
    labels = desired.with_format(None)[found][:] if found else []
    if found is None or not all(isinstance(label, int) for label in labels) or len(set(labels)) < 2:
        raise ValueError(
            "keep_directions needs a map-style train_dataset with one integer label per row and at least two classes: "
            "pass one, or set method_options={'keep_directions': 0} or another method than 'one_purpose'."
        )
    return found


def _labelled(desired: Any, columns: Sequence[str]) -> list[dict[str, Any]]:
    label = _label_of(desired)
    numbers = draw_rows(np.arange(len(desired)), ROWS, "kept directions").tolist()
    labels = desired.with_format(None)[numbers][label]
    return with_labels(rows_of(desired, numbers, {*columns} - {*LABELS}), np.asarray(labels))


def _pooled(table: Tensor, rows: list[dict[str, Any]], collate: Collate) -> tuple[Tensor, Tensor]:
    """Return the mean embedding of each row, and the labels."""
    pooled, labels = [], []
    for start in range(0, len(rows), BATCH):
        batch = collate(rows[start : start + BATCH])
        pooled.append(pool(table[batch["input_ids"]], batch.get("attention_mask"), "mean"))
        labels.append(batch["labels"])
    return torch.cat(pooled), torch.cat(labels)
