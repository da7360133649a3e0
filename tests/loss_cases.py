"""Losses and outputs they are tried with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_selfdestruct.losses.blocking import BLOCKING_LOSSES, HeadAdjustedCrossEntropy, View

CLASSES = (2, 3, 5, 10)
PRECISE = {"tolerance": 1e-12}
SPLIT = HeadAdjustedCrossEntropy(split=True)
EVERY_LOSS = [*(loss() for loss in BLOCKING_LOSSES.values()), SPLIT, HeadAdjustedCrossEntropy(normalize=False)]


every_loss = pytest.mark.parametrize("loss", EVERY_LOSS, ids=repr)


def model_view(labels: Tensor, *, scale: float = 1.0, seed: int = 0, mask: Tensor | None = None) -> View:
    """A linear model of 3 classes on random inputs of 4 positions, labelled once per row or at each position."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(labels), 4, 6, generator=generator, dtype=torch.float64)
    weights = scale * torch.randn(6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    inputs = hidden if labels.dim() == 2 else hidden[:, 0]
    return View(inputs @ weights, labels, (hidden, hidden.tanh()), mask, (weights, unused))


def per_position(rows: int = 8) -> Tensor:
    return torch.randint(3, (rows, 4), generator=torch.Generator().manual_seed(5))
