"""One adversary of a pool: how old it is, and where its last stretch ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.functional import Weights, whole

NUMBERS = ("life", "age", "taken", "score", "best", "best_age")


@dataclass
class Member:
    """One adversary of a pool.

    Attributes:
        number: Which one of all processes' adversaries, from 0.
        life: How often it has been reset.
        age: Number of blocked steps in this life.
        taken: Number of all steps in this life, benign ones included.
        score: Its last score on held-out rows; 0 before its first stretch.
        best: The best of them in this life.
        best_age: Its age then.
        offset: How far its weights are from the published ones, by name.
        own: Its head and adapters, by name.
        moments: Its optimizer's moments, by the moment's name and by weight.
    """

    number: int
    life: int = 0
    age: int = 0
    taken: int = 0
    score: float = 0.0
    best: float = 0.0
    best_age: int = 0
    offset: Weights = field(default_factory=dict)
    own: Weights = field(default_factory=dict)
    moments: dict[str, Weights] = field(default_factory=dict)

    def reset(self) -> None:
        """Begin another life at the published weights."""
        vars(self).update(vars(Member(self.number, life=self.life + 1)))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly, as a flat dictionary of whole tensors; every process must call this."""
        state = {name: torch.tensor(float(getattr(self, name)), dtype=torch.float64) for name in NUMBERS}
        parts = {"offset": self.offset, "own": self.own, **{f"moment.{n}": v for n, v in self.moments.items()}}
        return state | {f"{part}/{n}": whole(value) for part, weights in parts.items() for n, value in weights.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], stored: Callable[[Weights], Weights]) -> None:
        """Restore what :meth:`state_dict` gave; ``stored`` puts weights where they are stored."""
        parts: dict[str, Weights] = {}
        for name, value in state.items():
            part, slash, weight = name.partition("/")
            if slash:
                parts.setdefault(part, {})[weight] = value
        for name in NUMBERS:
            number = state[name].item()
            setattr(self, name, number if name in ("score", "best") else int(number))
        self.offset, self.own = stored(parts.pop("offset", {})), stored(parts.pop("own", {}))
        self.moments = {part.removeprefix("moment."): stored(weights) for part, weights in parts.items()}
