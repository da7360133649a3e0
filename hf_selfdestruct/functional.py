"""Fast weights: forwards with given weights, and pure, differentiable optimizer updates.

Nothing here changes a tensor in place. An update maps (weights, gradients, state, learning rate) to
(weights, state), so autograd can walk through any number of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Weights = dict[str, Tensor]
State = dict[str, Any]


def logits(module: nn.Module, weights: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """Logits of ``module`` run with ``weights`` (parameters and buffers by name).

    Args:
        module: A skeleton; its own weights are never read.
        weights: Every parameter and buffer the forward touches.
        batch: Model inputs; ``labels`` is left out, so no loss is computed twice.

    Returns:
        Tensor of shape ``(batch, classes)``.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return functional_call(module, dict(weights), kwargs=inputs).logits


class InnerOptimizer(ABC):
    """A pure optimizer: ``init`` makes its state, ``update`` makes new weights and a new state."""

    @abstractmethod
    def init(self, values: Sequence[Tensor]) -> State:
        """State before the first step."""

    @abstractmethod
    def update(
        self, values: Sequence[Tensor], gradients: Sequence[Tensor], state: State, learning_rate: Tensor
    ) -> tuple[list[Tensor], State]:
        """One step.

        Args:
            values: Weights.
            gradients: Gradients, aligned with ``values``.
            state: What ``init`` or the last ``update`` returned.
            learning_rate: Scalar tensor; may require a gradient.

        Returns:
            New weights and new state.
        """


@dataclass(frozen=True)
class SGD(InnerOptimizer):
    """``w <- w - lr * (g + weight_decay * w)``, with heavy-ball ``momentum`` as in ``torch.optim.SGD``."""

    momentum: float = 0.0
    weight_decay: float = 0.0

    def init(self, values: Sequence[Tensor]) -> State:  # noqa: D102
        return {"velocity": None}

    def update(  # noqa: D102
        self, values: Sequence[Tensor], gradients: Sequence[Tensor], state: State, learning_rate: Tensor
    ) -> tuple[list[Tensor], State]:
        if self.weight_decay:
            gradients = [g + self.weight_decay * w for g, w in zip(gradients, values, strict=True)]
        velocity = state["velocity"]
        if self.momentum:
            # As in torch, the first velocity is the first gradient itself.
            previous = velocity or [torch.zeros_like(g) for g in gradients]
            velocity = [self.momentum * v + g for v, g in zip(previous, gradients, strict=True)]
            gradients = velocity
        moved = [w - learning_rate * g for w, g in zip(values, gradients, strict=True)]
        return moved, {"velocity": velocity}


@dataclass(frozen=True)
class Adam(InnerOptimizer):
    """Adam (1412.6980) with decoupled ``weight_decay`` (AdamW, 1711.05101) when it is not zero.

    ``epsilon`` stands outside the square root as in torch. The derivative of the square root at 0 is
    defined as 0: a weight that got no gradient neither moves nor feels anything.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.0

    def init(self, values: Sequence[Tensor]) -> State:  # noqa: D102
        zeros = [torch.zeros_like(v) for v in values]
        return {"step": 0, "first": zeros, "second": list(zeros)}

    def update(  # noqa: D102
        self, values: Sequence[Tensor], gradients: Sequence[Tensor], state: State, learning_rate: Tensor
    ) -> tuple[list[Tensor], State]:
        step = state["step"] + 1
        first = [self.beta1 * m + (1 - self.beta1) * g for m, g in zip(state["first"], gradients, strict=True)]
        second = [self.beta2 * v + (1 - self.beta2) * g * g for v, g in zip(state["second"], gradients, strict=True)]
        rate = learning_rate / (1 - self.beta1**step)
        root = (1 - self.beta2**step) ** 0.5
        decay = 1 - learning_rate * self.weight_decay
        sqrt = _safe_sqrt if torch.is_grad_enabled() else torch.sqrt  # without a graph plain is faster
        moved = [
            decay * w - rate * m / (sqrt(v) / root + self.epsilon)
            for w, m, v in zip(values, first, second, strict=True)
        ]
        return moved, {"step": step, "first": first, "second": second}


def inner_optimizer(name: str) -> InnerOptimizer:
    """The inner optimizer behind a configuration string: ``adam`` or ``sgd``."""
    return {"adam": Adam(), "sgd": SGD()}[name]


def _safe_sqrt(value: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0; the inner ``where`` keeps 1/0 out of the backward."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)
