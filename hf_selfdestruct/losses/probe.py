"""Blocking losses beyond the logits: on the adversary's gradient and on its hidden states.

MLAC trained a linear probe per inner step. These probes are ridge regressions in closed form: equivalent to a probe
trained to convergence on one half of the rows and scored on the other, but without stored weights and training steps.
The solution uses only inner products of rows, so layers of any width are solved together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils.rnn import pad_sequence

from ..models.pooling import pool
from .base import BlockingLoss, View

_MLAC = "Henderson, Mitchell et al. 2023, Self-Destructing Models, arXiv:2211.14946"
_POOLINGS = ("mean", "first", "last")
_SMALLEST = 1e-6  # features with a smaller root mean square count as constant


@dataclass(frozen=True)
class GradientNorm(BlockingLoss):
    """Euclidean norm of the gradient of the blocked cross-entropy with respect to the adversary's weights.

    In [0, inf): at 0 the adversary has no gradient to follow. Not flip-proof: a perfect classifier has no gradient
    either, so combine this loss with another one.
    """

    citation = _MLAC
    second_order = True

    def forward(self, view: View) -> Tensor:  # noqa: D102
        if not view.weights:
            raise ValueError("GradientNorm needs the adversary's trained weights; pass View(..., weights=...)")
        loss = cross_entropy(*view.counted())
        gradients = torch.autograd.grad(loss, list(view.weights), create_graph=True, allow_unused=True)
        square = sum((g.square().sum() for g in gradients if g is not None), start=0 * loss)
        return torch.where(square == 0, 1.0, square).sqrt() * (square != 0)  # the derivative at 0 is 0


@dataclass(frozen=True)
class RepresentationProbe(BlockingLoss):
    """Share of the blocked labels' variance that layer probes explain, averaged over layers.

    Layer probes are ridge regressions in closed form with two-fold cross-validation: fitted on every second row, scored
    on the rest, and vice versa (see :func:`variance_explained`). In [0, 1]; flip-proof and scale-proof.
    If every position has a label, each position is a row of the regression; otherwise positions are pooled.

    Args:
        ridge: Penalties, relative to the mean squared length of a centred row of features; of each layer, the one that
            explains most counts. A low one alone overfits a batch of many classes, and gives no gradient then.
        layers: Indices of the hidden states; negative indices count from the last. By default all.
        pooling: ``"mean"``, ``"first"`` or ``"last"`` of the positions in the mask.
    """

    ridge: float | Sequence[float] = (0.1, 1.0)
    layers: tuple[int, ...] | None = None
    pooling: str = "mean"
    citation = _MLAC
    wants_hidden_states = True
    fewest_rows = 4  # two to fit on and two to score on

    def __post_init__(self) -> None:
        super().__post_init__()
        fine = [isinstance(one, int | float) and math.isfinite(one) and one > 0 for one in self._ridges()]
        self._check(bool(fine) and all(fine), "ridge", "finite and above 0, or several such numbers")
        self._check(self.pooling in _POOLINGS, "pooling", f"one of {', '.join(_POOLINGS)}")

    def forward(self, view: View) -> Tensor:  # noqa: D102
        here, states = view.counts(), view.hidden_states
        if not states:
            raise ValueError("RepresentationProbe needs hidden states; pass View(..., hidden_states=...)")
        rows = int((here.flatten(1).any(1) if here.dim() > 1 else here).sum())
        if rows < self.fewest_rows:
            raise ValueError(
                f"RepresentationProbe needs at least {self.fewest_rows} rows to fit and score on, got {rows}"
            )
        chosen = range(len(states)) if self.layers is None else self.layers
        known = all(-len(states) <= layer < len(states) for layer in chosen)
        self._check(known and len(chosen) > 0, "layers", f"some of the {len(states)} that have hidden states")
        # One layer at a time: stacking before pooling would copy all activations.
        pooled = [states[i] if here.dim() > 1 else pool(states[i], view.mask, self.pooling) for i in chosen]
        features = [states[here] for states in pooled]
        return variance_explained(features, view.labels[here], view.half(), ridge=self._ridges()).mean()

    def _ridges(self) -> tuple[float, ...]:
        return (self.ridge,) if isinstance(self.ridge, int | float) else tuple(self.ridge)


def variance_explained(features: Sequence[Tensor], labels: Tensor, half: Tensor, *, ridge: Sequence[float]) -> Tensor:
    """Share of the labels' variance that probes explain on held-out rows.

    Each layer's features are centred and scaled to unit root mean square with the statistics of the fitting rows. Ridge
    regression of the centred one-hot labels on these features predicts the held-out rows. The residual is compared with
    that of predicting the class frequencies of the fitting rows. The result is the mean over both folds; a fold with
    constant labels counts as 0.

    Args:
        features: Features of each layer, shape ``(rows, width)``; widths may differ.
        labels: Shape ``(rows,)``, integers.
        half: Shape ``(rows,)``, true for one half of the rows.
        ridge: Penalties, relative to the mean squared length of a row.

    Returns:
        One value in [0, 1] for each layer, by the penalty that explains most of it.
    """
    centred = [f - f.mean(0) for f in features]  # a large common offset would cost precision
    stacked = pad_sequence([f.T for f in centred], batch_first=True)  # padding with zeros preserves inner products
    inner = stacked.mT @ stacked
    floor = _SMALLEST**2 * labels.new_tensor([f.shape[1] for f in features]).view(-1, 1, 1)
    targets = one_hot(labels.unique(return_inverse=True)[1]).to(inner)
    return torch.stack([_explained(inner, floor, targets, fit, ridge) for fit in (half, ~half)]).mean(0).amax(0)


def _explained(inner: Tensor, floor: Tensor, targets: Tensor, fit: Tensor, ridge: Sequence[float]) -> Tensor:
    """Compute one fold of :func:`variance_explained`, ``(penalties, layers)``, from inner products of rows."""
    fitting = inner[:, fit]
    inner = inner - fitting.mean(1, keepdim=True) - fitting.mean(1).unsqueeze(-1)
    inner = inner + fitting[..., fit].mean((1, 2), keepdim=True)
    among = inner[:, fit][..., fit]
    scale = among.diagonal(0, 1, 2).mean(1).view(-1, 1, 1) + floor
    among, across = among / scale, inner[:, ~fit][..., fit] / scale
    targets = targets - targets[fit].mean(0)
    wanted, eye = targets[fit].expand(len(inner), -1, -1), torch.eye(len(targets[fit])).to(inner)
    solved = [torch.cholesky_solve(wanted, torch.linalg.cholesky_ex(among + one * eye)[0]) for one in ridge]
    left = torch.stack([(targets[~fit] - across @ weights).square().sum((1, 2)) for weights in solved])
    share = 1 - left / targets[~fit].square().sum().clamp(min=1e-12)
    mixed = all(part.numel() and (part != part[0]).any() for part in (targets[fit], targets[~fit]))
    return share.clamp(min=0) if mixed else 0 * share
