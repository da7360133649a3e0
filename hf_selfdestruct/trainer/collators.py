"""What makes batches of blocked rows, and the words that are no words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase, default_data_collator

from ..models import heads
from ..tasks.blocked_task import label_column_of

if TYPE_CHECKING:
    from .base import HardeningTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Relabelled:
    """A collator of rows whose labels stand in a column of another name than ``labels``.

    Args:
        collate: The collator.
        label: The column that it reads.
    """

    collate: Callable[[list[Any]], Any]
    label: str

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        """A batch of rows that have their labels in ``labels``."""
        return self.collate([{self.label if n == "labels" else n: v for n, v in row.items()} for row in rows])


def blocked_collator(trainer: HardeningTrainer, model: PreTrainedModel) -> Callable[[list[Any]], Any]:
    """The collator of blocked rows: the trainer's own, unless that makes batches for another kind of task.

    It reads labels where it finds those of the desired rows. The collator of a bare trunk, a language model or a tagger
    knows no class labels (that for masked language modelling would hide tokens and overwrite the labels), so blocked
    rows are padded by the tokenizer there; those of a kind that is fine-tuned with the published head pad themselves.
    """
    collate, tokenizer = trainer.data_collator, trainer.processing_class
    classes = [task.model_class for task in trainer.blocked_tasks]
    of_others = all(kind is not None and not heads.is_of(model, kind) for kind in classes)
    if heads.has_task_head(model) and not of_others:
        label = label_column_of(getattr(trainer.train_dataset, "column_names", None) or ())
        return collate if label in (None, "labels") else Relabelled(collate, str(label))
    pads = any(task.kind.model_class is None for task in trainer.blocked_tasks)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and pads:
        return DataCollatorWithPadding(tokenizer)
    return default_data_collator


def special_words(tokenizer: Any, collate: Any, *, needed: bool) -> Sequence[int]:
    """The tokenizer's own words, which stay as they are.

    Args:
        tokenizer: The trainer's ``processing_class``.
        collate: The trainer's collator, which may hold a tokenizer.
        needed: Whether words are merged or reduced; an unknown tokenizer is then warned of.
    """
    known: Any
    for known in (tokenizer, getattr(collate, "tokenizer", None)):
        if hasattr(known, "all_special_ids"):
            return known.all_special_ids
    if needed:
        logger.warning(
            "no tokenizer given: special tokens will be merged and reduced like any other word. Pass processing_class=."
        )
    return ()
