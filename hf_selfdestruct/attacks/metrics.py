"""Metrics of classification: pure functions, and the same as ``evaluate`` metrics that need no download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import roc_auc_score

from ..report.attack_run import Scores
from ..report.packing import FLOOR


def scores(
    labels: np.ndarray, probabilities: np.ndarray, metrics: Mapping[str, evaluate.Metric] | None = None
) -> Scores:
    """All scores of predictions.

    Args:
        labels: Shape ``(rows,)``.
        probabilities: Shape ``(rows, classes)``.
        metrics: Metrics of your own by name: each gets ``predictions`` (class numbers) and ``references``, and
            ``prediction_scores`` where it has a feature of that name.

    Raises:
        FloatingPointError: A probability is not finite.
        ValueError: A metric of your own returns something else than one number.
    """
    if not np.isfinite(probabilities).all():
        raise FloatingPointError("the attacked model's outputs are not finite")
    predicted = probabilities.argmax(axis=1)
    extra = {name: _own(name, metric, labels, probabilities) for name, metric in (metrics or {}).items()}
    return Scores(
        float((predicted == labels).mean()),
        macro_auc(labels, probabilities),
        balanced_accuracy(labels, predicted),
        cross_entropy(labels, probabilities),
        extra,
    )


def check_metrics(metrics: Mapping[str, evaluate.Metric], labels: np.ndarray, classes: int) -> None:
    """Refuse metrics that could not score a run, by a rehearsal in which every row is labelled right.

    Raises:
        ValueError: One returns something else than one number, or a number that is not finite even there.
    """
    for name, metric in metrics.items():
        if _own(name, metric, labels, np.eye(classes)[labels]) is None:
            raise ValueError(f"metric {name!r} gives no finite number even where every row is labelled right.")


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


def _own(name: str, metric: evaluate.Metric, labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """``None`` where the metric is undefined, as a correlation with predictions that are all the same is."""
    given: dict[str, Any] = {"predictions": probabilities.argmax(axis=1).tolist(), "references": labels.tolist()}
    if "prediction_scores" in metric.features:
        given["prediction_scores"] = probabilities.tolist()
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
