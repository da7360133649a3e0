"""The guard of the desired task: blocking backs off while the desired validation quality is too low."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Guard:
    """Turns readings of the desired validation quality into a factor for the blocking weight.

    It is fed validation readings and nothing else: it never sees a test set, nor any blocked data.

    A reading is *low* when it is more than ``max_drop`` worse than the best so far. The best counts, not
    the start: a model with a new head starts low, and its start would allow anything. Each low reading
    multiplies ``factor`` by ``backoff``, any other by ``recovery``, always within ``[least, 1]``. Backing
    off is fast and recovering slow on purpose: where the two balance, the share of low readings is
    ``log(recovery) / log(recovery / backoff)``, by default one in eight.

    Args:
        max_drop: Largest tolerated loss of quality, in the metric's own unit, 0 or more.
        greater_is_better: Whether a larger reading is a better one.
        backoff: In (0, 1).
        recovery: 1 or more; 1 never recovers.
        least: In (0, 1]; above 0, so that the factor can recover and the adversary stays in play.

    Attributes:
        factor: What to multiply the blocking weight by.
        best: The best reading so far; ``None`` before the first.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> guard = Guard(0.02, greater_is_better=True)
        >>> [guard.update(accuracy) and guard.factor for accuracy in (0.90, 0.89, 0.85)]
        [None, None, 0.5]
    """

    max_drop: float
    greater_is_better: bool = field(kw_only=True)
    backoff: float = field(default=0.5, kw_only=True)
    recovery: float = field(default=1.1, kw_only=True)
    least: float = field(default=1 / 64, kw_only=True)
    factor: float = field(default=1.0, init=False)
    best: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Check the arguments."""
        bounds = {
            "max_drop": (0 <= self.max_drop < math.inf, "finite and 0 or more"),
            "backoff": (0 < self.backoff < 1, "between 0 and 1, both excluded"),
            "recovery": (1 <= self.recovery < math.inf, "finite and 1 or more"),
            "least": (0 < self.least <= 1, "above 0 and at most 1"),
        }
        for name, (fits, bound) in bounds.items():
            if not fits:
                raise ValueError(f"{name} must be {bound}; got {getattr(self, name)}.")

    def update(self, value: float) -> str | None:
        """Take in one validation reading.

        Args:
            value: The reading.

        Returns:
            One line for the log where the factor changed, else ``None``.

        Raises:
            FloatingPointError: The reading is not finite; nothing is changed.
        """
        if not math.isfinite(value):
            raise FloatingPointError(f"the desired validation quality is {value}, not a finite number.")
        better, sign = (max, 1) if self.greater_is_better else (min, -1)
        self.best = float(value if self.best is None else better(self.best, value))
        low = sign * value < sign * self.best - self.max_drop
        before = self.factor
        self.factor = min(1.0, max(self.least, before * (self.backoff if low else self.recovery)))
        if self.factor == before:
            return None
        return (
            f"desired validation quality {value:.4g} is {'more than' if low else 'within'} {self.max_drop:g} "
            f"{'below' if sign > 0 else 'above'} its best {self.best:.4g}: blocking weight "
            f"{'backs off' if low else 'recovers'} to {self.factor:.4g} of its full value"
        )

    def state_dict(self) -> dict[str, float | None]:
        """Everything needed to go on exactly, as plain numbers for JSON."""
        return {"factor": self.factor, "best": self.best}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Restore what :meth:`state_dict` gave."""
        factor = state["factor"]
        if factor is None or not self.least <= factor <= 1:
            raise ValueError(f"factor must be between {self.least} and 1; got {factor}.")
        self.factor, self.best = factor, state["best"]
