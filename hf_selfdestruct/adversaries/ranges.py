"""What an adversary draws a number from, beside a list: a range, a schedule, a share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, drawn log-uniformly; whole numbers where both ends are.

    Raises:
        ValueError: Not ``0 < low <= high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the ends."""
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(f"a Range needs 0 < low <= high; got {self.low}, {self.high}.")

    def draw(self, share: float) -> float:
        """The number below which ``share`` of all draws lie."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        margin = 0.5 if whole else 0.0  # rounding would else give the ends half their share
        low, high = math.log(self.low - margin), math.log(self.high + margin)
        found = math.exp(low + share * (high - low))
        return min(max(round(found) if whole else found, self.low), self.high)


@dataclass(frozen=True)
class Schedule:
    """A whole number that grows by 1 every ``every`` outer steps, from ``first`` to ``last``.

    The reference code of MLAC lets K grow so, every 100 steps.

    Raises:
        ValueError: Not ``0 <= first <= last``, or ``every`` below 1.
    """

    first: int
    last: int
    every: int = 100

    def __post_init__(self) -> None:
        """Check the ends."""
        if not 0 <= self.first <= self.last or self.every < 1:
            raise ValueError(
                f"a Schedule needs 0 <= first <= last and every >= 1; got {self.first}, {self.last}, {self.every}."
            )

    def at(self, outer_step: int) -> int:
        """The number at an outer step, counted from 0."""
        return min(self.first + outer_step // self.every, self.last)


@dataclass(frozen=True)
class BetaShare:
    """A share of an adversary's steps, drawn from the distribution Beta(a, b).

    TAR's adversaries that begin with benign rows do so for a share of Beta(6, 3), two thirds in the mean.

    Raises:
        ValueError: ``a`` or ``b`` is not positive.
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (0 < self.a < math.inf and 0 < self.b < math.inf):
            raise ValueError(f"a BetaShare needs two positive numbers; got {self.a}, {self.b}.")

    def of(self, steps: int, share: float) -> int:
        """Of so many steps, the number below which ``share`` of all draws lie; at least one step is left."""
        return max(0, min(int(beta.ppf(share, self.a, self.b) * steps), steps - 1))
