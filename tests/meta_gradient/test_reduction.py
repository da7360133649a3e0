"""The reduction of the blocking loss: what the meta-gradient promises for short steps, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from live_episodes import live_episode
from toy_episodes import toy_episode

from hf_selfdestruct.meta_gradient.methods import method
from hf_selfdestruct.meta_gradient.reduction import reduction_ratio
from hf_selfdestruct.models.distributed import Processes

EXACT, FIRST = method("exact"), method("first_order")


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_short_step_reduces_the_loss_as_the_exact_gradient_says(steps) -> None:
    episode = toy_episode(steps=steps).episode()
    assert reduction_ratio(EXACT, episode, length=1e-7) == pytest.approx(1, abs=1e-3)
    g, true = (torch.cat([value.flatten() for value in way(episode).weights.values()]) for way in (FIRST, EXACT))
    expected = (torch.dot(g, true) / g.square().sum()).item()  # the slope along a gradient of first order
    assert reduction_ratio(FIRST, episode, length=1e-7) == pytest.approx(expected, abs=1e-3)
    assert (abs(expected - 1) > 0.01) == (steps > 0)


def test_a_long_step_overshoots() -> None:
    episode = toy_episode().episode()
    assert reduction_ratio(EXACT, episode, length=10.0) < 0.5


def test_it_is_the_same_in_place_and_the_live_model_is_untouched() -> None:
    live = live_episode()
    way = method("exact", hvp="finite_difference")
    found = reduction_ratio(way, live.in_place)
    live.assert_untouched()
    assert found == pytest.approx(reduction_ratio(way, live.flat), rel=1e-6)


def test_what_has_no_reduction_is_refused() -> None:
    episode = toy_episode().episode()
    with pytest.raises(ValueError, match="length must be above 0; got 0"):
        reduction_ratio(EXACT, episode, length=0)
    with pytest.raises(ValueError, match="the meta-gradient is 0: no step"):
        reduction_ratio(EXACT, replace(episode, shares=[0.0] * len(episode.shares)))
    with pytest.raises(ValueError, match="launch without FSDP"):
        reduction_ratio(EXACT, replace(episode, ranks=Processes(0, 2, sharded=True)))
