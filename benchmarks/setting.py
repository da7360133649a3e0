"""A setting of the study: two tasks about the same inputs, and the model that learns them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

RATES = ((3e-4, 0.0), (1e-3, 0.0), (3e-3, 0.0), (1e-2, 0.0))


class SideBySide(Protocol):
    """Copies of models side by side, each with an optimizer and a rate of its own."""

    def logits(self, inputs: Tensor, *, head: int = 0) -> Tensor:
        """Of inputs ``(rows, ...)``, logits ``(models, rows, classes)`` by a head."""

    def step(self, loss: Tensor) -> None:
        """One step of every model."""

    def models(self) -> list[Any]:
        """Each as a model, under its first head."""


class Kind(Protocol):
    """A kind of model."""

    def fresh(self, setting: Setting, seed: int) -> Any:
        """One with random weights."""

    def side_by_side(
        self,
        setting: Setting,
        models: Sequence[Any],
        heads: Sequence[Sequence[nn.Linear]],
        rates: Sequence[float],
        decays: Sequence[float] = (),
    ) -> SideBySide:
        """Copies of several, each with heads of its own, a rate and a weight decay (AdamW; by default none)."""


@dataclass(frozen=True)
class Setting:
    """A desired and a blocked task about the same inputs.

    Attributes:
        name: Of the setting.
        inputs: Numbers of an input.
        classes: Of the desired task.
        rows: From a count, a seed and a part (``train``, ``attack``, ``selection``, ``test``), that many inputs
            ``(count, ...)``, desired labels and blocked labels.
        kind: Of model.
        width: Of what its heads read.
        base_steps: How many the base is trained for.
        learning_rate: Of the outer steps.
        blocked_classes: Of the blocked task.
        rates: Learning rates and weight decays that an attacker searches.
    """

    name: str
    inputs: int
    classes: int
    rows: Callable[[int, int, str], tuple[Tensor, Tensor, Tensor]]
    kind: Kind
    width: int
    base_steps: int = 4000
    learning_rate: float = 1e-3
    blocked_classes: int = 2
    rates: tuple[tuple[float, float], ...] = RATES

    def fresh(self, seed: int) -> Any:
        """A model with random weights."""
        return self.kind.fresh(self, seed)
