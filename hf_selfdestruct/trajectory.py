"""The adversary's way, kept so that it can be walked backwards."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .course import Course
from .inner_optimizer import State
from .training_args import TRAJECTORIES

Place = tuple[int, Tensor, State, Tensor]


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

    def run(self, x: Tensor, state: State) -> None:
        """Go forwards from theta_0 to theta_K, in place."""
        keeps = self._kind != "recompute"
        g = torch.empty_like(x)
        for k in range(self._course.episode.steps):
            if k % self._stretch == 0:
                self._starts.append((self._away(x), {n: self._away(v) for n, v in state.items()}))
            self._course.inner_gradient(k, x, self._f, out=g)
            self._gradients.append(self._away(g) if keeps else None)
            self._step(k, x, g, state)

    def back(self) -> Iterator[Place]:
        """Go backwards: ``(k, theta_k, state, inner gradient)`` for k = K-1 .. 0; what is behind is let go."""
        while self._starts:
            kept = self._replay(*self._starts.pop(), first=len(self._starts) * self._stretch)
            while kept:
                yield kept.pop()

    def _replay(self, x: Tensor, state: State, *, first: int) -> list[Place]:
        device, last = self._f.device, len(self._gradients)
        x, state = x.to(device), {n: v.to(device) for n, v in state.items()}
        kept: list[Place] = []
        for k in range(first, last):
            saved = self._gradients[k]
            if saved is None:
                g = self._course.inner_gradient(k, x, self._f, out=torch.empty_like(x))
            else:
                g = saved.to(device)
            kept.append((k, x, state, g))
            if k + 1 < last:
                x, state = x.clone(), {n: v.clone() for n, v in state.items()}
                self._step(k, x, g, state)
        del self._gradients[first:]
        return kept

    def _step(self, k: int, x: Tensor, g: Tensor, state: State) -> None:
        episode = self._course.episode
        episode.optimizer.advance_(x, g, state, k + 1, episode.learning_rate)

    def _away(self, value: Tensor) -> Tensor:
        return value.to("cpu", copy=True) if self._kind == "cpu" else value.clone()
