"""Optimizers of the inner loop: pure, differentiable updates of flat vectors, each with its transpose.

``update`` changes nothing in place, so autograd can walk through any number of steps; ``adjoint`` is the same
derivative in closed form, for the walk backwards without a graph. In float64 each equals its namesake in
``torch.optim`` step for step, epsilon (outside the square root, as in torch) being the only changed default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .optimizer import InnerOptimizer, State


@dataclass(frozen=True)
class SGD(InnerOptimizer):
    """Stochastic gradient descent, with heavy-ball or Nesterov ``momentum`` where it is not zero."""

    momentum: float = 0.0
    nesterov: bool = False
    moments: ClassVar[tuple[str, ...]] = ("velocity",)

    def init(self, weights: Tensor) -> State:  # noqa: D102
        return super().init(weights) if self.momentum else {}

    def direction(self, gradient: Tensor, state: State, step: int) -> tuple[Tensor, State]:  # noqa: D102
        if not self.momentum:
            return gradient, {}
        velocity = self.momentum * state["velocity"] + gradient
        return (gradient + self.momentum * velocity if self.nesterov else velocity), {"velocity": velocity}

    def transpose(  # noqa: D102
        self, gradient: Tensor, state: State, step: int, toward: Tensor, toward_state: State
    ) -> tuple[Tensor, State]:
        if not self.momentum:
            return toward, {}
        velocity = toward_state["velocity"] + (self.momentum * toward if self.nesterov else toward)
        return (velocity + toward if self.nesterov else velocity), {"velocity": self.momentum * velocity}


@dataclass(frozen=True)
class NormalizedSGD(InnerOptimizer):
    """``g / ||g||``, the norm taken over all weights together: the step of Booster (2409.01586)."""

    elementwise: ClassVar[bool] = False

    def direction(self, gradient: Tensor, state: State, step: int) -> tuple[Tensor, State]:  # noqa: D102
        return gradient / _norm(gradient), {}

    def transpose(  # noqa: D102
        self, gradient: Tensor, state: State, step: int, toward: Tensor, toward_state: State
    ) -> tuple[Tensor, State]:
        norm = _norm(gradient)
        unit = gradient / norm
        return (toward - unit * torch.dot(unit, toward)) / norm, {}


@dataclass(frozen=True)
class Adam(InnerOptimizer):
    """Adam (1412.6980).

    The derivative of the square root at 0 is defined as 0: a weight that got no gradient neither moves nor
    feels anything.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    moments: ClassVar[tuple[str, ...]] = ("first", "second")

    def direction(self, gradient: Tensor, state: State, step: int) -> tuple[Tensor, State]:  # noqa: D102
        after = self._moments(gradient, state)
        scale, epsilon = self._correction(step)
        return scale * after["first"] / (_sqrt(after["second"]) + epsilon), after

    def transpose(  # noqa: D102
        self, gradient: Tensor, state: State, step: int, toward: Tensor, toward_state: State
    ) -> tuple[Tensor, State]:
        after = self._moments(gradient, state)
        scale, epsilon = self._correction(step)
        root = _sqrt(after["second"])
        share = scale * toward / (root + epsilon)
        first = toward_state["first"] + share
        second = toward_state["second"] - _divided(share * after["first"] / (root + epsilon), 2 * root)
        onto = (1 - self.beta1) * first + 2 * (1 - self.beta2) * gradient * second
        return onto, {"first": self.beta1 * first, "second": self.beta2 * second}

    def _moments(self, gradient: Tensor, state: State) -> State:
        first = torch.lerp(state["first"], gradient, 1 - self.beta1)
        second = torch.addcmul(self.beta2 * state["second"], gradient, gradient, value=1 - self.beta2)
        return {"first": first, "second": second}

    def _correction(self, step: int) -> tuple[float, float]:
        """Bias correction: scale of the direction, and epsilon beside the uncorrected square root."""
        root = (1 - self.beta2**step) ** 0.5
        return root / (1 - self.beta1**step), self.epsilon * root


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (1711.05101)."""

    weight_decay: float = 0.01
    decoupled: ClassVar[bool] = True


@dataclass(frozen=True)
class RMSprop(InnerOptimizer):
    """RMSprop: the gradient over a running root mean square; with ``momentum``, as in torch."""

    alpha: float = 0.99
    epsilon: float = 1e-6
    momentum: float = 0.0
    moments: ClassVar[tuple[str, ...]] = ("second", "velocity")

    def init(self, weights: Tensor) -> State:  # noqa: D102
        names = self.moments if self.momentum else self.moments[:1]
        return {name: torch.zeros_like(weights) for name in names}

    def direction(self, gradient: Tensor, state: State, step: int) -> tuple[Tensor, State]:  # noqa: D102
        second = torch.addcmul(self.alpha * state["second"], gradient, gradient, value=1 - self.alpha)
        scaled = gradient / (_sqrt(second) + self.epsilon)
        if not self.momentum:
            return scaled, {"second": second}
        velocity = self.momentum * state["velocity"] + scaled
        return velocity, {"second": second, "velocity": velocity}

    def transpose(  # noqa: D102
        self, gradient: Tensor, state: State, step: int, toward: Tensor, toward_state: State
    ) -> tuple[Tensor, State]:
        back: State = {}
        if self.momentum:
            toward = toward + toward_state["velocity"]
            back["velocity"] = self.momentum * toward
        root = _sqrt(torch.addcmul(self.alpha * state["second"], gradient, gradient, value=1 - self.alpha))
        share = toward / (root + self.epsilon)
        second = toward_state["second"] - _divided(share * gradient / (root + self.epsilon), 2 * root)
        return share + 2 * (1 - self.alpha) * gradient * second, {"second": self.alpha * second, **back}


@dataclass(frozen=True)
class Adagrad(InnerOptimizer):
    """Adagrad: the gradient over the root of the sum of its squares."""

    epsilon: float = 1e-6
    moments: ClassVar[tuple[str, ...]] = ("sum",)

    def direction(self, gradient: Tensor, state: State, step: int) -> tuple[Tensor, State]:  # noqa: D102
        total = torch.addcmul(state["sum"], gradient, gradient)
        return gradient / (_sqrt(total) + self.epsilon), {"sum": total}

    def transpose(  # noqa: D102
        self, gradient: Tensor, state: State, step: int, toward: Tensor, toward_state: State
    ) -> tuple[Tensor, State]:
        root = _sqrt(torch.addcmul(state["sum"], gradient, gradient))
        share = toward / (root + self.epsilon)
        total = toward_state["sum"] - _divided(share * gradient / (root + self.epsilon), 2 * root)
        return share + 2 * gradient * total, {"sum": total}


INNER_OPTIMIZERS: dict[str, InnerOptimizer] = {
    "sgd": SGD(),
    "momentum": SGD(momentum=0.9),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    "normalized_sgd": NormalizedSGD(),
    "adam": Adam(),
    "adamw": AdamW(),
    "rmsprop": RMSprop(),
    "adagrad": Adagrad(),
}


def _sqrt(value: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0; the inner ``where`` keeps 1/0 out of the backward."""
    if not torch.is_grad_enabled():
        return value.sqrt()
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


def _divided(above: Tensor, below: Tensor) -> Tensor:
    """``above / below``, 0 where ``below`` is 0."""
    return torch.where(below > 0, above / below, 0.0)


def _norm(gradient: Tensor) -> Tensor:
    """Length of a gradient, 1 where it is 0: such a gradient moves nothing."""
    square = gradient.square().sum()
    return torch.where(square > 0, _sqrt(square), 1.0)
