"""Linear concept erasure in closed form: the predictive directions, and the smallest change that erases a concept.

LEACE, Belrose et al. 2023, arXiv:2306.03819, theorem 4.3: with whitening ``W = C_xx^(-1/2)`` and ``P`` the orthogonal
projection onto the columns of ``W C_xz``, the map is ``r(x) = x - W^+ P W (x - mean)``. For two classes, one direction
suffices against linear probes of the same features. It does not suffice if the features are trained further:
:func:`directions` then finds several sets of directions in turn, as INLP does (Ravfogel et al. 2020,
arXiv:2004.07667), with ridge regressions instead of support vector machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

RIDGE = 0.1  # relative to the mean variance of a feature
_LEAST = 1e-6  # directions with less variance than this share of the largest are not changed


@dataclass(frozen=True, eq=False)
class Erasure:
    """An affine map ``x - left @ right @ (x - mean)`` of rank below the number of classes.

    Attributes:
        mean: Shape ``(width,)``.
        left: Shape ``(width, rank)``.
        right: Shape ``(rank, width)``.
    """

    mean: Tensor
    left: Tensor
    right: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Erase the concept from states of shape ``(..., width)``.

        The map is affine, so the mean over erased positions equals the erased mean.
        """
        mean, left, right = (part.to(states) for part in (self.mean, self.left, self.right))
        return states - (states - mean) @ right.T @ left.T


def leace(tasks: Sequence[tuple[Tensor, Tensor]]) -> Erasure:
    """Fit the erasure of one or several concepts.

    For one task the guarantee is exact on the given rows: the class means become equal, so no linear classifier beats
    the best constant one. Several tasks share the covariance of all rows.

    Args:
        tasks: For each task, features of shape ``(rows, width)`` and integer labels of shape ``(rows,)``.

    Example:
        >>> rows = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 1.0], [4.0, 3.0]])
        >>> leace([(rows, torch.tensor([0, 0, 1, 1]))])(rows)[:, 0].tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    centred = [(features.double() - features.double().mean(0), labels) for features, labels in tasks]
    everything = torch.cat([features.double() for features, _ in tasks])
    mean = everything.mean(0)
    values, vectors = torch.linalg.eigh((everything - mean).T @ (everything - mean) / len(everything))
    kept = values > _LEAST * values[-1]
    scale, basis = values[kept].sqrt(), vectors[:, kept]
    crossed = [
        features.T @ (hot - hot.mean(0)) / len(features)
        for features, labels in centred
        for hot in [one_hot(labels.unique(return_inverse=True)[1]).double()]
    ]
    whitened = (basis / scale).T @ torch.cat(crossed, dim=1)
    left, strengths, _ = torch.linalg.svd(whitened, full_matrices=False)
    directions = left[:, strengths > 1e-9 * strengths[:1]] if strengths.any() else left[:, :0]
    return Erasure(mean, (basis * scale) @ directions, directions.T @ (basis / scale).T)


def directions(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Find directions of the features that predict the classes, the most predictive first.

    Each round fits a ridge regression of the classes and projects the features onto the complement of its weights.

    Args:
        features: Shape ``(rows, width)``.
        labels: Integers of shape ``(rows,)``.
        count: Number of directions.

    Returns:
        Orthonormal columns, shape ``(width, count)`` in float64; fewer if no predictive direction remains.
    """
    hot = one_hot(labels.unique(return_inverse=True)[1]).double()
    rest, wanted = features.double() - features.double().mean(0), hot - hot.mean(0)
    ridge = RIDGE * rest.square().mean() * torch.eye(rest.shape[1]).to(rest)
    found, least = rest.new_zeros(rest.shape[1], 0), 0.0
    while found.shape[1] < count:
        weights = torch.linalg.solve(rest.T @ rest / len(rest) + ridge, rest.T @ wanted / len(rest))
        left, strengths, _ = torch.linalg.svd(weights - found @ (found.T @ weights), full_matrices=False)
        least = least or 1e-6 * strengths.max().item()  # smaller values are rounding errors
        new = left[:, strengths > least][:, : count - found.shape[1]]
        if not new.shape[1]:
            break
        found = torch.cat([found, new], dim=1)
        rest = rest - rest @ new @ new.T
    return found
