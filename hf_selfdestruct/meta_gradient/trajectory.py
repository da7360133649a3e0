"""Storage of an inner-loop trajectory for the backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..adversaries.optimizer import State
from .flat_episode import FlatEpisode, Place
from .logarithmic import LogarithmicTrajectory

TRAJECTORIES = ("device", "cpu", "recompute", "logarithmic")


class Trajectory:
    """Run K inner steps forward, then visit them in reverse with the weights and the optimizer state of each step.

    Only some steps store weights and optimizer state (checkpoints); the steps between are replayed bitwise from the
    inner gradients, because an optimizer step is cheap.

    Args:
        course: The episode on flat vectors.
        f: Fixed weights.
        kind: ``"device"`` stores the K inner gradients on the device, ``"cpu"`` in main memory. ``"recompute"`` stores
            none and recomputes them, one segment of about sqrt(3 K) steps at a time: with Adam, memory contains that
            many gradients and a third as many checkpoints (weights and two moments).
    """

    def __init__(self, course: FlatEpisode, f: Tensor, kind: str) -> None:
        self._course, self._f, self._kind = course, f, kind
        steps = course.episode.steps * (3 if kind == "recompute" else 1)
        self._stretch = max(1, math.isqrt(max(steps - 1, 0)) + 1)
        self._starts: list[tuple[Tensor, State]] = []
        self._gradients: list[Tensor] = []  # empty if they are recomputed

    def run(self, x: Tensor, state: State) -> None:
        """Run forward from theta_0 to theta_K, in place."""
        g = torch.empty_like(x)
        for k in range(self._course.episode.steps):
            if k % self._stretch == 0:
                self._starts.append((self._away(x), {n: self._away(v) for n, v in state.items()}))
            self._course.inner_gradient(k, x, self._f, out=g)
            self._course.advance(k, x, g, state)
            if self._kind == "device":
                self._gradients.append(g)
                g = torch.empty_like(x)
            elif self._kind == "cpu":
                self._gradients.append(g.to("cpu", copy=True))

    def back(self) -> Iterator[Place]:
        """Yield ``(k, theta_k, state, inner gradient)`` for k = K-1 .. 0, and free the memory of visited steps."""
        while self._starts:
            x, state = self._starts.pop()
            first = len(self._starts) * self._stretch
            if self._kind == "recompute":
                yield from self._recomputed(x, state, first, min(first + self._stretch, self._course.episode.steps))
            else:
                yield from self._replayed(x.to(self._f.device), self._here(state), first)
                del self._gradients[first:]

    def _replayed(self, x: Tensor, state: State, first: int) -> Iterator[Place]:
        """Replay a segment from stored gradients: one forward pass that stores every step."""
        kept: list[Place] = []
        for k, saved in enumerate(self._gradients[first:], start=first):
            if kept:
                _, before, moments, g = kept[-1]
                x, state = before.clone(), {n: v.clone() for n, v in moments.items()}
                self._course.advance(k - 1, x, g, state)
            kept.append((k, x, state, saved.to(self._f.device)))
        while kept:
            yield kept.pop()

    def _recomputed(self, start: Tensor, before: State, first: int, last: int) -> Iterator[Place]:
        """Recompute a segment from its checkpoint: gradients once, then each step from the start in the same memory."""
        x, state = torch.empty_like(start), {n: torch.empty_like(v) for n, v in before.items()}
        found: list[Tensor] = []

        def go(steps: int) -> None:
            x.copy_(start)
            for name, value in before.items():
                state[name].copy_(value)
            for k in range(steps):
                self._course.advance(first + k, x, found[k], state)

        go(0)
        for k in range(first, last):
            found.append(self._course.inner_gradient(k, x, self._f, out=torch.empty_like(x)))
            self._course.advance(k, x, found[-1], state)
        while found:
            go(len(found) - 1)
            yield first + len(found) - 1, x, state, found.pop()

    def _here(self, state: State) -> State:
        return {n: v.to(self._f.device) for n, v in state.items()}

    def _away(self, value: Tensor) -> Tensor:
        return value.to("cpu", copy=True) if self._kind == "cpu" else value.clone()


def trajectory_of(course: FlatEpisode, f: Tensor, kind: str) -> Trajectory | LogarithmicTrajectory:
    """Return the trajectory of an episode, not yet run.

    Args:
        course: The episode on flat vectors.
        f: Fixed weights.
        kind: See :class:`Trajectory`; ``"logarithmic"``, see
            :class:`~hf_selfdestruct.meta_gradient.logarithmic.LogarithmicTrajectory`, needs less memory than
            ``"recompute"`` from K = 5 on, and repeats steps more often.

    Raises:
        ValueError: ``kind`` is unknown.
    """
    if kind not in TRAJECTORIES:
        raise ValueError(f"trajectory must be one of {', '.join(TRAJECTORIES)}; got {kind!r}.")
    return LogarithmicTrajectory(course, f) if kind == "logarithmic" else Trajectory(course, f, kind)
