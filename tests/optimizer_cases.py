"""Inner optimizers and what they step on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_selfdestruct.adversaries.optimizer import InnerOptimizer
from hf_selfdestruct.adversaries.optimizers import INNER_OPTIMIZERS, SGD, Adagrad, Adam, AdamW, NormalizedSGD, RMSprop

SIZE, RATE = 11, 0.07
VARIANTS = {
    **INNER_OPTIMIZERS,
    "sgd-decay": SGD(weight_decay=0.2),
    "momentum-decay": SGD(momentum=0.8, weight_decay=0.2),
    "nesterov-decay": SGD(momentum=0.8, nesterov=True, weight_decay=0.2),
    "normalized_sgd-decay": NormalizedSGD(weight_decay=0.2),
    "adam-betas-epsilon": Adam(beta1=0.7, beta2=0.9, epsilon=1e-2),
    "adam-decay": Adam(weight_decay=0.3),
    "adamw-decay": AdamW(weight_decay=0.3),
    "rmsprop-decay": RMSprop(alpha=0.8, epsilon=1e-3, weight_decay=0.3),
    "rmsprop-momentum": RMSprop(momentum=0.9),
    "rmsprop-momentum-decay": RMSprop(momentum=0.7, weight_decay=0.3),
    "adagrad-decay": Adagrad(epsilon=1e-3, weight_decay=0.3),
}


every_variant = pytest.mark.parametrize("optimizer", VARIANTS.values(), ids=VARIANTS)


def vector(seed: int, size: int = SIZE) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def objective(weights: Tensor, step: int) -> Tensor:
    """A different non-quadratic function in every step, with gradients of very different sizes."""
    sizes = torch.logspace(-2, 1, weights.numel(), dtype=weights.dtype)
    return (sizes * ((weights - 0.3 * step).sin() + 0.1 * weights.square())).sum()


def some_state(optimizer: InnerOptimizer, size: int = SIZE) -> dict[str, Tensor]:
    """A state in the middle of a run: second moments and sums are not negative, and 0 in two places."""
    state = {name: vector(50 + i, size) for i, name in enumerate(optimizer.init(vector(0, size)))}
    for name in {"second", "sum"} & {*state}:
        state[name] = state[name].square()
        state[name][2:4] = 0
    return state


def some_gradient(size: int = SIZE) -> Tensor:
    """A gradient that is 0 in three places, one of them where a second moment is 0 too."""
    gradient = vector(3, size)
    gradient[[1, 2, 7]] = 0
    return gradient


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return {*state} == {*other} and all(torch.equal(state[name], value) for name, value in other.items())
