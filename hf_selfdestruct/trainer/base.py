"""What the parts of a hardening trainer may read of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer

from ..hardening.guard import Guard
from ..hardening.objective import HardeningObjective
from ..tasks.blocked_task import BlockedTask
from .given_optimizer import GivenOptimizer
from .meters import Readings
from .training_args import SelfDestructTrainingArguments

if TYPE_CHECKING:
    Mixed = Trainer
else:
    Mixed = object  # whichever Trainer the mixin is put before


class HardeningTrainer(Mixed):
    """A trainer with an objective of hardening; its parts are typed by it, and it knows none of them.

    Attributes:
        args: Training arguments, filled by their method.
        objective: What hardens.
        blocked_tasks: The tasks to block.
        keep_dataset: Unlabelled rows on which the model's general use is kept.
        blocked_collator: Makes batches of blocked rows.
        input_columns: Columns that the model accepts.
        guard: Lowers the blocking weight where the desired task suffers, if that was asked for.
        guarded_step: The step of the guard's last reading.
        readings: What the training log has not shown yet.
        trained_before: Seconds of training before the one that runs now.
        saved_types: Types other than float32 in which weights are saved, by name.
        given_optimizer: What the user gave as ``optimizers=``, if anything.
        card_words: What ``create_model_card`` was told.
    """

    args: SelfDestructTrainingArguments
    objective: HardeningObjective
    blocked_tasks: list[BlockedTask]
    keep_dataset: Dataset | None
    blocked_collator: Callable[[list[Any]], Any]
    input_columns: list[str]
    guard: Guard | None
    guarded_step: int
    readings: Readings
    trained_before: float
    saved_types: Mapping[str, torch.dtype]
    given_optimizer: GivenOptimizer | None
    card_words: dict[str, Any]
    current_gradient_accumulation_steps = 1  # Trainer sets it only while training
    _started = 0.0

    def prepare_hardening(self, model: PreTrainedModel) -> None:
        """What hardening has beside the ``Trainer``, made around ``model``."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """Where the hardened model goes: ``args.output_dir``."""
        return Path(self.args.output_dir or ".")

    def seconds(self) -> float:
        """Seconds trained so far, those before an interruption included."""
        return self.trained_before + (time.perf_counter() - self._started if self._started else 0.0)

    def blocked_batch(self, rows: list[dict[str, Any]]) -> Any:
        """A batch of blocked rows, where the model is."""
        return self._prepare_inputs(self.blocked_collator(rows))

    def create_optimizer(self, *arguments: Any) -> torch.optim.Optimizer:
        """As ``Trainer.create_optimizer``; where an adapter is trained, of its matrices."""
        adapter = self.objective.adapter
        return super().create_optimizer(*(arguments if adapter is None else (adapter,)))

    def hyperparameter_search(self, *_: Any, **__: Any) -> Any:
        """Refused: each trial would make a new model, and the adversaries and the original are the first one's."""
        raise NotImplementedError(
            "hyperparameter_search makes a new model for each trial: create a trainer in your own objective instead."
        )

    def plain_model(self) -> PreTrainedModel:
        """The model without what a launcher wraps around it."""
        return self.accelerator.unwrap_model(self.model)
