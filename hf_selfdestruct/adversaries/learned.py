"""What an adversary learns while training runs: its head and its rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

RATE_BOUNDS = (1e-6, 1e-2)  # the reference code of MLAC clamps its learned rate to these


class LearnedAdversary:
    """What an adversary learns about one task: its head and the logarithm of its rate.

    It takes the opposite side: it minimises the blocked task's loss at the fast weights, by its own
    Adam, while the model raises it.

    Args:
        head: Starting head (empty where the head is not learned).
        rate: Starting rate of the inner steps; it is learned within 1e-6 to 1e-2, or from there to where it
            starts.
        learns_rate: Whether that rate is learned.
        learning_rate: Adam rate for the head; the log rate moves ten times as fast.
    """

    def __init__(self, head: Mapping[str, Tensor], *, rate: float, learns_rate: bool, learning_rate: float) -> None:
        self.head = {name: value.detach().clone() for name, value in head.items()}
        device = next(iter(self.head.values())).device if self.head else "cpu"
        self.log_rate = torch.tensor(math.log(rate), dtype=torch.float32, device=device)
        self._bounds = math.log(min(rate, RATE_BOUNDS[0])), math.log(max(rate, RATE_BOUNDS[1]))
        groups: list[dict[str, Any]] = []
        if self.head:
            groups.append({"params": list(self.head.values()), "lr": learning_rate})
        if learns_rate:
            groups.append({"params": [self.log_rate], "lr": 10 * learning_rate})
        self._optimizer = torch.optim.Adam(groups) if groups else None

    @property
    def learning_rate(self) -> float:
        """The current learned rate."""
        return math.exp(self.log_rate.item())

    def accumulate(self, head: Mapping[str, Tensor], rate: float | None, *, share: float) -> None:
        """Add ``share`` of the gradients of the blocked task's loss, for the head and for the rate itself."""
        for name, gradient in head.items():
            _add_gradient(self.head[name], share * gradient)
        if rate is not None:
            # d/d log r = r d/dr
            _add_gradient(self.log_rate, torch.full_like(self.log_rate, share * rate * self.learning_rate))

    @property
    def drawn(self) -> bool:
        """Whether any gradient has come in since the last step."""
        return any(value.grad is not None for value in self._learned().values())

    def gradients(self) -> list[Tensor]:
        """The accumulated gradients of all that is learned, 0 where none came in; to be averaged in place."""
        values = (
            [value for group in self._optimizer.param_groups for value in group["params"]] if self._optimizer else []
        )
        for value in values:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        return [value.grad for value in values]

    def step(self) -> None:
        """One Adam step from the accumulated gradients, which are then forgotten."""
        if self._optimizer is None:
            return
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.log_rate.clamp_(*self._bounds)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly, as a flat dictionary of tensors."""
        state = {f"head.{name}": value.detach() for name, value in self.head.items()}
        state["log_rate"] = self.log_rate.detach()
        for name, value in self._learned().items():
            for key, moment in (self._optimizer.state[value] if self._optimizer else {}).items():
                state[f"adam.{key}.{name}"] = moment
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
        for name, value in self._learned().items():
            value.data.copy_(state[name])
            moments = {
                (kind := key.split(".", 2)[1]): moment.to("cpu" if kind == "step" else value.device, copy=True)
                for key, moment in state.items()
                if key.startswith("adam.") and key.split(".", 2)[2] == name
            }
            if self._optimizer:
                self._optimizer.state[value] = moments

    def _learned(self) -> dict[str, Tensor]:
        return {**{f"head.{name}": value for name, value in self.head.items()}, "log_rate": self.log_rate}


def _add_gradient(value: Tensor, gradient: Tensor) -> None:
    value.grad = gradient.detach().clone() if value.grad is None else value.grad + gradient.detach()
