"""Reversal of the inner loop from few stored places: memory and repetitions both grow with the logarithm of K.

This is binomial checkpointing (Griewank 1992; Griewank & Walther 2000, "revolve"): the binomial coefficient
``(places + repeats over places)`` is the largest number of positions that can be visited in reverse from so many stored
places if no step is taken more than ``repeats`` times.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from math import comb

import torch
from torch import Tensor

from ..adversaries.optimizer import State
from .flat_episode import FlatEpisode, Place


def places_for(steps: int) -> int:
    """Return how many places to store for K steps: the least that need no more repetitions of a step than places.

    Example:
        >>> [places_for(steps) for steps in (4, 32, 256)]
        [2, 4, 6]
    """
    return next(places for places in count(1) if comb(2 * places, places) > steps)


def stride(positions: int, places: int) -> int:
    """Return how many steps to take from a stored position before the next one is stored, for the fewest steps in all.

    Args:
        positions: Number of positions still to be visited in reverse, the stored one included; at least 2.
        places: Number of places for them, that of the stored one included.

    Example:
        >>> stride(6, 2), stride(6, 1)
        (3, 5)
    """
    repeats = next(r for r in count(1) if comb(places + r, places) >= positions)
    return min(comb(places + repeats - 1, places), positions - comb(places + repeats - 2, places - 1))


class LogarithmicTrajectory:
    """Run K inner steps forward, then visit them in reverse, from a number of stored places that grows as log K.

    The steps between are repeated bitwise. A place consists of the weights and the optimizer's moments. Memory contains
    at most ``places_for(K)`` stored places, one that moves, and one inner gradient.

    Args:
        course: The episode on flat vectors.
        f: Fixed weights.
    """

    def __init__(self, course: FlatEpisode, f: Tensor) -> None:
        self._course, self._f, self._places = course, f, places_for(course.episode.steps)
        self._stored: list[tuple[int, Tensor, State]] = []

    def run(self, x: Tensor, state: State) -> None:
        """Run forward from theta_0 to theta_K, in place; ``back`` reuses the memory of both."""
        self._x, self._state, self._g = x, state, torch.empty_like(x)
        self._store(0)
        self._reach(0, self._course.episode.steps)

    def back(self) -> Iterator[Place]:
        """Yield ``(k, theta_k, state, inner gradient)`` for k = K-1 .. 0, in the same memory."""
        for k in reversed(range(self._course.episode.steps)):
            self._reach(self._load(k), k)
            self._course.inner_gradient(k, self._x, self._f, out=self._g)
            yield k, self._x, self._state, self._g

    def _reach(self, k: int, end: int) -> None:
        """Go from the last stored position, k, to ``end``, and store places on the way while any is free."""
        while k < end:
            stop = k + stride(end - k + 1, self._places - len(self._stored) + 1)
            for step in range(k, stop):
                self._course.inner_gradient(step, self._x, self._f, out=self._g)
                self._course.advance(step, self._x, self._g, self._state)
            k = stop
            if k < end:
                self._store(k)

    def _store(self, k: int) -> None:
        self._stored.append((k, self._x.clone(), {n: v.clone() for n, v in self._state.items()}))

    def _load(self, k: int) -> int:
        """Return to the last stored position, and free its place if it is k, since nothing starts from there again."""
        position, x, state = self._stored[-1]
        self._x.copy_(x)
        for name, value in state.items():
            self._state[name].copy_(value)
        if position == k:
            self._stored.pop()
        return position
