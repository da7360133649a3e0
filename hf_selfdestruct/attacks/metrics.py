"""Scores of predictions, metrics of the user's own, and ``evaluate`` metrics that need no download."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from ..report.attack_run import Scores
from ..tasks.classification import CLASSIFICATION, balanced_accuracy, macro_auc
from ..tasks.kind import TaskKind


def scores(
    labels: np.ndarray,
    answers: np.ndarray,
    metrics: Mapping[str, evaluate.Metric] | None = None,
    kind: TaskKind = CLASSIFICATION,
) -> Scores:
    """All scores of predictions.

    Args:
        labels: Shape ``(rows,)``.
        answers: Shape ``(rows, outputs)``; of a classification probabilities of the classes.
        metrics: Metrics of your own by name: each gets ``predictions`` (class numbers, or values) and ``references``,
            and ``prediction_scores`` (the answers) where it has a feature of that name.
        kind: The kind of task.

    Raises:
        FloatingPointError: An answer is not finite.
        ValueError: A metric of your own returns something else than one number.
    """
    if not np.isfinite(answers).all():
        raise FloatingPointError("the attacked model's outputs are not finite")
    extra = {name: _own(name, metric, labels, answers, kind) for name, metric in (metrics or {}).items()}
    found = kind.scores(labels, answers)
    return dataclasses.replace(found, extra={**found.extra, **extra})


def check_metrics(
    metrics: Mapping[str, evaluate.Metric], labels: np.ndarray, outputs: int, kind: TaskKind = CLASSIFICATION
) -> None:
    """Refuse metrics that could not score a run, by a rehearsal in which every row is labelled right.

    Args:
        metrics: By name.
        labels: Of a task's test rows.
        outputs: Of the task's head.
        kind: The kind of task.

    Raises:
        ValueError: One returns something else than one number, or a number that is not finite even there.
    """
    for name, metric in metrics.items():
        if _own(name, metric, labels, kind.right(labels, outputs), kind) is None:
            raise ValueError(f"metric {name!r} gives no finite number even where every row is labelled right.")


def _own(name: str, metric: evaluate.Metric, labels: np.ndarray, answers: np.ndarray, kind: TaskKind) -> float | None:
    """``None`` where the metric is undefined, as a correlation with predictions that are all the same is."""
    given: dict[str, Any] = {"predictions": kind.decided(answers).tolist(), "references": labels.tolist()}
    if "prediction_scores" in metric.features:
        given["prediction_scores"] = answers.tolist()
        given = {key: value for key, value in given.items() if key in metric.features}
    result = metric.compute(**given)
    values = list(result.values()) if isinstance(result, Mapping) else [result]
    if len(values) != 1 or not isinstance(values[0], int | float | np.number):
        raise ValueError(f"metric {name!r} must return one number; got {result!r}.")
    return float(values[0]) if np.isfinite(values[0]) else None


class _Metric(evaluate.Metric):
    """What the metrics of this package have in common."""

    scored = False

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        seen = {"prediction_scores": datasets.Sequence(datasets.Value("float64"))} if self.scored else {}
        features = datasets.Features({**(seen or {"predictions": number}), "references": number})
        return evaluate.MetricInfo(
            description=str(type(self).__doc__), citation="", inputs_description="", features=features
        )


class Accuracy(_Metric):
    """Share of rows labelled right.

    Example:
        >>> Accuracy().compute(predictions=[0, 1], references=[0, 0])
        {'accuracy': 0.5}
    """

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class BalancedAccuracy(_Metric):
    """Mean over classes of the share labelled right."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"balanced_accuracy": balanced_accuracy(np.asarray(references), np.asarray(predictions))}


class MacroAUC(_Metric):
    """Area under the ROC curve, one class against the rest, mean over classes; takes ``prediction_scores``."""

    scored = True

    def _compute(self, prediction_scores: Sequence[Sequence[float]], references: Sequence[int]) -> dict[str, float]:
        return {"macro_auc": macro_auc(np.asarray(references), np.asarray(prediction_scores))}
