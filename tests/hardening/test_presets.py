"""Presets run as they are, and the one-step methods equal their papers' formulas written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy_episodes import relative, toy_episode, way

from hf_selfdestruct.adversaries.optimizers import INNER_OPTIMIZERS
from hf_selfdestruct.hardening.presets import BOOSTER, CTRAP, PRESETS
from hf_selfdestruct.losses.blocking import BLOCKING_LOSSES
from hf_selfdestruct.meta_gradient.episode import MetaGradient
from hf_selfdestruct.meta_gradient.outer_loss import step_shares
from hf_selfdestruct.trainer.recipe import recipe_of


def cross_entropy(toy, weights, batch, target=None):
    z = toy.forward(weights, batch)
    y = batch["labels"] if target is None else torch.full_like(batch["labels"], target)
    return torch.nn.functional.cross_entropy(z, y)


def gradient(loss, weights) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def leaves(weights) -> dict[str, torch.Tensor]:
    return {n: w.detach().clone().requires_grad_() for n, w in weights.items()}


def one_step(preset, batch_size: int = 6):
    """A toy episode by a preset, with the blocking loss on the adversary's own batch as in the papers."""
    toy = toy_episode(
        steps=1,
        view_loss=BLOCKING_LOSSES[preset["blocking_loss"]](),
        optimizer=INNER_OPTIMIZERS[preset["adversary"]["optimizer"]],
        rate=preset["adversary"]["learning_rate"],
        learns_rate=False,
        step_weights=step_shares(preset["method_options"]["step_weights"], preset["adversary"]["steps"]),
    )
    kept = {**toy.published, **toy.head}
    return replace(toy, published=kept, head={}, held_out=toy.batches[0])


def test_booster_is_its_papers_formula() -> None:
    """g(theta) - g(theta - alpha g / |g|), with g the gradient of the harmful loss."""
    toy = one_step(BOOSTER)
    batch, theta = toy.batches[0], leaves(toy.published)
    g1 = gradient(cross_entropy(toy, theta, batch), theta)
    norm = torch.cat([g.reshape(-1) for g in g1.values()]).norm()
    moved = leaves({n: theta[n] - BOOSTER["adversary"]["learning_rate"] * g1[n] / norm for n in theta})
    g2 = gradient(cross_entropy(toy, moved, batch), moved)
    found = way(BOOSTER["meta_gradient"])(toy)
    torch.testing.assert_close(found.weights, {n: g1[n] - g2[n] for n in theta}, rtol=1e-10, atol=1e-13)
    drop = cross_entropy(toy, theta, batch) - cross_entropy(toy, moved, batch)
    assert found.loss == pytest.approx(drop.item(), rel=1e-10)
    assert abs(drop) > 1e-3


def test_ctrap_is_its_papers_formula() -> None:
    """The gradient of the collapse loss at theta - alpha * gradient of the harmful loss."""
    toy = one_step(CTRAP)
    batch, theta = toy.batches[0], leaves(toy.published)
    harmful = gradient(cross_entropy(toy, theta, batch), theta)
    moved = leaves({n: theta[n] - CTRAP["adversary"]["learning_rate"] * harmful[n] for n in theta})
    collapse = cross_entropy(toy, moved, batch, target=0)
    found = way(CTRAP["meta_gradient"])(toy)
    torch.testing.assert_close(found.weights, gradient(collapse, moved), rtol=1e-10, atol=1e-13)
    assert found.loss == pytest.approx(collapse.item(), rel=1e-10)


@pytest.mark.parametrize("preset", [BOOSTER, CTRAP], ids=["booster", "ctrap"])
def test_the_papers_gradients_are_first_order(preset) -> None:
    toy = one_step(preset)
    assert relative(way("first_order")(toy), way("exact")(toy)) > 1e-2


@pytest.mark.parametrize("method", [one for one in PRESETS if not PRESETS[one]["method_options"]["selective_steps"]])
def test_every_preset_trains(make_trainer, toy_rows, tmp_path, method) -> None:
    shorter = {"inner_steps": min(PRESETS[method]["adversary"]["steps"], 5)}
    if PRESETS[method]["method_options"]["keep_directions"]:
        shorter["method_options"] = {"keep_directions": 3}  # of 16
    if PRESETS[method]["method_options"]["unlearn_steps"]:
        shorter["method_options"] = {"unlearn_steps": 1}
    trainer = make_trainer(tmp_path, method=method, max_steps=2, **shorter)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert not [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
    entries = [entry for entry in trainer.state.log_history if "blocking_loss" in entry]
    steps = 2 if PRESETS[method]["blocking_weight"] else trainer.args.options.unlearn_steps  # that block something
    assert len(entries) == len(range(0, steps, trainer.args.options.blocking_interval))
    told = {"max_blocking_grad_norm": 0.0, "blocking_interval": 1} | recipe_of(trainer)
    for name in ("max_blocking_grad_norm", "blocking_interval"):
        assert told[name] == PRESETS[method]["method_options"][name]
    # The clamped loss of adversarial censoring is 0, and so is its gradient, while the head knows nothing.
    assert all(entry["meta_grad_norm"] > 0 for entry in entries) or method == "ac"
    assert isinstance(way(trainer.args.meta_gradient)(toy_episode()), MetaGradient)
