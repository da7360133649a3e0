"""What an episode is built from: one draw of the simulation, rows that are not blocked, and their sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ..adversaries.adversary import FineTuning
from ..adversaries.learned import LearnedAdversary
from ..adversaries.member import Member
from ..losses.base import BlockingLoss
from ..models.distributed import Processes
from ..models.stateless import StatelessModel
from ..tasks.blocked_task import BlockedTask, draw_rows
from ..tasks.rows import rows_of
from .config import HardeningConfig

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Draw:
    """What one micro-step simulates.

    Attributes:
        task: The blocked task.
        number: Which adversary.
        fine_tuning: What was drawn from it.
        key: What every further draw of this micro-step depends on.
        life: What draws depend on that hold for a whole life in a pool; by default ``key``.
        member: The pool's adversary that continues, if there is a pool.
        age: Its age before this stretch.
    """

    task: BlockedTask
    number: int
    fine_tuning: FineTuning
    key: tuple[Any, ...]
    life: tuple[Any, ...] = ()
    member: Member | None = None
    age: int = 0

    @property
    def once(self) -> tuple[Any, ...]:
        """What draws depend on that are made once in an adversary's life."""
        return self.life or self.key


@dataclass(frozen=True)
class Rows:
    """Rows that are not of a blocked task: benign steps train on them, some losses are measured on them.

    Args:
        data: The rows; ``None`` where there are none.
        columns: Columns a model accepts.
        labels: Columns with labels, kept where they exist.
        collate: Makes a batch on the right device.
    """

    data: Dataset | None
    columns: Sequence[str]
    labels: Sequence[str]
    collate: Callable[[list[dict[str, Any]]], Batch]

    def draw(self, size: int, *key: Any) -> Batch:
        """A batch decided by its key."""
        return self.batches(size, size, *key)[0]

    def batches(self, most: int, size: int, *key: Any) -> list[Batch]:
        """Batches of different rows, at most so many in all, decided by their key."""
        if self.data is None:
            raise ValueError("no map-style rows to draw from.")
        rows, wanted = draw_rows(np.arange(len(self.data)), most, *key).tolist(), {*self.columns, *self.labels}
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [self.collate(rows_of(self.data, part, wanted)) for part in parts]


@dataclass(frozen=True)
class Sources:
    """What an episode is built from, beside the live model and a draw.

    Attributes:
        config: The settings of hardening.
        skeleton: The adversary's, which runs the model on any weights.
        benign_skeleton: The live model's own, head included.
        learned: What the adversary has learned.
        losses: Blocking losses to add up.
        collate: Makes a batch of blocked rows, on the right device.
        columns: Columns a blocked task's model accepts.
        benign: The desired task's training rows, for preludes.
        general: Rows for losses that are measured on general data.
        ranks: Who simulates the adversary together.
        device: Where the simulation is computed.
    """

    config: HardeningConfig
    skeleton: StatelessModel
    benign_skeleton: StatelessModel
    learned: LearnedAdversary
    losses: Sequence[BlockingLoss]
    collate: Callable[[list[dict[str, Any]]], Batch]
    columns: Sequence[str]
    benign: Rows
    general: Rows
    ranks: Processes
    device: torch.device
