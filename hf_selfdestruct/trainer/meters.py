"""What is measured between two lines of the training log."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Readings:
    """Means of readings, and the throughput, since they were taken the last time.

    Example:
        >>> readings = Readings()
        >>> readings.add({"desired_loss": 2.0}, step=0)
        >>> readings.add({"desired_loss": 4.0}, step=1)
        >>> readings.take(step=2, batch=8)["desired_loss"]
        3.0
    """

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._since: tuple[int, float] | None = None

    def add(self, terms: Mapping[str, float], *, step: int) -> None:
        """Keep readings of outer step ``step``, counted from 0."""
        self._since = self._since or (step, time.perf_counter())
        for name, value in terms.items():
            self._values.setdefault(name, []).append(value)

    def take(self, *, step: int, batch: int) -> dict[str, float]:
        """The means, ``outer_steps_per_second`` and ``examples_per_second``; then start anew.

        Args:
            step: Outer steps done.
            batch: Desired examples in one of them, over all processes.
        """
        found = {name: sum(values) / len(values) for name, values in self._values.items()}
        now = time.perf_counter()
        if self._since is not None and step > self._since[0]:
            rate = (step - self._since[0]) / (now - self._since[1])
            found |= {"outer_steps_per_second": rate, "examples_per_second": rate * batch}
        self._values, self._since = {}, (step, now)
        return found
