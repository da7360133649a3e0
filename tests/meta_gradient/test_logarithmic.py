"""Reversal from few stored places: the fewest steps there are, never more places than said, and memory as counted."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from math import log2
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_models import tiny_config

from hf_selfdestruct.adversaries.optimizers import Adam
from hf_selfdestruct.meta_gradient.episode import Episode, Reading
from hf_selfdestruct.meta_gradient.logarithmic import LogarithmicTrajectory, places_for, stride
from hf_selfdestruct.meta_gradient.methods import method

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from memory_model import Plan, vectors
from memory_passes import Peak

SIZE = 5000


@cache
def fewest(positions: int, places: int) -> int:
    """Fewest steps that visit positions in reverse from the first, which has one of the places: by trying every way."""
    if positions == 1:
        return 0
    if places == 1:
        return positions - 1 + fewest(positions - 1, 1)
    return min(first + fewest(positions - first, places - 1) + fewest(first, places) for first in range(1, positions))


@pytest.mark.parametrize("places", range(1, 8))
def test_strides_are_of_the_fewest_steps(places) -> None:
    for positions in range(2, 100):
        first = stride(positions, places)
        assert 1 <= first < positions
        rest = fewest(positions - first, places - 1) if places > 1 else 0
        assert first + rest + fewest(first, places) == fewest(positions, places)


def test_places_grow_as_the_logarithm() -> None:
    assert [places_for(steps) for steps in (0, 1, 2, 4, 16, 32, 64, 256, 1024)] == [1, 1, 2, 2, 3, 4, 4, 6, 7]
    assert all(places_for(steps) <= 1 + log2(steps) for steps in range(1, 3000))


class Counted:
    """A course whose steps depend on everything before them, and which counts them."""

    def __init__(self, steps: int) -> None:
        self.episode = SimpleNamespace(steps=steps)
        self.gradients = self.most = 0
        self.taken: Counter[int] = Counter()
        self.path: LogarithmicTrajectory | None = None

    def inner_gradient(self, k, x, f, *, out):
        self.gradients += 1
        self.most = max(self.most, len(self.path._stored))
        return out.copy_((x + k + f).sin())

    def advance(self, k, x, g, state) -> None:
        self.taken[k] += 1
        state["velocity"].mul_(0.9).add_(g)
        x.sub_(state["velocity"] * 0.1)


@pytest.mark.parametrize("steps", [*range(20), 32, 33, 64, 100, 256])
def test_places_are_visited_in_reverse_by_the_fewest_steps(steps) -> None:
    f, x, state = torch.full((), 0.3), torch.linspace(0, 1, 7), {"velocity": torch.zeros(7)}
    slow, course = [], Counted(steps)
    course.path = LogarithmicTrajectory(course, f)
    moving, moments = x.clone(), {"velocity": torch.zeros(7)}
    for k in range(steps):
        g = (moving + k + f).sin()
        slow.append((k, moving.clone(), moments["velocity"].clone(), g))
        course.advance(k, moving, g, moments)
    course.taken.clear()
    course.path.run(x, state)
    assert torch.equal(x, moving)
    assert torch.equal(state["velocity"], moments["velocity"])
    for k, there, then, g in course.path.back():
        number, *expected = slow.pop()
        assert k == number
        assert all(torch.equal(a, b) for a, b in zip((there, then["velocity"], g), expected, strict=True))
    assert slow == []
    assert course.path._stored == [] or steps == 0
    assert max([course.most, *course.taken.values()]) <= places_for(steps)
    assert course.gradients == steps + fewest(steps + 1, places_for(steps))


def rough_episode(steps: int) -> Episode:
    """Inner losses whose gradients are large vectors, so that these are all the memory there is."""
    target = torch.linspace(-1, 1, SIZE)

    def loss(weights, k: int = 0):
        return (weights["w"] - target).mul(k + 1).cos().mean()

    return Episode(
        published={"w": torch.full((SIZE,), 0.1)},
        own={},
        moving=frozenset({"w"}),
        inner_losses=[lambda weights, k=k: loss(weights, k % 3) for k in range(steps)],
        measure=lambda weights: Reading(loss(weights), loss(weights), 0.0),
        shares=[*[None] * steps, 1.0],
        optimizer=Adam(),
        learning_rate=1e-3,
    )


def peak(steps: int, trajectory: str) -> float:
    """Vectors that an exact meta-gradient makes at most at one time."""
    episode = rough_episode(steps)
    with Peak([episode.published["w"]]) as counted:
        method("exact", hvp="finite_difference", trajectory=trajectory)(episode)
    return counted.most / (4 * SIZE)


def test_memory_is_as_counted_and_grows_as_the_logarithm() -> None:
    plan = Plan(tiny_config("bert"), "exact_fd_logarithmic", 4, objectives=1, learns_rate=False)
    counted = {steps: sum(vectors(replace(plan, steps=steps))) for steps in (4, 32, 80)}
    peaks = {steps: peak(steps, "logarithmic") for steps in counted}
    passes = peaks[4] - counted[4]  # a loss, its gradient, and what an optimizer's step takes for a moment
    assert 0 <= passes < 12
    assert peaks == pytest.approx({steps: many + passes for steps, many in counted.items()})
    assert counted[32] <= 1.5 * counted[4]
    assert peaks[32] < 0.85 * peak(32, "recompute")


def test_256_steps_equal_those_of_stored_gradients_bitwise() -> None:
    one, other = (method("exact", trajectory=kind)(rough_episode(256)) for kind in ("device", "logarithmic"))
    assert one.loss == other.loss
    assert torch.equal(one.weights["w"], other.weights["w"])
    assert one.weights["w"].abs().max() > 0
