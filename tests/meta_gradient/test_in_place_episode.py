"""An episode in the live model's modules equals the flat one, and leaves the live model bitwise as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from live_episodes import live_episode
from toy_episodes import EPSILON, assert_same, frozen_and_unwanted, half_moving, half_wanted, head_alone
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_selfdestruct.adversaries.optimizers import SGD, Adagrad, Adam, AdamW, NormalizedSGD, RMSprop
from hf_selfdestruct.meta_gradient.methods import method
from hf_selfdestruct.meta_gradient.trajectory import TRAJECTORIES

OPTIMIZERS = {
    "sgd": SGD(weight_decay=0.1),
    "momentum": SGD(momentum=0.9),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    "normalized": NormalizedSGD(),
    "adam": Adam(epsilon=EPSILON),
    "adamw": AdamW(epsilon=EPSILON, weight_decay=0.1),
    "rmsprop": RMSprop(epsilon=EPSILON, momentum=0.8),
    "adagrad": Adagrad(epsilon=EPSILON),
}
FIRST, FINITE = method("first_order"), method("exact", hvp="finite_difference")
WAYS = {"first_order": (FIRST, 1e-12), "exact": (FINITE, 1e-8)}  # and how close both episodes are


def assert_as_flat(live, way: str, close: float | None = None) -> None:
    compute, usual = WAYS[way]
    close = close or usual
    found, expected = compute(live.in_place), compute(live.flat)
    live.assert_untouched()
    for one, other in ((found.weights, expected.weights), (found.own, expected.own)):
        assert list(one) == list(other)
        a, b = (torch.cat([g.flatten() for g in gradients.values()]) for gradients in (one, other))
        assert (a - b).norm() <= close * b.norm()
        assert b.norm() > 1e-5
    for part in ("loss", "learning_rate", "losses", "scores"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), rtol=close, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_flat_episode_with_every_optimizer(name, way) -> None:
    assert_as_flat(live_episode(optimizer=OPTIMIZERS[name], rate=0.02), way)


@pytest.mark.parametrize("name", ["gpt2", "llama", "modernbert", "distilbert", "vit", "resnet"])
def test_equals_the_flat_episode_with_every_architecture(name) -> None:
    single = {"llama": 1e-6, "modernbert": 1e-6}  # norms or rotations are computed in float32
    assert_as_flat(live_episode(name), "first_order", single.get(name))
    # The differences of DistilBERT's toy magnify rounding.
    assert_as_flat(live_episode(name), "exact", {**single, "distilbert": 1e-7}.get(name))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", [head_alone, half_moving, half_wanted, frozen_and_unwanted])
def test_equals_the_flat_episode_whatever_moves_and_is_wanted(change, way) -> None:
    assert_as_flat(live_episode(change=change), way)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_every_way_to_store_the_trajectory_is_bitwise_the_same(steps) -> None:
    live = live_episode(steps=steps)
    one, *others = [method("exact", hvp="finite_difference", trajectory=kind)(live.in_place) for kind in TRAJECTORIES]
    for other in others:
        assert_same(other, one, rtol=0, atol=0)


class Failure(Exception):
    pass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fails_at", ["inner", "measure", "backward"])
def test_the_live_model_is_as_before_after_a_failure_in_mid_episode(way, fails_at) -> None:
    live = live_episode()
    episode = live.in_place

    def fail(*_):
        raise Failure

    def failing_loss(weights):
        loss = episode.inner_losses[1](weights)
        if fails_at == "backward":
            loss.register_hook(fail)
        elif fails_at == "inner":
            fail()
        return loss

    def failing_measure(weights):
        episode.measure(weights)
        fail()

    losses = [episode.inner_losses[0], failing_loss, *episode.inner_losses[2:]]
    changed = {"measure": failing_measure} if fails_at == "measure" else {"inner_losses": losses}
    with pytest.raises(Failure):
        WAYS[way][0](replace(episode, **changed))
    live.assert_untouched()
    assert_as_flat(live, way)


@pytest.mark.parametrize(("name", "reentrant"), [("bert", False), ("bert", True), ("llama", False), ("vit", False)])
def test_activation_checkpointing_changes_no_bit(name, reentrant) -> None:
    found, passes = [], []
    for checkpoints in (False, True):

        def prepare(model, checkpoints=checkpoints) -> None:
            if checkpoints:
                model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
            layer = next(m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))
            linear = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
            linear.register_forward_hook(lambda *_: passes.append(checkpoints))

        live = live_episode(name, prepare=prepare)
        found.append([compute(live.in_place) for compute, _ in WAYS.values()])
        live.assert_untouched()
    for one, other in zip(*found, strict=True):
        assert_same(one, other, rtol=0, atol=0)
    assert passes.count(True) > 1.9 * passes.count(False)  # each backward pass computes the layer again


def test_what_cannot_run_in_place_is_refused() -> None:
    live = live_episode()
    with pytest.raises(ValueError, match="an episode in place needs hvp='finite_difference', got 'double_backward'"):
        method("exact")(live.in_place)
    with pytest.raises(ValueError, match="'unrolled' does not run in place"):
        method("unrolled")(live.in_place)
