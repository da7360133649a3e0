"""The adversary: a distribution over fine-tuning recipes that improves while training runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .functional import Adam, InnerOptimizer
from .tasks import seed_of

RATE_BOUNDS = (1e-6, 1e-2)  # the reference code of MLAC clamps its learned rate to these


@dataclass(frozen=True)
class Adversary:
    """How the simulated fine-tuning goes about it.

    Args:
        optimizer: Pure inner optimizer.
        learning_rate: Rate of the inner steps; the starting point where it is learned.
        learning_rate_max: Where given, the rate is drawn log-uniformly from ``learning_rate`` to this.
        learns_rate: Whether the rate is learned, so as to minimise the blocked task's loss.
        steps: K, the number of inner steps (0: the model as published, seen through the head alone).
        batch_size: Blocked examples in one inner step.
        head: ``"learned"`` (kept and improved from one outer step to the next), ``"random"`` (drawn
            anew each time) or ``"keep"`` (the published head; needs the desired task's label space).
        trainable: ``"all"`` weights or only the ``"head"``.

    Raises:
        ValueError: A field is out of range.

    Example:
        ```python
        Adversary(optimizer=SGD(momentum=0.9), learning_rate=1e-3, steps=8, head="random")
        ```
    """

    optimizer: InnerOptimizer = field(default_factory=Adam)
    learning_rate: float = 3e-4
    learning_rate_max: float | None = None
    learns_rate: bool = False
    steps: int = 16
    batch_size: int = 16
    head: str = "learned"
    trainable: str = "all"

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        if self.head not in ("learned", "random", "keep"):
            raise ValueError(f"head must be 'learned', 'random' or 'keep'; got {self.head!r}.")
        if self.trainable not in ("all", "head"):
            raise ValueError(f"trainable must be 'all' or 'head'; got {self.trainable!r}.")
        if self.steps < 0 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ValueError(
                "steps must be 0 or more, batch_size 1 or more and learning_rate positive; "
                f"got {self.steps}, {self.batch_size}, {self.learning_rate}."
            )
        if self.learning_rate_max is not None and (self.learns_rate or self.learning_rate_max < self.learning_rate):
            raise ValueError(
                "learning_rate_max must be at least learning_rate, and a drawn rate cannot also be learned; "
                f"got learning_rate={self.learning_rate}, learning_rate_max={self.learning_rate_max}, "
                f"learns_rate={self.learns_rate}."
            )

    def draw_rate(self, *key: Any) -> float:
        """The rate for one outer step, drawn from ``key`` where a range is given."""
        if self.learning_rate_max is None:
            return self.learning_rate
        generator = torch.Generator().manual_seed(seed_of("rate", *key))
        share = torch.rand((), generator=generator, dtype=torch.float64).item()
        low, high = math.log(self.learning_rate), math.log(self.learning_rate_max)
        return math.exp(low + share * (high - low))

    def config(self) -> dict[str, Any]:
        """The recipe as plain values, for the report."""
        return {
            "optimizer": f"{type(self.optimizer).__name__}{vars(self.optimizer)}",
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "optimizer"},
        }


class LearnedAdversary:
    """What an adversary learns about one task: its head and the logarithm of its rate.

    It takes the opposite side: it minimises the blocked task's loss at the fast weights, by its own
    Adam, while the model raises it.

    Args:
        adversary: The recipe.
        head: Starting head (empty where the head is not learned).
        learning_rate: Adam rate for the head; the log rate moves ten times as fast.
    """

    def __init__(self, adversary: Adversary, head: Mapping[str, Tensor], *, learning_rate: float) -> None:
        self.head = {name: value.detach().clone() for name, value in head.items()}
        device = next(iter(self.head.values())).device if self.head else "cpu"
        self.log_rate = torch.tensor(math.log(adversary.learning_rate), dtype=torch.float32, device=device)
        groups: list[dict[str, Any]] = []
        if self.head:
            groups.append({"params": list(self.head.values()), "lr": learning_rate})
        if adversary.learns_rate:
            groups.append({"params": [self.log_rate], "lr": 10 * learning_rate})
        self._optimizer = torch.optim.Adam(groups) if groups else None

    @property
    def learning_rate(self) -> float:
        """The current learned rate."""
        return math.exp(self.log_rate.item())

    def accumulate(self, head: Mapping[str, Tensor], rate: Tensor | None, *, share: float) -> None:
        """Add ``share`` of the gradients of the blocked task's loss, for the head and for the rate itself."""
        for name, gradient in head.items():
            _add_gradient(self.head[name], share * gradient)
        if rate is not None:
            _add_gradient(self.log_rate, share * rate * self.learning_rate)  # d/d log r = r d/dr

    def gradients(self) -> list[Tensor]:
        """The accumulated gradients, to be averaged over processes in place."""
        return [v.grad for v in (*self.head.values(), self.log_rate) if v.grad is not None]

    def step(self) -> None:
        """One Adam step from the accumulated gradients, which are then forgotten."""
        if self._optimizer is None:
            return
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.log_rate.clamp_(*(math.log(bound) for bound in RATE_BOUNDS))

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
                key.split(".", 2)[1]: moment.clone()
                for key, moment in state.items()
                if key.startswith("adam.") and key.split(".", 2)[2] == name
            }
            if moments and self._optimizer:
                self._optimizer.state[value] = moments

    def _learned(self) -> dict[str, Tensor]:
        return {**{f"head.{name}": value for name, value in self.head.items()}, "log_rate": self.log_rate}


def _add_gradient(value: Tensor, gradient: Tensor) -> None:
    value.grad = gradient.detach().clone() if value.grad is None else value.grad + gradient.detach()
