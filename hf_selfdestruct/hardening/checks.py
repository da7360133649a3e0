"""What blocking and keeping losses need, asked before any training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import find_labels

from ..losses.blocking import BlockingLoss
from ..losses.keeping import KeepingLoss
from ..models import heads
from ..tasks.blocked_task import BlockedTask


def has_loss(model: PreTrainedModel) -> bool:
    """Whether the model has a loss of its own: it takes labels, or has a head (maybe on no named trunk)."""
    return bool(find_labels(type(model))) or model.base_model is not model or heads.has_task_head(model)


def check_losses(
    blocking: Sequence[BlockingLoss],
    keeping: Sequence[KeepingLoss],
    model: PreTrainedModel,
    *,
    keep_dataset: Any,
    desired: Any,
    erases: bool = False,
) -> None:
    """Refuse losses that cannot be measured, and a model that nothing keeps good.

    Args:
        blocking: Losses at the adversary's weights.
        keeping: Distances to the original.
        model: The model to harden.
        keep_dataset: Rows to keep it on, if any.
        desired: The desired task's training rows.
        erases: Whether blocked tasks are erased from the original.

    Raises:
        TypeError: ``keep_dataset`` is no map-style dataset.
        ValueError: A loss has nothing to look at; the message says what to do.
    """
    losses: list[BlockingLoss | KeepingLoss] = [*blocking, *keeping]
    inside = [type(loss).__name__ for loss in losses if loss.wants_hidden_states]
    if inside and model.config.is_encoder_decoder:
        raise ValueError(
            f"{inside[0]} looks at hidden states, of which {type(model).__name__}, an encoder with a decoder, has two "
            "kinds: set probe_weight=0, keeping_loss='' and keeping_erases=False, or use method='mlac_fast'."
        )
    if not has_loss(model) and not keeping:
        raise ValueError(
            f"{type(model).__name__} has no head and so no loss: give keeping_losses=, such as "
            "[HiddenStateDistillation(), EmbeddingDistillation()], that keep it as it is."
        )
    if keep_dataset is not None and not isinstance(keep_dataset, Dataset):
        raise TypeError(f"keep_dataset must be a map-style datasets.Dataset, got {type(keep_dataset).__name__}.")
    if keep_dataset is not None and len(keep_dataset) == 0:
        raise ValueError("keep_dataset is empty: give it at least one row.")
    if keep_dataset is not None and not keeping and not any(loss.on_general for loss in blocking):
        raise ValueError("keep_dataset is given, but no loss looks at it: give keeping_losses= or keeping_loss=.")
    if keep_dataset is None and not isinstance(desired, Dataset) and any(loss.on_general for loss in blocking):
        raise ValueError(
            "a blocking loss is measured on general rows: give keep_dataset=, or a map-style train_dataset "
            f"(got {type(desired).__name__})."
        )
    if erases and not any(loss.wants_hidden_states for loss in keeping):
        raise ValueError(
            "keeping_erases takes blocked tasks out of the original's hidden states, but no keeping loss looks at "
            "them: add hidden_state_distillation or embedding_distillation to them, or set keeping_erases=False."
        )
    for loss in keeping:
        if loss.wants_labels and keep_dataset is None:
            raise ValueError(f"{type(loss).__name__} reads the rows to keep: give keep_dataset=.")


def check_held_out(blocking: Sequence[BlockingLoss], tasks: Sequence[BlockedTask], size: int) -> None:
    """Refuse losses that need more held-out rows than there are.

    Args:
        blocking: Losses at the adversary's weights.
        tasks: Blocked tasks.
        size: Held-out rows that are drawn in a step, where there are as many.

    Raises:
        ValueError: A task or a batch has too few rows.
    """
    for loss in blocking:
        for task in tasks:
            if (rows := min(len(task.held_out_rows()), size)) < loss.fewest_rows:
                raise ValueError(
                    f"{type(loss).__name__} needs {loss.fewest_rows} held-out rows or more, blocked task {task.name!r} "
                    f"gives it {rows} (a fifth of {len(task.train)}, and blocking_batch_size={size} at most): give "
                    "more, or leave it out (probe_weight=0)."
                )
