"""The interface of blocking losses, and their input."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

IGNORED = -100
CHOICES = ("classification", "next-token prediction")  # tasks whose outputs are the chances of the labels


@dataclass(frozen=True)
class View:
    """Input of a loss: outputs of the adversary's model at theta_k on held-out rows.

    Attributes:
        logits: Shape ``(batch, outputs)`` or ``(batch, positions, outputs)``; a classification has an output per class.
        labels: Shape ``(batch,)`` or ``(batch, positions)``; the class :data:`IGNORED` never counts.
        hidden_states: Hidden states of every layer, including embeddings: ``(batch, positions, width)``, or
            ``(batch, channels, height, width)`` for convolutional networks.
        mask: Shape ``(batch, positions)``, 1 where a position counts.
        weights: The weights that the adversary trains, part of the graph of ``logits``.
    """

    logits: Tensor
    labels: Tensor
    hidden_states: Sequence[Tensor] = ()
    mask: Tensor | None = None
    weights: Sequence[Tensor] = ()

    def counts(self) -> Tensor:
        """Return a mask of the labels that count."""
        here = counting(self.labels)
        return here & self.mask.bool() if self.mask is not None and self.mask.shape == here.shape else here

    def counted(self) -> tuple[Tensor, Tensor]:
        """Return logits ``(n, classes)`` and labels ``(n,)`` of the positions that count."""
        here = self.counts()
        if not here.any():
            raise ValueError(f"no position counts: all labels are {IGNORED} or masked; check the blocked rows.")
        return self.logits[here], self.labels[here]

    def half(self) -> Tensor:
        """Return a mask of the counted positions to fit on, those of every second row; the others are to score on."""
        here = self.counts()
        rows = here.flatten(1).any(1) if here.dim() > 1 else here
        first = rows.cumsum(0) % 2 == 1
        return first.view(-1, *[1] * (here.dim() - 1)).expand_as(here)[here]


def counting(labels: Tensor) -> Tensor:
    """Which labels count, shaped like them: every quantity, and every class but :data:`IGNORED`."""
    return torch.ones_like(labels, dtype=torch.bool) if labels.is_floating_point() else labels != IGNORED


@dataclass(frozen=True)
class BlockingLoss(ABC):
    """A scalar to minimise so that an adversary's model does not predict the blocked labels.

    Args:
        weight: Factor in the sum of several losses; :meth:`forward` does not apply it.
    """

    weight: float = field(default=1.0, kw_only=True)
    citation: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...] | None] = ("classification",)  # of task that it can be measured on; None for any
    wants_hidden_states: ClassVar[bool] = False
    second_order: ClassVar[bool] = False  # the loss contains a gradient, so its own gradient is of second order
    fewest_rows: ClassVar[int] = 1  # minimum number of rows to measure it
    fewest_classes: ClassVar[int] = 2  # with fewer, it asks for nothing but flipped answers
    on_general: ClassVar[bool] = False  # measured on general rows (desired or kept) instead of blocked ones

    def __post_init__(self) -> None:
        """Check the arguments."""
        self._check(math.isfinite(self.weight) and self.weight > 0, "weight", "finite and above 0")

    def _check(self, fine: bool, name: str, demand: str) -> None:
        if not fine:
            raise ValueError(f"{type(self).__name__}({name}={getattr(self, name)!r}): {name} must be {demand}")

    @abstractmethod
    def forward(self, view: View) -> Tensor:
        """Compute the loss, a scalar tensor, without its weight."""

    def __call__(self, logits: Tensor, labels: Tensor, **rest: Any) -> Tensor:
        """Call :meth:`forward` with ``View(logits, labels, **rest)``."""
        return self.forward(View(logits, labels, **rest))

    def config(self) -> dict[str, Any]:
        """Return name and arguments in plain values, for the report."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"name": type(self).__name__, **plain}
