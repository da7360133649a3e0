"""The simulated fine-tunings of a training run: which one is due, its data, and what it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import heads
from .adversary import Adversary, LearnedAdversary
from .functional import logits
from .losses import BlockingLoss
from .meta_gradient import Batch, Episode, MetaGradient
from .meta_step import step_weights
from .tasks import BlockedTask, draw_rows, seed_of
from .training_args import SelfDestructTrainingArguments


@dataclass(frozen=True)
class Draw:
    """What one micro-step simulates.

    Attributes:
        task: The blocked task.
        number: Which adversary.
        key: What every further draw of this micro-step depends on.
        rate: The adversary's learning rate.
    """

    task: BlockedTask
    number: int
    key: tuple[Any, ...]
    rate: float


class Simulation:
    """Draws a task and an adversary for each micro-step, sets the episode up and lets the adversary learn.

    Args:
        model: The model at the start; only its architecture is used.
        args: Training arguments, filled by their preset.
        tasks: Blocked tasks.
        adversaries: Adversaries to draw from.
        losses: Blocking losses to add up.
        collate: Makes a batch on the right device from rows.
        columns: Columns the model accepts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SelfDestructTrainingArguments,
        *,
        tasks: Sequence[BlockedTask],
        adversaries: Sequence[Adversary],
        losses: Sequence[BlockingLoss],
        collate: Callable[[list[dict[str, Any]]], Batch],
        columns: Sequence[str],
    ) -> None:
        self._args, self._tasks, self._losses = args, tasks, losses
        self._collate, self._columns = collate, columns
        self.adversaries = adversaries
        # Fused attention kernels have no second derivative. A skeleton is apart from the live model,
        # whose kernel stays as it is.
        attention = "eager" if args.meta_gradient == "unrolled" else None
        self.skeletons = {t.name: heads.skeleton(model, t.classes, attention=attention) for t in tasks}
        self.learned = {
            (task.name, number): self._newcomer(task, number, adversary)
            for task in tasks
            for number, adversary in enumerate(adversaries)
        }
        self._last = (-1, 0)

    def draw(self, global_step: int) -> Draw:
        """What the next micro-step of this global step simulates."""
        micro = self._last[1] + 1 if self._last[0] == global_step else 0
        self._last = (global_step, micro)
        key: tuple[Any, ...] = (self._args.seed, global_step, micro, self._args.process_index)
        generator = torch.Generator().manual_seed(seed_of("task", *key))
        weights = torch.tensor([task.weight for task in self._tasks])
        task = self._tasks[int(torch.multinomial(weights, 1, generator=generator))]
        number = int(torch.randint(len(self.adversaries), (), generator=generator))
        adversary, key = self.adversaries[number], (task.name, *key)
        learned = self.learned[task.name, number]
        return Draw(task, number, key, learned.learning_rate if adversary.learns_rate else adversary.draw_rate(*key))

    def episode(self, model: PreTrainedModel, draw: Draw) -> Episode:
        """The fine-tuning that a draw stands for, starting from the live model's weights."""
        adversary, bones = self.adversaries[draw.number], self.skeletons[draw.task.name]
        head = self._head(adversary, draw, bones)
        # The live head is for the desired task; it takes part only where the adversary keeps it.
        trunk = heads.trunk_prefix(model) if head else ""
        published = {n: _full(p.detach()) for n, p in model.named_parameters() if n.startswith(trunk)}
        buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        trained = head or heads.head_names(model)
        return Episode(
            forward=lambda weights, batch: logits(bones, {**buffers, **weights}, batch),
            published=published,
            head=head,
            moving=frozenset(trained if adversary.trainable == "head" else [*published, *head]),
            batches=[
                self._batch(draw, draw.task.adversary_rows(), adversary.batch_size, "inner", k)
                for k in range(adversary.steps)
            ],
            held_out=self._batch(draw, draw.task.held_out_rows(), self._args.blocking_batch_size, "held-out"),
            loss=self._loss,
            step_weights=step_weights(self._args.step_weights or "", adversary.steps),
            optimizer=adversary.optimizer,
            learning_rate=torch.tensor(draw.rate, device=self._args.device),
            learns_rate=adversary.learns_rate,
            wanted=frozenset(n for n, p in model.named_parameters() if p.requires_grad),
        )

    def learn(self, draw: Draw, gradient: MetaGradient, *, share: float) -> None:
        """Hand the adversary its own gradients, to step by when the model does."""
        own = gradient.head if self.adversaries[draw.number].head == "learned" else {}
        self.learned[draw.task.name, draw.number].accumulate(own, gradient.learning_rate, share=share)

    def _newcomer(self, task: BlockedTask, number: int, adversary: Adversary) -> LearnedAdversary:
        head = {}
        if adversary.head == "learned":
            seed = seed_of("learned head", self._args.seed, task.name, number)
            head = heads.draw_head(self.skeletons[task.name], seed, device=self._args.device)
        return LearnedAdversary(adversary, head, learning_rate=self._args.adversary_head_learning_rate or 0.0)

    def _head(self, adversary: Adversary, draw: Draw, bones: PreTrainedModel) -> dict[str, Tensor]:
        if adversary.head == "random":
            return heads.draw_head(bones, seed_of("head", *draw.key), device=self._args.device)
        return self.learned[draw.task.name, draw.number].head

    def _batch(self, draw: Draw, rows: np.ndarray, size: int, *use: Any) -> Batch:
        chosen = draw_rows(rows, size, *use, *draw.key)
        return self._collate(draw.task.features("train", chosen.tolist(), self._columns))

    def _loss(self, answers: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([loss(answers, labels) for loss in self._losses]).sum()


def _full(value: Tensor) -> Tensor:
    """Half-precision weights take part in the inner loop in float32; others as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
