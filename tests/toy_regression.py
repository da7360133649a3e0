"""A second kind of task, whole: a quantity per row, a loss that blocks it, a suite that attacks it, and toy rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import mse_loss
from toy_models import toy_rows

from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning
from hf_selfdestruct.losses import BlockingLoss, View
from hf_selfdestruct.report.facts import TaskFacts
from hf_selfdestruct.tasks.blocked_task import BlockedTask
from hf_selfdestruct.tasks.kind import LabelColumn, TaskKind


class Regression(TaskKind):
    """One quantity per row: the score is R², the loss the mean squared error."""

    name = "regression"
    score = "R2"
    problem_type = "regression"

    def read(self, labels: Sequence[Any], where: str, column: str) -> np.ndarray:
        found = np.asarray(labels)
        if found.dtype.kind not in "fi" or not np.isfinite(found).all():
            raise ValueError(f"{where}, column {column!r}: labels must be finite numbers.")
        return found.astype(np.float32)

    def outputs(self, column: LabelColumn, given: int | None) -> int:
        return 1

    def loss(self, logits: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
        return mse_loss(logits[..., 0], labels, reduction=reduction)

    def credit(self, labels: Any, answers: Any) -> Any:
        return 1 - (answers[..., 0] - labels) ** 2 / ((labels - labels.mean()) ** 2).mean()

    def facts(self, labels: np.ndarray, outputs: int) -> TaskFacts:
        return TaskFacts(majority=0.0, score=self.score)  # the best constant answer is the mean


@dataclass(frozen=True)
class Correlation(BlockingLoss):
    """Squared correlation of answers and labels: in [0, 1], flip-proof."""

    kinds = ("regression",)

    def forward(self, view: View) -> Tensor:
        answers, labels = view.counted()
        x, y = answers[:, 0] - answers.mean(), labels - labels.mean()
        return (x @ y).square() / (x @ x * (y @ y)).clamp(min=1e-12)


TUNING = FullFineTuning(learning_rates=(1e-3, 1e-2), steps=(24,))
SUITE = AttackSuite("regression", 1, (Entry(TUNING, (None,)),), seeds=1, few_seeds=0, more=None, null=False)


def sized_rows(rows: int, seed: int) -> Dataset:
    """Toy rows whose ``size`` is read off the blocked word, but for some noise."""
    data = toy_rows(rows, seed=seed, columns=("blocked",))
    noise = np.random.default_rng(seed).normal(size=rows)
    return data.add_column("size", (2.0 * np.asarray(data["blocked"]) - 1 + 0.3 * noise).tolist())


def sized_task(**fields: Any) -> BlockedTask:
    """A blocked regression on toy rows."""
    splits = {role: sized_rows(60, 10 + i) for i, role in enumerate(("train", "attack", "test"))}
    return BlockedTask(**{"name": "size", **splits, "label_column": "size", "kind": Regression(), **fields})
