"""The discrete adjoint equals plain autograd through the unrolled loop, whatever moves and however it is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy_episodes import (
    EPSILON,
    assert_same,
    frozen_and_unwanted,
    half_moving,
    half_wanted,
    head_alone,
    relative,
    toy_episode,
    way,
)

from hf_selfdestruct.adversaries.optimizers import SGD, Adagrad, Adam, AdamW, NormalizedSGD, RMSprop
from hf_selfdestruct.losses.blocking import BLOCKING_LOSSES
from hf_selfdestruct.meta_gradient.trajectory import TRAJECTORIES
from hf_selfdestruct.models.functional import call

unrolled, exact = way("unrolled"), way("exact")
FINITE = way("exact", hvp="finite_difference")
OPTIMIZERS = {
    "sgd": SGD(),
    "decay": SGD(weight_decay=0.1),
    "momentum": SGD(momentum=0.9, weight_decay=0.1),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    "normalized": NormalizedSGD(),
    "adam": Adam(epsilon=EPSILON),
    "adam+decay": Adam(epsilon=EPSILON, weight_decay=0.1),
    "adamw": AdamW(epsilon=EPSILON, weight_decay=0.1),
    "rmsprop": RMSprop(epsilon=EPSILON),
    "rmsprop+momentum": RMSprop(epsilon=EPSILON, momentum=0.8, weight_decay=0.1),
    "adagrad": Adagrad(epsilon=EPSILON),
}
EXACT = {"rtol": 1e-10, "atol": 1e-13}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_unrolled_with_every_optimizer(name) -> None:
    episode = toy_episode(optimizer=OPTIMIZERS[name], rate=0.02)
    expected = unrolled(episode)
    assert_same(exact(episode), expected, **EXACT)
    assert relative(way("first_order")(episode), expected) > 1e-3  # the second order is there to be missed
    assert expected.learning_rate != 0


@pytest.mark.parametrize("name", ["bert", "gpt2", "roberta", "modernbert", "distilbert", "vit", "resnet"])
def test_equals_unrolled_with_every_architecture(name) -> None:
    # ModernBERT computes its rotations in float32 whatever the weights.
    tolerance = {"rtol": 1e-5, "atol": 1e-8} if name == "modernbert" else EXACT
    assert_same(exact(toy_episode(name)), unrolled(toy_episode(name)), **tolerance)


def kept_head(episode):
    return replace(episode, published={**episode.published, **episode.head}, head={}, learns_rate=False)


@pytest.mark.parametrize("change", [head_alone, kept_head, half_moving, half_wanted, frozen_and_unwanted])
def test_equals_unrolled_whatever_moves_and_is_wanted(change) -> None:
    episode = change(toy_episode())
    found = exact(episode)
    assert_same(found, unrolled(episode), **EXACT)
    assert all(g.abs().max() > 1e-7 for n, g in found.weights.items() if n.endswith("dense.weight"))


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 9])
@pytest.mark.parametrize("kind", TRAJECTORIES)
def test_equals_unrolled_however_long_and_however_kept(steps, kind) -> None:
    episode = toy_episode(steps=steps, rate=0.01)
    assert_same(way("exact", trajectory=kind)(episode), unrolled(episode), **EXACT)


@pytest.mark.parametrize("single", [False, True])
def test_every_way_to_keep_the_trajectory_is_bitwise_the_same(single) -> None:
    episode = toy_episode(steps=7)
    if single:
        episode = in_float32(episode)
    one, *others = [way("exact", trajectory=kind)(episode) for kind in TRAJECTORIES]
    for other in others:
        assert_same(other, one, rtol=0, atol=0)


@pytest.mark.parametrize(
    "shares", [[0.0, 0.0, 0.0, 1.0], [1.0, None, None, -1.0], [None, 0.5, None, 0.5], [1.0, *[None] * 3]]
)
def test_equals_unrolled_for_all_weights_of_the_steps(shares) -> None:
    episode = toy_episode(step_weights=shares)
    found = exact(episode)
    assert_same(found, unrolled(episode), **EXACT)
    assert list(found.losses) == [k for k, share in enumerate(shares) if share is not None]


@pytest.mark.parametrize("change", [lambda e: e, head_alone, half_moving])
def test_finite_differences_come_close_and_say_how_close(change) -> None:
    episode = change(toy_episode())
    found, expected = FINITE(episode), unrolled(episode)
    gap = relative(found, expected)
    assert 0 < gap < 1e-6
    assert gap / 30 < found.hvp_error < max(1e4 * gap, 1e-4)
    assert found.learning_rate == pytest.approx(expected.learning_rate, rel=1e-5)
    torch.testing.assert_close(found.own, expected.own, rtol=1e-4, atol=1e-8)
    assert exact(episode).hvp_error is None


def test_finite_differences_run_where_there_is_no_second_derivative() -> None:
    episode = toy_episode()

    def fused(weights, batch):
        inputs = {n: v for n, v in batch.items() if n != "labels"}
        return call(episode.module, {**episode.buffers, **weights}, inputs).logits

    with pytest.raises(RuntimeError, match="flash_attention"):
        exact(replace(episode, forward=fused))
    assert relative(FINITE(replace(episode, forward=fused)), unrolled(episode)) < 1e-6


def in_float32(episode):
    published, head = ({n: w.float() for n, w in part.items()} for part in (episode.published, episode.head))
    return replace(episode, published=published, head=head)


def test_float32_keeps_what_adam_allows() -> None:
    """The meta-gradient through Adam is ill-conditioned where a gradient is near epsilon; 1e-4 keeps it tame."""

    def gap(epsilon: float, **options) -> float:
        episode = toy_episode(optimizer=Adam(epsilon=epsilon), rate=1e-3)
        rough = way("exact", **options)(in_float32(episode))
        assert {g.dtype for g in rough.weights.values()} == {torch.float32}
        return relative(replace(rough, weights={n: g.double() for n, g in rough.weights.items()}), exact(episode))

    assert gap(1e-4) < 1e-4
    assert gap(1e-3, hvp="finite_difference") < 2e-2


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="trajectory must be one of device, cpu, recompute, logarithmic; got 'disk'"):
        way("exact", trajectory="disk")(toy_episode())
    with pytest.raises(ValueError, match="3 inner steps need 4 shares, got 2"):
        toy_episode(step_weights=[0.5, 0.5]).episode()


@pytest.mark.parametrize("name", BLOCKING_LOSSES)
def test_equals_unrolled_with_every_loss(name) -> None:
    episode = toy_episode(view_loss=BLOCKING_LOSSES[name](), steps=2, rate=0.02)
    expected = unrolled(episode)
    assert_same(exact(episode), expected, rtol=1e-8, atol=1e-12)
    assert relative(FINITE(episode), expected) < 1e-5
    assert max(g.abs().max() for g in expected.weights.values()) > 1e-7
