"""What is particular to a kind of task: its labels, its head, its loss, its score, and what a report states of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..report.attack_run import Scores
from ..report.facts import TaskFacts


@dataclass(frozen=True)
class LabelColumn:
    """The label column of a task, in every split.

    Attributes:
        task: The task's name, for messages.
        name: The column's name.
        features: Split to the column's type, as ``datasets`` has it.
        labels: Split to its labels, as :meth:`TaskKind.read` gives them.
    """

    task: str
    name: str
    features: Mapping[str, Any]
    labels: Mapping[str, np.ndarray]


class TaskKind(ABC):
    """Everything that hardening, attacks and reports ask of a kind of task beyond its rows; ``BlockedTask(kind=)``.

    A kind scores one row after the other, so that a score is a mean over rows. Methods that are not abstract suit a
    head that answers a row with one value.

    Attributes:
        name: What errors, losses and attacks call the kind.
        score: What tables, plots and logs call its score: letters, digits, spaces, ``_`` and ``-``.
        problem_type: By which ``transformers`` chooses a head's loss (``PretrainedConfig.problem_type``).
        model_class: The ``AutoModelFor...`` class whose published head is fine-tuned to such a task; ``None`` where
            fine-tuning adds a new head.
        token_bytes: The bytes that each token stands for, where rows are scored token by token.
        running_text: Whether neighbouring rows are of one text, so that a part to choose on is cut from the end.
    """

    name: ClassVar[str]
    score: ClassVar[str]
    problem_type: ClassVar[str]
    model_class: ClassVar[Any] = None
    token_bytes: tuple[int, ...] = ()
    running_text: ClassVar[bool] = False

    @abstractmethod
    def read(self, labels: Sequence[Any], where: str, column: str) -> np.ndarray:
        """Labels of a split as an array, shape ``(rows,)``.

        Args:
            labels: Cells of the column.
            where: Task and split, for messages.
            column: The column's name, for messages.

        Raises:
            ValueError: A cell is no label of this kind; the message names the row and the cure.
        """

    @abstractmethod
    def outputs(self, column: LabelColumn, given: int | None) -> int:
        """Number of outputs of the head (``num_labels``), checked against the labels of every split.

        Args:
            column: The label column.
            given: What the user says, if anything.

        Raises:
            ValueError: The splits do not agree with it, or with each other.
        """

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
        """What fine-tuning minimises.

        Args:
            logits: Shape ``(rows, outputs)``.
            labels: Shape ``(rows,)``.
            reduction: ``mean`` or ``sum``.
        """

    @abstractmethod
    def credit(self, labels: Any, answers: Any) -> Any:
        """What each row adds to the score, which is the mean; the more, the better the answer.

        Args:
            labels: Array or tensor, shape ``(rows,)``.
            answers: The same of shape ``(rows, outputs)``: what :meth:`answers` makes, or the logits.
        """

    @abstractmethod
    def facts(self, labels: np.ndarray, outputs: int) -> TaskFacts:
        """What a report states of a task: the score's name and what the best constant answer scores.

        Args:
            labels: Of the test rows.
            outputs: Of the head.
        """

    def padded(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows that any collator makes a batch of; as they are where the collator pads."""
        return rows

    def targets(self, labels: Tensor) -> Tensor:
        """Labels of a batch, each in the place of the logits that should predict it."""
        return labels

    def answers(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """What a model says of rows, from its logits, ``(rows, outputs)``.

        Args:
            logits: As the head gives them.
            labels: As the collator gives them; ``None`` where a batch has none.
        """
        return logits

    def recorded(self, answers: np.ndarray) -> np.ndarray:
        """Answers as they go on record; scores are computed from these."""
        return answers

    def packed(self, answers: np.ndarray) -> str:
        """Answers as the text that a report holds; empty where they are not on record."""
        return ""

    def scores(self, labels: np.ndarray, answers: np.ndarray) -> Scores:
        """The score and the loss of answers.

        Args:
            labels: Shape ``(rows,)``.
            answers: Shape ``(rows, outputs)``.
        """
        loss = self.loss(torch.from_numpy(answers).double(), torch.from_numpy(labels).double())
        return Scores(None, None, None, float(loss), score=float(self.credit(labels, answers).mean()))

    def decided(self, answers: np.ndarray) -> np.ndarray:
        """One prediction per row, as a metric of the user's own compares with the labels."""
        return answers[:, 0]

    def right(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        """Answers that are right, shape ``(rows, outputs)``."""
        return labels[:, None]
