"""What an optimizer of the inner loop is: a pure update of a flat vector, and its transpose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

State = dict[str, Tensor]
CHUNK = 1 << 17  # elements: small enough that every temporary of an update stays in the processor's cache


@dataclass(frozen=True)
class InnerOptimizer(ABC):
    """``w <- (1 - lr * decay) w - lr * direction(g)``; subclasses say what the direction is.

    Args:
        weight_decay: Added to the gradient times the weights (L2), or taken from the weights themselves
            where the class is ``decoupled`` (1711.05101).
    """

    weight_decay: float = 0.0
    decoupled: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    moments: ClassVar[tuple[str, ...]] = ()

    def init(self, weights: Tensor) -> State:
        """State before the first step: zeros."""
        return {name: torch.zeros_like(weights) for name in self.moments}

    def update(
        self, weights: Tensor, gradient: Tensor, state: State, step: int, learning_rate: Tensor | float
    ) -> tuple[Tensor, State]:
        """One step.

        Args:
            weights: Shape ``(n,)``.
            gradient: Shape ``(n,)``.
            state: What ``init`` or the last ``update`` returned.
            step: Number of this step, from 1.
            learning_rate: Scalar; as a tensor it may require a gradient.

        Returns:
            New weights and new state.
        """
        coupled, decay = self._decays()
        if coupled:
            gradient = gradient + coupled * weights
        direction, state = self.direction(gradient, state, step)
        kept = (1 - learning_rate * decay) * weights if decay else weights
        if isinstance(learning_rate, Tensor):
            return kept - learning_rate * direction, state
        return torch.sub(kept, direction, alpha=learning_rate), state

    @torch.no_grad()
    def advance_(self, weights: Tensor, gradient: Tensor, state: State, step: int, learning_rate: float) -> None:
        """:meth:`update` in place and without a graph."""
        for at in self._pieces(weights):
            part = {name: value[at] for name, value in state.items()}
            moved, after = self.update(weights[at], gradient[at], part, step, learning_rate)
            weights[at] = moved
            for name, value in after.items():
                state[name][at] = value

    @torch.no_grad()
    def adjoint_(
        self,
        weights: Tensor,
        gradient: Tensor,
        state: State,
        step: int,
        learning_rate: float,
        toward: Tensor,
        toward_state: State,
        *,
        out: Tensor,
        slope: bool = True,
    ) -> Tensor:
        """The transpose of one update's Jacobian, applied in place.

        Args:
            weights: The update's arguments, as they were.
            gradient: The same.
            state: The same.
            step: The same.
            learning_rate: The same.
            toward: Gradient of the objective with respect to the new weights, shape ``(n,)``; afterwards that with
                respect to the old ones, without the part that goes through the gradient.
            toward_state: With respect to the new state; afterwards to the old one.
            out: Shape ``(n,)``; afterwards the gradient with respect to the update's gradient.
            slope: Whether the gradient with respect to the rate is wanted.

        Returns:
            Gradient with respect to the rate, a scalar; 0 where it is not wanted.
        """
        rate = toward.new_zeros(())
        for at in self._pieces(weights):
            part = {name: value[at] for name, value in state.items()}
            theirs = {name: value[at] for name, value in toward_state.items()}
            here, g = toward[at], gradient[at]
            coupled, decay = self._decays()
            if coupled:
                g = g + coupled * weights[at]
            if slope:
                direction, _ = self.direction(g, part, step)
                rate -= torch.dot(here, direction + decay * weights[at] if decay else direction)
            onto, back = self.transpose(g, part, step, -learning_rate * here, theirs)
            out[at] = onto
            for name, value in back.items():
                theirs[name].copy_(value)
            if decay:
                here.mul_(1 - learning_rate * decay)
            if coupled:
                here.add_(onto, alpha=coupled)
        return rate

    @abstractmethod
    def direction(self, gradient: Tensor, state: State, step: int) -> tuple[Tensor, State]:
        """Where the weights go (before rate and sign), and the new state."""

    @abstractmethod
    def transpose(
        self, gradient: Tensor, state: State, step: int, toward: Tensor, toward_state: State
    ) -> tuple[Tensor, State]:
        """Gradients with respect to :meth:`direction`'s gradient and state, from those of its results."""

    def _decays(self) -> tuple[float, float]:
        return (0.0, self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)

    def _pieces(self, flat: Tensor) -> list[slice]:
        """Pieces whose temporaries fit the processor's cache; the whole where that would not help."""
        if not self.elementwise or flat.device.type != "cpu":
            return [slice(None)]
        return [slice(start, start + CHUNK) for start in range(0, flat.numel(), CHUNK)]
