"""Gradient accumulation: micro-batches, their losses and their adversaries."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from trainer_state import assert_bitwise, still, weights_of
from transformers import TrainerCallback


@pytest.mark.parametrize("method", ["mlac", "ac"])
def test_accumulation_averages_whole_micro_batches(make_trainer, tmp_path, method) -> None:
    seen = {}

    class Spy(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen["gradients"] = {n: p.grad.clone() for n, p in model.named_parameters()}
            seen["own"] = [g.clone() for a in trainer.objective.simulator.learned.values() for g in a.gradients()]

    arguments = {
        "method": method,
        "gradient_accumulation_steps": 4,
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "learning_rate": 0.0,
        "adversary": {"head_learning_rate": 1e-12},
    }
    trainer = make_trainer(tmp_path, callbacks=[Spy()], **arguments)
    # The spy looks before the adversary's own step empties its gradients.
    callbacks = trainer.callback_handler.callbacks
    callbacks.sort(key=lambda callback: not isinstance(callback, Spy))
    start = weights_of(trainer.model)
    batches = []
    compute = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **k: (
        batches.append(copy.deepcopy(dict(inputs))),
        compute(model, inputs, *a, **k),
    )[1]
    trainer.train()
    assert [len(batch["labels"]) for batch in batches] == [2, 2, 2, 2]

    other = make_trainer(tmp_path, **arguments)
    assert_bitwise(weights_of(other.model), start)
    other.model.train()
    expected = {n: torch.zeros_like(p) for n, p in other.model.named_parameters()}
    own = None
    for batch in batches:
        other.model.zero_grad()
        other.current_gradient_accumulation_steps = 1
        other.training_step(other.model, dict(batch))
        for n, p in other.model.named_parameters():
            expected[n] += p.grad / 4
    own = [g / 4 for a in other.objective.simulator.learned.values() for g in a.gradients()]
    for n, gradient in seen["gradients"].items():
        torch.testing.assert_close(gradient, expected[n], rtol=1e-4, atol=1e-7)
    assert max(g.abs().max() for g in expected.values()) > 1e-3
    assert len(own) == len(seen["own"]) == (3 if method == "mlac" else 2)
    for found, wanted in zip(seen["own"], own, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def summed(outputs, labels, num_items_in_batch):
    """A loss as users of ``compute_loss_func`` write it."""
    return cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_loss_of_the_users_own_weighs_as_much_as_the_models(make_trainer, tmp_path, weight) -> None:
    found = []
    for number, function in enumerate((None, summed)):
        options = {"gradient_accumulation_steps": 4, "blocking_weight": weight, "compute_loss_func": function}
        trainer = make_trainer(tmp_path / str(number), logging_steps=1, **options)
        trainer.train()
        found.append((weights_of(trainer.model), trainer.evaluate()["eval_loss"]))
    (one, loss), (other, same) = found
    assert same == pytest.approx(loss)
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_a_second_training_keeps_the_first_ones_start_as_the_base(make_trainer, tiny_model, tmp_path) -> None:
    trainer = make_trainer(tmp_path, model=tiny_model())
    before = weights_of(trainer.model)
    trainer.train()
    trainer.train()
    base = load_file(tmp_path / "_base" / "model.safetensors")
    assert_bitwise({n: base[n] for n in before}, before)
    assert len(still(before, weights_of(trainer.model))) == 0


def test_every_micro_batch_draws_its_own_adversary(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path)
    keys = [trainer.objective.simulator.draw(trainer.state.global_step).key for _ in range(3)]
    trainer.state.global_step = 1
    keys += [trainer.objective.simulator.draw(trainer.state.global_step).key for _ in range(2)]
    assert len(set(keys)) == 5
    assert keys[0] == ("blocked", 7, 0, 0, 0)
    assert keys[4] == ("blocked", 7, 1, 1, 0)
