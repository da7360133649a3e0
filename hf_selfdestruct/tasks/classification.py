"""Classification: one of several classes per row, numbered from 0."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy as nats

from ..report.attack_run import Scores
from ..report.facts import TaskFacts
from ..report.packing import FLOOR, packed, packed_labels, rounded
from .kind import LabelColumn, TaskKind


class Classification(TaskKind):
    """One of several classes per row: answers are probabilities, the score is accuracy, the loss is cross-entropy."""

    name = "classification"
    score = "accuracy"
    problem_type = "single_label_classification"

    def read(self, labels: Sequence[Any], where: str, column: str) -> np.ndarray:  # noqa: D102
        for row, label in enumerate(labels):
            if isinstance(label, bool) or not isinstance(label, int | np.integer):
                raise ValueError(
                    f"{where}, column {column!r}, row {row}: label {label!r} is not an integer; "
                    f"{class_cure(label, column)}."
                )
        return np.asarray(labels, dtype=np.int64)

    def outputs(self, column: LabelColumn, given: int | None) -> int:  # noqa: D102
        count = _count(column) if given is None else given
        _check_names(column)
        for split, labels in column.labels.items():
            _check_range(column, split, labels, count)
        return count

    def loss(self, logits: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats; a label of -100 counts for nothing."""
        return nats(logits, labels, reduction=reduction)

    def credit(self, labels: Any, answers: Any) -> Any:
        """Which rows are labelled right."""
        return answers.argmax(-1) == labels

    def facts(self, labels: np.ndarray, outputs: int) -> TaskFacts:  # noqa: D102
        majority = float(np.bincount(labels).max() / len(labels))
        return TaskFacts(majority=majority, num_labels=outputs, labels=packed_labels(labels))

    def answers(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Probabilities of the classes."""
        return logits.softmax(dim=-1)

    def recorded(self, answers: np.ndarray) -> np.ndarray:  # noqa: D102
        return rounded(answers)

    def packed(self, answers: np.ndarray) -> str:  # noqa: D102
        return packed(answers)

    def scores(self, labels: np.ndarray, answers: np.ndarray) -> Scores:
        """Accuracy, AUC, balanced accuracy and cross-entropy."""
        predicted = self.decided(answers)
        return Scores(
            float((predicted == labels).mean()),
            macro_auc(labels, answers),
            balanced_accuracy(labels, predicted),
            cross_entropy(labels, answers),
        )

    def decided(self, answers: np.ndarray) -> np.ndarray:
        """Numbers of the likeliest classes."""
        return answers.argmax(axis=1)

    def right(self, labels: np.ndarray, outputs: int) -> np.ndarray:  # noqa: D102
        return np.eye(outputs)[labels]


CLASSIFICATION = Classification()


def class_cure(label: Any, column: str) -> str:
    """How labels become whole numbers, one for each class; ``class_encode_column`` encodes texts and numbers alone."""
    if isinstance(label, str):
        return f"use dataset.class_encode_column({column!r})"
    if label is None:
        return "remove the rows without a label by filter()"
    if isinstance(label, bool):
        return f"use dataset.cast_column({column!r}, Value('int64'))"
    if isinstance(label, float) and label.is_integer():
        return f"use dataset.cast_column({column!r}, Value('int64'))"
    if isinstance(label, float):
        return "a task has one class per row, and not a quantity: make classes of it by map(), such as below and above"
    if isinstance(label, Collection):
        return "a task has one class per row: make one label of each row by map(), or one row of each label"
    return "number the classes from 0 by map()"


def macro_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve, one class against the rest, mean over classes that occur; 0.5 where none does.

    Args:
        labels: Shape ``(rows,)``.
        probabilities: Shape ``(rows, classes)``.
    """
    aucs = [
        roc_auc_score(labels == c, np.maximum(probabilities[:, c], FLOOR))
        for c in range(probabilities.shape[1])
        if 0 < (labels == c).sum() < len(labels)
    ]
    return float(np.mean(aucs)) if aucs else 0.5


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes that occur of the share labelled right."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-probability of the right class, in nats."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def _count(column: LabelColumn) -> int:
    if isinstance(feature := column.features["train"], ClassLabel):
        return int(feature.num_classes)
    found = {int(label) for labels in column.labels.values() for label in np.unique(labels)}
    count = int(column.labels["train"].max()) + 1
    if missing := sorted({*range(count)} - found):
        raise ValueError(
            f"blocked task {column.task!r}, column {column.name!r}: no label is {missing[0]}, and the largest is "
            f"{count - 1}; number the classes from 0, or say num_labels={count} if some have no rows."
        )
    return count


def _check_names(column: LabelColumn) -> None:
    """One number is one class in every split, as far as splits name their classes."""
    named = {split: feature.names for split, feature in column.features.items() if isinstance(feature, ClassLabel)}
    first = next(iter(named), "")
    for split, names in named.items():
        if names != named[first]:
            raise ValueError(
                f"blocked task {column.task!r}, column {column.name!r}: the classes are {names} in split {split!r} "
                f"and {named[first]} in split {first!r}, so a number means different classes; encode the texts of "
                f"{first} by class_encode_column(), then those of {split} by "
                f"{split}.cast_column({column.name!r}, {first}.features[{column.name!r}])."
            )


def _check_range(column: LabelColumn, split: str, labels: np.ndarray, count: int) -> None:
    where = f"blocked task {column.task!r}, split {split!r}, column {column.name!r}"
    if count < 2:
        raise ValueError(f"{where}: num_labels is {count}; a task has at least 2 classes.")
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        raise ValueError(
            f"{where}, row {wrong[0]}: label {labels[wrong[0]]} is outside 0..{count - 1} (num_labels={count})."
        )
