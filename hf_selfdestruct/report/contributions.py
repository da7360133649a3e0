"""What each test row adds to a metric. Pure functions, no torch.

Every metric here is a mean over test rows of a row's contribution, so one bootstrap serves them all: accuracy
and loss are such means already; AUC and balanced accuracy are written as their value plus each row's influence on it.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from .packing import FLOOR

METRICS = ("accuracy", "auc", "balanced_accuracy", "loss")


def contributions(labels: np.ndarray, probabilities: np.ndarray, metric: str) -> np.ndarray:
    """What each row adds to a metric: the metric is their mean.

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
    """Placements of each row among those of the other label (DeLong 1988), as influences on the AUC."""
    ranks = rankdata(scores)
    placed = np.empty(len(scores))
    placed[own] = (ranks[own] - rankdata(scores[own])) / (~own).sum()
    placed[~own] = 1 - (ranks[~own] - rankdata(scores[~own])) / own.sum()
    auc = placed[own].mean()
    return auc + (placed - auc) / np.where(own, own.mean(), (~own).mean())
