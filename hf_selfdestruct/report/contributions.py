"""Contributions of test rows to a metric. Pure functions, no torch.

Every metric is the mean of the rows' contributions, so the same bootstrap works for all metrics. Accuracy and loss are
means by definition; the contributions to AUC and balanced accuracy are the metric's value plus the row's influence.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from .packing import FLOOR

METRICS = ("accuracy", "auc", "balanced_accuracy", "loss")


def contributions(labels: np.ndarray, probabilities: np.ndarray, metric: str) -> np.ndarray:
    """Compute each row's contribution to a metric; their mean is the metric.

    Args:
        labels: Shape ``(rows,)``.
        probabilities: Shape ``(rows, classes)``.
        metric: One of :data:`METRICS`.

    Returns:
        Shape ``(rows,)``.
    """
    hits = (probabilities.argmax(axis=1) == labels).astype(float)
    if metric == "accuracy":
        return hits
    if metric == "loss":
        return -np.log(probabilities[np.arange(len(labels)), labels])
    present = np.unique(labels)
    if metric == "balanced_accuracy":
        return np.mean([_recall_parts(labels == c, hits) for c in present], axis=0)
    if len(present) < 2:
        return np.full(len(labels), 0.5)
    return np.mean([_auc_parts(labels == c, np.maximum(probabilities[:, c], FLOOR)) for c in present], axis=0)


def _recall_parts(own: np.ndarray, hits: np.ndarray) -> np.ndarray:
    recall = hits[own].mean()
    return recall + np.where(own, (hits - recall) / own.mean(), 0.0)


def _auc_parts(own: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Placement values of each row among the rows of the other label (DeLong 1988), as influences on the AUC."""
    ranks = rankdata(scores)
    placed = np.empty(len(scores))
    placed[own] = (ranks[own] - rankdata(scores[own])) / (~own).sum()
    placed[~own] = 1 - (ranks[~own] - rankdata(scores[~own])) / own.sum()
    auc = placed[own].mean()
    return auc + (placed - auc) / np.where(own, own.mean(), (~own).mean())
