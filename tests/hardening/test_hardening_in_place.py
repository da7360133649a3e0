"""Hardening in place equals hardening on a copy of the weights, with every adversary and in every trainer."""

from __future__ import annotations

import pytest
import torch
from live_episodes import state, tensors
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.adversaries.optimizers import AdamW
from hf_selfdestruct.losses.blocking import GradientNorm, RepresentationProbe, UniformKL

FINITE = {"hvp": "finite_difference"}
ADVERSARIES = {
    "learned head": ("exact", {"head": "learned"}),
    "published head": ("first_order", {"head": "keep"}),
    "head alone": ("exact", {"trainable": "head"}),
    "last layer": ("first_order", {"trainable": "last_1"}),
    "adapters": ("exact", {"trainable": "lora", "dropout": True}),
    "prelude": ("first_order", {"prelude": 2, "dropout": True}),
}


@pytest.fixture
def meta_gradient(make_trainer, tiny_model, tmp_path):
    """The meta-gradient of a model in training mode, in float64; and whether the model is as it was."""

    def compute(episode: str, *, checkpoints: bool = False, mode: str = "first_order", **fields):
        adversary = {"steps": 4, "batch_size": 4, "learning_rate": 1e-2, "head": "random", "learns_rate": True}
        trainer = make_trainer(
            tmp_path,
            model=tiny_model(dropout=0.3).double(),
            meta_gradient=mode,
            method_options={"episode": episode, **(FINITE if mode == "exact" else {})},
            adversaries=[Adversary(AdamW(epsilon=1e-3), **{**adversary, **fields})],
            blocking_losses=[UniformKL(), RepresentationProbe(weight=0.1)],
        )
        model, simulator = trainer.model.train(), trainer.objective.simulator
        if checkpoints:
            model.activation_checkpointing_enable()
        before = state(model)
        found = simulator.meta_gradient(model, simulator.draw(0))
        for (one, bits), (other, now) in zip(before["tensors"], tensors(model), strict=True):
            assert one is other
            assert torch.equal(bits, now)
        assert [m.training for m in model.modules()] == before["training"]
        return found

    return compute


@pytest.mark.parametrize("name", ADVERSARIES)
def test_every_adversary_gives_the_same_meta_gradient_in_place(meta_gradient, name) -> None:
    mode, fields = ADVERSARIES[name]
    flat = meta_gradient("flat", mode=mode, **fields)
    one, other = (meta_gradient("in_place", mode=mode, checkpoints=c, **fields) for c in (False, True))
    close = 1e-12 if mode == "first_order" else 1e-8
    for part in ("weights", "own") if flat.own else ("weights",):
        ours, theirs, again = (torch.cat([*map(torch.flatten, getattr(g, part).values())]) for g in (one, flat, other))
        assert (ours - theirs).norm() <= close * theirs.norm()
        assert theirs.norm() > 0
        assert torch.equal(ours, again)  # activation checkpointing changes no bit
    assert one.learning_rate == pytest.approx(flat.learning_rate, rel=close)
    assert one.losses == pytest.approx(flat.losses, rel=1e-12)


class Witness(TrainerCallback):
    """Counts the passes through the first layer."""

    def on_train_begin(self, args, state, control, model, **_) -> None:
        self.passes = 0
        layer = next(m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))
        layer.intermediate.dense.register_forward_hook(self.count)

    def count(self, *_) -> None:
        self.passes += 1


def test_training_in_place_with_accumulation_and_checkpointing_is_training(make_trainer, tiny_model, tmp_path) -> None:
    weights, passes = [], []
    for episode, checkpointing in (("flat", False), ("in_place", False), ("in_place", True)):
        witness = Witness()
        trainer = make_trainer(
            tmp_path,
            model=tiny_model().double(),
            meta_gradient="first_order",
            method_options={"episode": episode},
            gradient_accumulation_steps=2,
            gradient_checkpointing=checkpointing,
            callbacks=[witness],
            max_steps=2,
        )
        trainer.train()
        weights.append({n: p.detach() for n, p in trainer.model.named_parameters()})
        passes.append(witness.passes)
    for found in weights[1:]:
        torch.testing.assert_close(found, weights[0], rtol=1e-7, atol=1e-9)
    assert passes[0] == 4  # the desired batches
    assert passes[1] == 4 + 4 * (2 + 3)  # and two inner steps and three measurements for each
    assert passes[2] > 2 * passes[1]  # once more in every backward pass, of which a measurement has two


@pytest.mark.parametrize(
    "settings",
    [
        {"meta_gradient": "unrolled"},
        {"meta_gradient": "exact"},
        {"meta_gradient": "first_order", "blocking_losses": [GradientNorm()]},
    ],
)
def test_what_needs_second_derivatives_is_refused_before_training(make_trainer, tmp_path, settings) -> None:
    with pytest.raises(ValueError, match=r"episode='in_place' runs the model's own kernels.*finite_difference"):
        make_trainer(tmp_path, method_options={"episode": "in_place"}, **settings)
