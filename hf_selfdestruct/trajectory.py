"""The adversary's way, kept so that it can be walked backwards."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from .episode import Course
from .inner_optimizer import State
from .training_args import TRAJECTORIES

class Trajectory:
    """K inner steps forwards, then backwards, with weights and optimizer state at each.

    Weights and state are kept at every sqrt(K)-th step only; those between are replayed from the inner
    gradients (an optimizer step costs little), bitwise as they were.

    Args:
        course: The episode on flat vectors.
        f: Weights that do not move.
        kind: ``"device"`` keeps the K inner gradients where they are, ``"cpu"`` in main memory, and
            ``"recompute"`` keeps none and computes them again, one stretch of sqrt(K) steps at a time.

    Raises:
        ValueError: Another ``kind``.
    """

    def __init__(self, course: Course, f: Tensor, kind: str) -> None:
        if kind not in TRAJECTORIES:
            raise ValueError(f"trajectory must be one of {', '.join(TRAJECTORIES)}; got {kind!r}.")
        self._course, self._f, self._kind = course, f, kind
        self._stretch = max(1, math.isqrt(max(course.episode.steps - 1, 0)) + 1)
        self._starts: list[tuple[Tensor, State]] = []
        self._gradients: list[Tensor | None] = []

    def run(self, x: Tensor, state: State) -> Tensor:
        """Go forwards from theta_0; returns theta_K."""
        for k in range(self._course.episode.steps):
            if k % self._stretch == 0:
                self._starts.append((self._away(x), {n: self._away(v) for n, v in state.items()}))
            g = self._course.inner_gradient(k, x, self._f)
            self._gradients.append(None if self._kind == "recompute" else self._away(g))
            x, state = self._step(k, x, g, state)
        return x

    def back(self) -> Iterator[tuple[int, Tensor, State, Tensor]]:
        """Go backwards: ``(k, theta_k, state, inner gradient)`` for k = K-1 .. 0; what is behind is let go."""
        while self._starts:
            kept = self._replay(len(self._starts) - 1)
            self._starts.pop()
            while kept:
                yield kept.pop()

    def _replay(self, stretch: int) -> list[tuple[int, Tensor, State, Tensor]]:
        x, state = self._starts[stretch]
        device = self._f.device
        x, state = x.to(device), {n: v.to(device) for n, v in state.items()}
        first, last = stretch * self._stretch, len(self._gradients)
        kept = []
        for k in range(first, last):
            saved = self._gradients[k]
            g = self._course.inner_gradient(k, x, self._f) if saved is None else saved.to(device)
            kept.append((k, x, state, g))
            if k + 1 < last:
                x, state = self._step(k, x, g, state)
        del self._gradients[first:]
        return kept

    def _step(self, k: int, x: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
        episode = self._course.episode
        return episode.optimizer.advance(x, g, state, k + 1, episode.learning_rate)

    def _away(self, value: Tensor) -> Tensor:
        return value.to("cpu") if self._kind == "cpu" else value
