"""The trainer as a whole: what moves, what resumes, what is refused, and that blocking blocks."""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cross_entropy
from transformers import (
    BertForQuestionAnswering,
    BertForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from hf_selfdestruct import heads
from hf_selfdestruct.adversary import Adversary
from hf_selfdestruct.checkpoints import STATE_FILE
from hf_selfdestruct.inner_optimizers import SGD
from hf_selfdestruct.losses import UniformKL
from hf_selfdestruct.scene import Draw, Scene
from hf_selfdestruct.skeletons import OWN
from hf_selfdestruct.trainer import SelfDestructTrainer
from hf_selfdestruct.trainer_checks import check_plugins, warn_of_association
from hf_selfdestruct.training_args import INNER_OPTIMIZERS, SelfDestructTrainingArguments

MODES = ("exact", "unrolled", "first_order")


def weights_of(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def learned_of(trainer) -> dict[str, torch.Tensor]:
    return {
        f"{key}/{n}": value.detach().clone()
        for key, adversary in trainer.simulation.learned.items()
        for n, value in adversary.state_dict().items()
    }


def still(before, after) -> set[str]:
    return {n for n, value in before.items() if torch.equal(value, after[n])}


def assert_bitwise(one, other) -> None:
    assert set(one) == set(other)
    assert not [n for n in one if not torch.equal(one[n], other[n])]


def moments_of(trainer) -> dict[str, torch.Tensor]:
    state = trainer.optimizer.state_dict()["state"]
    found = {f"{i}/{key}": value for i, moments in state.items() for key, value in moments.items()}
    assert len(found) >= 2 * len(list(trainer.model.parameters()))
    return found


def scene_of(trainer, *key) -> Scene:
    """What the first adversary does to the first task in the micro-step of this key."""
    recipe = trainer.adversaries[0].draw(0, *key)
    return Scene(trainer.simulation, trainer.model, Draw(trainer.blocked_tasks[0], 0, recipe, key))


def bones_of(trainer):
    """The weightless models that stand for the first adversary's."""
    return [skeleton.module for skeleton in next(iter(trainer.simulation._skeletons.values())).values()]


# What moves


@pytest.mark.parametrize("mode", MODES)
def test_everything_that_should_move_moves(make_trainer, tmp_path, mode) -> None:
    trainer = make_trainer(tmp_path, meta_gradient=mode)
    before, own = weights_of(trainer.model), learned_of(trainer)
    trainer.train()
    assert still(before, weights_of(trainer.model)) == set()
    after = learned_of(trainer)
    assert len(own) == 3  # head weight, head bias, log rate
    assert still(own, after) == set()
    rates = [entry["adversary_lr"] for entry in trainer.state.log_history if "adversary_lr" in entry]
    assert rates[0] == pytest.approx(3e-4)
    assert len(set(rates)) == 3


def test_the_blocking_loss_moves_the_trunk_and_leaves_the_desired_head_alone(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path)
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # as `train` sets it

    def gradients(weight: float):
        trainer.args.blocking_weight = weight
        trainer.simulation._last = (-1, 0)
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()
        return {n: p.grad.clone() for n, p in trainer.model.named_parameters()}

    desired, once, thrice = gradients(0.0), gradients(1.0), gradients(3.0)
    own = set(heads.head_names(trainer.model))
    assert len(own) == 2
    for n in desired:
        if n in own:
            assert torch.equal(desired[n], once[n])
        else:
            torch.testing.assert_close(thrice[n] - desired[n], 3 * (once[n] - desired[n]), rtol=1e-3, atol=1e-6)
    assert max((once[n] - desired[n]).abs().max().item() for n in desired) > 1e-4


def test_adversarial_censoring_trains_its_head_without_inner_steps(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, method="ac", inner_steps=None)
    assert trainer.adversaries[0].steps == 0
    before, own = weights_of(trainer.model), learned_of(trainer)
    trainer.train()
    assert still(before, weights_of(trainer.model)) == set()
    unmoved = still(own, learned_of(trainer))
    assert [n.rpartition("/")[2] for n in unmoved] == ["log_rate"]
    logged = trainer.state.log_history[0]
    assert "blocked_accuracy/step_0" in logged
    assert "blocked_accuracy/step_1" not in logged


def test_the_learned_adversary_takes_the_opposite_side(make_trainer, tmp_path) -> None:
    trainer = make_trainer(
        tmp_path,
        inner_steps=0,
        learning_rate=0.0,
        max_steps=60,
        adversary_head_learning_rate=0.05,
        blocking_batch_size=12,
        model=None,
    )
    before = weights_of(trainer.model)
    trainer.train()
    assert still(before, weights_of(trainer.model)) == set(before)
    # Against a model that holds still, the head alone gets better at the blocked task.
    losses = [entry["blocking_loss"] for entry in trainer.state.log_history if "blocking_loss" in entry]
    heads_ = [learned.head for learned in trainer.simulation.learned.values()]
    fresh = heads.draw(bones_of(trainer)[0], heads_[0], 0)
    assert set(heads_[0]) == set(fresh)
    episodes = [scene_of(trainer, i).episode() for i in range(20)]

    def entropy(head) -> float:
        own = {OWN + n: value for n, value in head.items()}
        return sum(e.measure({**e.published, **own}).entropy.item() for e in episodes) / len(episodes)

    assert entropy(heads_[0]) < entropy(fresh) - 1e-3
    assert all(math.isfinite(v) for v in losses)


@pytest.mark.parametrize("mode", MODES)
def test_every_architecture_trains(make_trainer, tiny_model, tmp_path, architecture, mode) -> None:
    model = tiny_model(architecture, num_labels=3)
    trainer = make_trainer(tmp_path, model=model, max_steps=2, meta_gradient=mode, blocking_losses=[UniformKL()])
    kernel = model.config._attn_implementation
    before, own = weights_of(model), learned_of(trainer)
    trainer.train()
    assert model.config._attn_implementation == kernel
    trunk = heads.trunk_prefix(model)
    # Key biases cancel in the softmax: they may stay.
    assert {n for n in still(before, weights_of(model)) if not n.endswith(("k_lin.bias", "key.bias"))} == set()
    assert any(n.startswith(trunk) for n in before)
    assert still(own, learned_of(trainer)) == set()
    losses = [
        entry[name]
        for entry in trainer.state.log_history
        if "loss" in entry
        for name in ("loss", "desired_loss", "blocking_loss", "meta_grad_norm")
    ]
    assert len(losses) == 8
    assert all(math.isfinite(value) for value in losses)
    assert all(value > 0 for value in losses)


def test_trunk_gets_the_meta_gradient_alone_where_the_desired_loss_has_none(make_trainer, tiny_model, tmp_path) -> None:
    """With no desired gradient left (a zero desired head) the trunk still moves, by the blocking loss."""
    model = tiny_model()
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.weight.requires_grad_(False)
    trainer = make_trainer(tmp_path, model=model, weight_decay=0.0)
    before = weights_of(model)
    trainer.train()
    unmoved = still(before, weights_of(model))
    assert "classifier.weight" in unmoved
    assert {n for n in unmoved if not n.endswith("key.bias")} == {"classifier.weight"}


def test_frozen_weights_stay_frozen(make_trainer, tiny_model, tmp_path) -> None:
    model = tiny_model()
    frozen = {n for n, _ in model.named_parameters() if "embeddings" in n}
    for n, p in model.named_parameters():
        p.requires_grad_(n not in frozen)
    trainer = make_trainer(tmp_path, model=model)
    before = weights_of(model)
    trainer.train()
    assert frozen
    assert still(before, weights_of(model)) == frozen


# Heads and what the adversary trains


def test_keep_is_refused_for_another_label_space(make_trainer, tiny_model, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"'keep'.*3 labels, blocked task 'blocked' has 2; use 'learned' or 'random'"):
        make_trainer(tmp_path, model=tiny_model(num_labels=3), adversary_head="keep")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "fields",
    [
        {"adversary_head": "keep"},
        {"adversary_head": "keep", "adversary_trainable": "head"},
        {"adversary_head": "random"},
        {"adversary_head": "random", "adversary_trainable": "head"},
        {"adversary_trainable": "head"},
        {"adversary_optimizer": "sgd", "adversary_learning_rate": 1e-2},
        {"adversary_learning_rate_max": 1e-2},
        {"step_weights": "last"},
        {"step_weights": "exponential"},
        {"blocking_loss": "uniform_kl"},
        {"inner_steps": 4, "blocking_every": 3},
        {"adversary_examples": 5},
        {"adversary_trainable": "last_1"},
        {"adversary_trainable": "lora"},
        {"adversary_prelude": 2},
        {"adversary_dropout": True},
        {"hvp": "finite_difference", "trajectory": "recompute"},
        *({"adversary_optimizer": name, "adversary_learning_rate": 1e-3} for name in INNER_OPTIMIZERS),
    ],
    ids=lambda fields: "-".join(str(v) for v in fields.values()),
)
def test_every_kind_of_adversary_blocks(make_trainer, tmp_path, mode, fields) -> None:
    defaults = {"adversary_learning_rate": 3e-3, "meta_gradient": mode, "learning_rate": 3e-3, "max_steps": 2}
    trainer = make_trainer(tmp_path, **{**defaults, **fields})
    plain = make_trainer(tmp_path / "plain", blocking_weight=0.0, **{**defaults, **fields})
    before = weights_of(trainer.model)
    trainer.train()
    plain.train()
    after, reference = weights_of(trainer.model), weights_of(plain.model)
    assert still(before, after) == set()
    trunk = {n for n in after if n.startswith("bert.")}
    assert still(reference, after) & trunk == set()  # the blocking loss has changed every weight of the trunk
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["meta_grad_norm"] > 1e-6 for entry in logged)


def test_an_inner_loop_over_the_head_alone_leaves_the_trunk_still(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, adversary_trainable="head")
    episode = scene_of(trainer, "x").episode()
    assert episode.moving == {OWN + "classifier.weight", OWN + "classifier.bias"}
    assert not any("classifier" in n for n in episode.published)


def test_a_random_head_is_another_one_in_every_step(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, adversary_head="random")

    def head(*key):
        return scene_of(trainer, *key).episode().own[OWN + "classifier.weight"]

    assert torch.equal(head("a", 0), head("a", 0))
    assert not torch.equal(head("a", 0), head("a", 1))
    assert all(not learned.head for learned in trainer.simulation.learned.values())


def test_the_adversary_never_sees_the_held_out_rows(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path)
    task = trainer.blocked_tasks[0]
    rows = {tuple(row): i for i, row in enumerate(task.train["input_ids"][:])}
    inner, held_out = set(), set()
    for step in range(40):
        scene = scene_of(trainer, step)
        assert [len(batch["labels"]) for batch in scene.blocked] == [4, 4]
        for seen, batches in ((inner, scene.blocked), (held_out, [scene.held_out])):
            for batch in batches:
                found = [rows[tuple(row)] for row in batch["input_ids"].tolist()]
                assert batch["labels"].tolist() == task.labels("train")[found].tolist()
                seen.update(found)
    assert inner == set(task.adversary_rows().tolist())
    assert held_out == set(task.held_out_rows().tolist())
    assert not inner & held_out


def test_adversaries_and_losses_given_as_objects_are_used(make_trainer, tmp_path) -> None:
    adversaries = [
        Adversary(optimizer=SGD(momentum=0.9), learning_rate=1e-2, steps=1, head="random"),
        Adversary(learning_rate=1e-3, steps=3, learns_rate=True),
    ]
    trainer = make_trainer(tmp_path, adversaries=adversaries, blocking_losses=[UniformKL(), UniformKL()], max_steps=8)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert {sum("blocked_accuracy" in n for n in entry) for entry in logged} == {2, 4}
    once = make_trainer(tmp_path, adversaries=adversaries, blocking_losses=[UniformKL()], max_steps=1)
    once.train()
    assert logged[0]["blocking_loss"] == pytest.approx(2 * once.state.log_history[0]["blocking_loss"], rel=1e-5)


# Gradient accumulation


@pytest.mark.parametrize("method", ["mlac", "ac"])
def test_accumulation_averages_whole_micro_batches(make_trainer, tmp_path, method) -> None:
    seen = {}

    class Spy(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen["gradients"] = {n: p.grad.clone() for n, p in model.named_parameters()}
            seen["own"] = [g.clone() for a in trainer.simulation.learned.values() for g in a.gradients()]

    arguments = {
        "method": method,
        "gradient_accumulation_steps": 4,
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "learning_rate": 0.0,
        "adversary_head_learning_rate": 1e-12,
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
        other.compute_loss(other.model, dict(batch)).backward()
        for n, p in other.model.named_parameters():
            expected[n] += p.grad / 4
    own = [g / 4 for a in other.simulation.learned.values() for g in a.gradients()]
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
    keys = [trainer.simulation.draw(trainer.state.global_step).key for _ in range(3)]
    trainer.state.global_step = 1
    keys += [trainer.simulation.draw(trainer.state.global_step).key for _ in range(2)]
    assert len(set(keys)) == 5
    assert keys[0] == ("blocked", 7, 0, 0, 0)
    assert keys[4] == ("blocked", 7, 1, 1, 0)


# Resuming


RESUME = {
    "max_steps": 6,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 2,
    "save_steps": 3,
    "save_strategy": "steps",
    "adversary_learning_rate": 1e-3,
}


def run(make_trainer, tiny_model, folder, *, resume=None, **arguments):
    trainer = make_trainer(folder, model=tiny_model(dropout=0.2), **{**RESUME, **arguments})
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("mode", MODES)
def test_resuming_is_bitwise_the_uninterrupted_run(make_trainer, tiny_model, tmp_path, mode) -> None:
    whole = run(make_trainer, tiny_model, tmp_path / "whole", meta_gradient=mode)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    resumed = run(make_trainer, tiny_model, tmp_path / "cut", meta_gradient=mode, resume=True)
    assert resumed.state.global_step == whole.state.global_step == 6
    assert_bitwise(weights_of(resumed.model), weights_of(whole.model))
    assert_bitwise(learned_of(resumed), learned_of(whole))
    assert_bitwise(moments_of(resumed), moments_of(whole))
    assert len(learned_of(whole)) == 3 + 3 * 3  # head, bias and rate, each with Adam's step and two moments
    third = load_file(tmp_path / "whole" / "checkpoint-3" / "model.safetensors")
    assert not still(weights_of(whole.model), third)  # the second half did train


def test_resuming_by_path_and_dropout_matters(make_trainer, tiny_model, tmp_path) -> None:
    whole = run(make_trainer, tiny_model, tmp_path)
    resumed = run(make_trainer, tiny_model, tmp_path, resume=str(tmp_path / "checkpoint-3"))
    assert_bitwise(weights_of(resumed.model), weights_of(whole.model))
    other = run(make_trainer, tiny_model, tmp_path / "other", seed=8)
    assert still(weights_of(other.model), weights_of(whole.model)) == set()


@pytest.mark.parametrize("damage", ["missing", "cut off", "no adversary"])
def test_a_half_written_checkpoint_is_skipped(make_trainer, tiny_model, tmp_path, damage, caplog) -> None:
    whole = run(make_trainer, tiny_model, tmp_path / "whole")
    folder = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", folder)
    last = folder / "checkpoint-6"
    if damage == "missing":
        (last / "trainer_state.json").unlink()
    elif damage == "cut off":
        text = (last / "trainer_state.json").read_text()
        (last / "trainer_state.json").write_text(text[: len(text) // 2])
    else:
        (last / STATE_FILE).unlink()
    with caplog.at_level(logging.WARNING, logger="hf_selfdestruct.checkpoints"):
        resumed = run(make_trainer, tiny_model, folder, resume=True)
    assert "checkpoint-6" in caplog.text
    assert_bitwise(weights_of(resumed.model), weights_of(whole.model))
    assert_bitwise(learned_of(resumed), learned_of(whole))
    assert_bitwise(moments_of(resumed), moments_of(whole))
    assert json.loads((last / "trainer_state.json").read_text())["global_step"] == 6
    written, expected = load_file(last / STATE_FILE), load_file(tmp_path / "whole" / "checkpoint-6" / STATE_FILE)
    assert written.pop("run.seconds") > 0
    assert expected.pop("run.seconds") > 0
    assert_bitwise(written, expected)


def test_checkpoint_100_is_newer_than_checkpoint_20(make_trainer, tiny_model, tmp_path) -> None:
    from hf_selfdestruct.checkpoints import last_complete

    run(make_trainer, tiny_model, tmp_path)
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "checkpoint-100")
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "checkpoint-20")
    assert last_complete(str(tmp_path)) == str(tmp_path / "checkpoint-100")


def test_resuming_from_nothing_is_an_error(make_trainer, tmp_path) -> None:
    with pytest.raises(ValueError, match="no complete checkpoint"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_resuming_from_a_plain_checkpoint_or_with_other_tasks_is_an_error(
    make_trainer, tiny_model, toy_task, tmp_path
) -> None:
    run(make_trainer, tiny_model, tmp_path)
    folder = tmp_path / "checkpoint-3"
    with pytest.raises(ValueError, match="blocked tasks and adversaries of the first run"):
        run(make_trainer, tiny_model, tmp_path, resume=str(folder), blocked_tasks=[toy_task("another")])
    (folder / STATE_FILE).unlink()
    with pytest.raises(ValueError, match=f"no {STATE_FILE}.*name an earlier checkpoint"):
        run(make_trainer, tiny_model, tmp_path, resume=str(folder))


def test_checkpoints_hold_the_stock_model(make_trainer, tiny_model, tmp_path) -> None:
    trainer = run(make_trainer, tiny_model, tmp_path)
    trainer.save_model()
    again = type(trainer.model).from_pretrained(tmp_path)
    assert_bitwise(weights_of(again), weights_of(trainer.model))
    base = type(trainer.model).from_pretrained(tmp_path / "_base")
    assert_bitwise(weights_of(base), weights_of(tiny_model(dropout=0.2)))


# Precision


def test_bf16_is_for_the_outer_step_and_float32_for_the_inner_loop(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, bf16=True, max_steps=2)
    live, inner = [], []
    layer = "bert.encoder.layer.0.intermediate.dense"
    trainer.model.get_submodule(layer).register_forward_hook(lambda m, i, out: live.append(out.dtype))
    for bones in bones_of(trainer):
        bones.get_submodule(layer).register_forward_hook(lambda m, i, out: inner.append(out.dtype))
    before = weights_of(trainer.model)
    trainer.train()
    assert live == [torch.bfloat16] * 2
    assert inner == [torch.float32] * 2 * (3 * 2 + 1)  # forwards, Hessian-vector products, and K + 1 readings
    assert still(before, weights_of(trainer.model)) == set()
    assert all(value.dtype == torch.float32 for value in weights_of(trainer.model).values())
    first = trainer.state.log_history[0]
    full = make_trainer(tmp_path, max_steps=1)
    full.train()
    exact = full.state.log_history[0]
    assert first["desired_loss"] != exact["desired_loss"]
    assert first["desired_loss"] == pytest.approx(exact["desired_loss"], rel=2e-2)
    assert first["blocking_loss"] == exact["blocking_loss"]
    assert first["meta_grad_norm"] == exact["meta_grad_norm"]


def test_bf16_weights_take_part_in_the_inner_loop_in_float32(make_trainer, tiny_model, tmp_path) -> None:
    trainer = make_trainer(tmp_path, model=tiny_model().bfloat16(), learning_rate=1e-2)
    inner = []
    for bones in bones_of(trainer):
        bones.register_forward_hook(lambda m, i, out: inner.append(out.logits.dtype))
    before = weights_of(trainer.model)
    trainer.train()
    assert inner
    assert set(inner) == {torch.float32}
    after = weights_of(trainer.model)
    assert {value.dtype for value in after.values()} == {torch.bfloat16}
    assert {n for n in still(before, after) if before[n].dim() > 1} == set()


@pytest.mark.parametrize(
    "options",
    [{"meta_gradient": "first_order"}, {"hvp": "double_backward"}, {"hvp": "finite_difference"}],
    ids=lambda options: next(iter(options.values())),
)
def test_autocast_stays_outside_the_inner_loop(make_trainer, tiny_model, tmp_path, options) -> None:
    """In bfloat16, finite differences would be noise; see benchmarks/precision.md."""

    def gradient(model, *, autocast):
        trainer = make_trainer(tmp_path, model=model, **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return trainer.simulation.meta_gradient(model, trainer.simulation.draw(0)).weights

    plain, under = (gradient(tiny_model(), autocast=autocast) for autocast in (False, True))
    double = gradient(tiny_model().double(), autocast=False)
    assert all(torch.equal(plain[name], under[name]) for name in plain)
    single, wanted = (torch.cat([w.double().flatten() for w in found.values()]) for found in (plain, double))
    assert torch.nn.functional.cosine_similarity(single, wanted, dim=0) > 0.9999


# What is refused, and what is warned of


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ({"activation_checkpointing": True}, "activation_checkpointing=False"),
        ({"gradient_checkpointing": True}, "activation_checkpointing=False"),
        ({"torch_compile": True}, "torch_compile=False"),
        ({"fp16": True}, "bf16=True"),
        ({"fsdp": True, "adversary_scope": "global"}, "ignores FSDP on the CPU"),
        ({"hub_strategy": "every_save"}, "hub_strategy='end'"),
        ({"ddp_find_unused_parameters": True}, "ddp_find_unused_parameters=False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_options_are_refused_with_the_cure(make_trainer, tmp_path, option, cure, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # transformers writes here; put back afterwards
    with pytest.raises(ValueError, match=cure):
        make_trainer(tmp_path, **option)


@pytest.mark.parametrize(
    ("plugin", "fsdp", "cure"),
    [
        ("is_deepspeed_enabled", None, "DeepSpeed, which owns the backward pass; launch without it"),
        ("is_fsdp_enabled", None, "set fsdp=True and adversary_scope='global'"),
        ("is_fsdp_enabled", True, None),
    ],
)
def test_what_accelerate_was_configured_to_is_looked_at(make_trainer, tmp_path, plugin, fsdp, cure) -> None:
    trainer = make_trainer(tmp_path)
    setattr(trainer, plugin, True)
    trainer.args.fsdp = fsdp
    with pytest.raises(ValueError, match=cure) if cure else nullcontext():
        check_plugins(trainer)


def test_a_refused_compilation_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    """In a notebook, the next cell must not be compiled because of an option refused in this one."""
    import os

    for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="torch_compile"):
        SelfDestructTrainingArguments(str(tmp_path), torch_compile=True, use_cpu=True)
    assert "ACCELERATE_DYNAMO_BACKEND" not in os.environ


def test_wrong_kinds_of_things_are_refused(make_trainer, tiny_model, toy_task, tmp_path) -> None:
    with pytest.raises(ValueError, match="blocked_tasks is empty"):
        make_trainer(tmp_path, blocked_tasks=[])
    with pytest.raises(TypeError, match="BlockedTask objects, got dict"):
        make_trainer(tmp_path, blocked_tasks=[{"name": "x"}])
    with pytest.raises(ValueError, match="different names; got blocked, blocked"):
        make_trainer(tmp_path, blocked_tasks=[toy_task(), toy_task()])
    with pytest.raises(TypeError, match="PreTrainedModel, got Linear"):
        make_trainer(tmp_path, model=torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"BertModel has no head.*keeping_losses="):
        make_trainer(tmp_path, model=tiny_model().bert)
    with pytest.raises(TypeError, match="SelfDestructTrainingArguments, got TrainingArguments"):
        SelfDestructTrainer(model=tiny_model(), args=TrainingArguments(str(tmp_path)), blocked_tasks=[toy_task()])
    raw = {
        role: Dataset.from_dict({"text": [f"{role} {i}" for i in range(10)], "blocked": [0, 1] * 5})
        for role in ("train", "attack")
    }
    with pytest.raises(ValueError, match=r"'blocked', split 'train'.*tokenise"):
        make_trainer(tmp_path, blocked_tasks=[toy_task(**raw, test=None)])
    lazy = raw["train"].with_transform(lambda rows: {"input_ids": [[1, 2]] * len(rows["text"])})
    with pytest.raises(ValueError, match=r"'blocked', split 'train'.*with_transform\(\).*by map\(\)"):
        make_trainer(tmp_path, blocked_tasks=[toy_task(train=lazy, test=None)])


def test_probes_of_too_few_held_out_rows_are_refused(make_trainer, toy_task, tmp_path) -> None:
    few, enough = [toy_task(rows=10)], [toy_task(rows=20)]
    with pytest.raises(ValueError, match=r"needs 4 held-out rows or more, blocked task 'blocked' gives it 2 .*of 10"):
        make_trainer(tmp_path, probe_weight=1.0, blocked_tasks=few)
    with pytest.raises(ValueError, match=r"gives it 3 .*blocking_batch_size=3"):
        make_trainer(tmp_path, probe_weight=1.0, blocked_tasks=enough, blocking_batch_size=3)
    make_trainer(tmp_path, probe_weight=1.0, blocked_tasks=enough).train()
    make_trainer(tmp_path, blocked_tasks=few)


def associated(toy_rows, toy_task, *, independent: bool):
    rows = toy_rows(80, seed=3)
    desired, blocked = rows.remove_columns("blocked"), rows.remove_columns("labels")
    if not independent:
        blocked = rows.remove_columns("blocked").rename_column("labels", "blocked")
    return {"train_dataset": desired, "blocked_tasks": [toy_task(train=blocked)]}


def test_adapters_and_frozen_trunks_that_nothing_would_reach_are_refused(make_trainer, tiny_model, tmp_path) -> None:
    adapted, frozen = tiny_model(), tiny_model()
    adapted.add_adapter(LoraConfig(r=2, target_modules=["query"]))
    frozen.base_model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"PEFT adapters.*adversary_trainable='lora'"):
        make_trainer(tmp_path, model=adapted)
    with pytest.raises(ValueError, match="unfreeze layers of the trunk"):
        make_trainer(tmp_path, model=frozen)
    make_trainer(tmp_path, model=frozen, blocking_weight=0).train()
    frozen.base_model.encoder.layer[-1].requires_grad_(True)
    make_trainer(tmp_path, model=frozen).train()


@pytest.mark.parametrize(
    ("kind", "shown"),
    [(BertForTokenClassification, r"logits of shape \(2, 8, 2\)"), (BertForQuestionAnswering, "no logits")],
)
def test_a_head_that_is_not_for_whole_rows_is_refused(make_trainer, tiny_model, tmp_path, kind, shown) -> None:
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4, "attention_mask": [[1, 1, 1]] * 4})
    with pytest.raises(ValueError, match=f"{kind.__name__} gives {shown} for 2 blocked rows.*model_class="):
        make_trainer(tmp_path, model=kind(tiny_model().config), train_dataset=rows, eval_dataset=rows)


def test_a_collator_that_cannot_batch_blocked_rows_is_refused(make_trainer, tmp_path) -> None:
    def collate(rows):
        return default_data_collator([{**row, "labels": row["label"]} for row in rows])

    with pytest.raises(ValueError, match=r"'blocked': the data collator.*attention_mask.*KeyError.*data_collator="):
        make_trainer(tmp_path, data_collator=collate)


def test_entangled_labels_are_warned_of(make_trainer, toy_rows, toy_task, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="hf_selfdestruct.trainer_checks"):
        make_trainer(tmp_path, **associated(toy_rows, toy_task, independent=True))
        assert "determine each other" not in caplog.text
        make_trainer(tmp_path, **associated(toy_rows, toy_task, independent=False))
        assert "'blocked' and the desired task nearly determine each other on the 80 rows" in caplog.text
        assert "U 1.00" in caplog.text


@pytest.mark.parametrize("label", [[0, 1, 1], [1.0, 0.0], [[0, 1], [1]], 0.5])
def test_labels_that_are_no_classes_are_compared_with_nothing(toy_rows, toy_task, label) -> None:
    rows = toy_rows(60, seed=10, columns=("blocked",))
    desired = rows.remove_columns("blocked").add_column("labels", [label] * len(rows))
    warn_of_association([toy_task(train=rows)], desired)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_formatted_datasets_work_as_they_do_for_the_trainer(make_trainer, toy_rows, toy_task, tmp_path, kind) -> None:
    data = {
        role: toy_rows(60, seed=10 + i, columns=("blocked",)).with_format(kind)
        for i, role in enumerate(("train", "attack", "test"))
    }
    train = toy_rows(48, seed=1, columns=("labels",)).with_format(kind)
    formatted = make_trainer(tmp_path, train_dataset=train, blocked_tasks=[toy_task(**data)])
    plain = make_trainer(tmp_path)
    formatted.train()
    plain.train()
    assert_bitwise(weights_of(formatted.model), weights_of(plain.model))


def test_columns_that_a_format_leaves_out_are_left_out(make_trainer, toy_rows, toy_task, tmp_path) -> None:
    """As for the Trainer: a row is what the format gives, here without ``token_type_ids``."""

    def weights(folder, form):
        rows = {n: form(toy_rows(60, seed=i)) for i, n in enumerate(("train_dataset", "keep_dataset", "train"))}
        task = toy_task(train=rows.pop("train"))
        losses = {"keeping_loss": "logit_distillation", "adversary_prelude": 1}
        trainer = make_trainer(folder, blocked_tasks=[task], **rows, **losses)
        trainer.train()
        return weights_of(trainer.model)

    def formatted(rows):
        rows = rows.add_column("token_type_ids", [[1] * 8] * len(rows))
        return rows.with_format("torch", columns=["input_ids", "attention_mask", "labels"])

    assert_bitwise(weights(tmp_path / "one", formatted), weights(tmp_path / "two", lambda rows: rows))


# Errors while training


class Poison(TrainerCallback):
    """Writes a NaN into one weight before the given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.bert.encoder.layer[0].output.dense.weight[0, 0] = math.nan


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", ["head_adjusted_cross_entropy", "uniform_kl", "negative_cross_entropy"])
def test_a_nan_stops_training_and_names_the_term(make_trainer, tmp_path, mode, loss) -> None:
    trainer = make_trainer(
        tmp_path,
        callbacks=[Poison(2)],
        save_strategy="steps",
        save_steps=1,
        meta_gradient=mode,
        blocking_loss=loss,
        max_steps=5,
    )
    with pytest.raises(FloatingPointError, match=r"desired_loss is nan at step 2 \(task 'blocked'"):
        trainer.train()
    kept = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    resumed = make_trainer(tmp_path, save_strategy="no", meta_gradient=mode, blocking_loss=loss)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", ["head_adjusted_cross_entropy", "uniform_kl", "negative_cross_entropy"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_exploding_inner_loop_stops_training_and_names_the_term(
    make_trainer, tmp_path, mode, loss, optimizer
) -> None:
    trainer = make_trainer(
        tmp_path,
        adversary_learning_rate=1e30,
        adversary_learns_rate=False,
        adversary_optimizer=optimizer,
        meta_gradient=mode,
        blocking_loss=loss,
        inner_steps=3,
    )
    with pytest.raises(
        FloatingPointError, match=r"(blocking_loss|meta_grad_norm) is .* at step 0 .*adversary_learning_rate"
    ):
        trainer.train()


# What an ordinary Trainer user relies on


def test_without_blocking_it_is_bitwise_a_plain_trainer(make_trainer, tiny_model, toy_data, tmp_path) -> None:
    arguments = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 8,
        "seed": 7,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
    }
    ours = make_trainer(tmp_path / "ours", model=tiny_model(dropout=0.2), blocking_weight=0.0, **arguments)
    before, own = weights_of(ours.model), learned_of(ours)
    ours.train()
    assert still(before, weights_of(ours.model)) == set()
    assert_bitwise(learned_of(ours), own)
    theirs = Trainer(
        model=tiny_model(dropout=0.2),
        args=TrainingArguments(str(tmp_path / "theirs"), **arguments),
        train_dataset=toy_data["train"],
    )
    theirs.model_accepts_loss_kwargs = False
    theirs.train()
    assert_bitwise(weights_of(ours.model), weights_of(theirs.model))
    assert_bitwise(moments_of(ours), moments_of(theirs))


def test_evaluation_callbacks_logs_and_the_best_model(make_trainer, tmp_path) -> None:
    events = []

    class Spy(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            events.append((state.global_step, metrics["eval_loss"]))

    trainer = make_trainer(
        tmp_path,
        callbacks=[Spy()],
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        logging_steps=2,
        learning_rate=0.05,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    state = torch.random.get_rng_state()
    trainer.train()
    assert [step for step, _ in events] == [2, 4, 6]
    assert not torch.equal(torch.random.get_rng_state(), state)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    documented = {"desired_loss", "blocking_loss", "adversary_lr", "meta_grad_norm"}
    documented |= {f"blocked_accuracy/step_{k}" for k in range(3)}
    for entry in logged:
        assert documented <= set(entry)
        assert "blocked_accuracy/step_3" not in entry
        assert entry["loss"] == pytest.approx(entry["desired_loss"] + entry["blocking_loss"], rel=1e-4)
        assert 0 <= entry["blocking_loss"] <= math.log(2)
        assert all(0 <= entry[f"blocked_accuracy/step_{k}"] <= 1 for k in range(3))
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert all("eval_accuracy" in entry and "blocking_loss" not in entry for entry in evaluated)
    best = min(events, key=lambda event: event[1])
    assert trainer.state.best_global_step == best[0]
    kept = load_file(tmp_path / f"checkpoint-{best[0]}" / "model.safetensors")
    assert_bitwise(kept, weights_of(trainer.model))
    # Evaluation measures the desired loss alone, with no adversary in it.
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best[1], rel=1e-6)


def test_evaluating_in_between_changes_nothing(make_trainer, tmp_path) -> None:
    with_it = make_trainer(tmp_path, eval_strategy="steps", eval_steps=1)
    without = make_trainer(tmp_path)
    with_it.train()
    without.train()
    assert_bitwise(weights_of(with_it.model), weights_of(without.model))
    assert_bitwise(learned_of(with_it), learned_of(without))


def test_logged_readings_are_means_since_the_last_log(make_trainer, tmp_path) -> None:
    often, seldom = make_trainer(tmp_path, max_steps=4), make_trainer(tmp_path, max_steps=4, logging_steps=4)
    often.train()
    seldom.train()
    entries = [entry for entry in often.state.log_history if "loss" in entry]
    for name in ("desired_loss", "blocking_loss", "meta_grad_norm", "adversary_lr", "blocked_accuracy/step_2"):
        mean = sum(entry[name] for entry in entries) / 4
        assert seldom.state.log_history[0][name] == pytest.approx(mean, rel=1e-6), name


def test_an_interval_leaves_the_blocking_loss_out_in_between(make_trainer, tmp_path) -> None:
    always, seldom = make_trainer(tmp_path, max_steps=4), make_trainer(tmp_path, max_steps=4, blocking_interval=3)
    always.train()
    seldom.train()
    often, rare = ([e for e in t.state.log_history if "loss" in e] for t in (always, seldom))
    assert ["blocking_loss" in entry for entry in often] == [True] * 4
    assert ["blocking_loss" in entry for entry in rare] == [True, False, False, True]
    assert rare[0]["blocking_loss"] == often[0]["blocking_loss"]  # before the first step they are the same
    assert rare[1]["desired_loss"] == often[1]["desired_loss"]
    assert rare[2]["desired_loss"] != often[2]["desired_loss"]
    assert all(entry["loss"] == pytest.approx(entry["desired_loss"]) for entry in rare[1:3])


def test_several_tasks_are_drawn_by_weight(make_trainer, toy_task, tmp_path) -> None:
    tasks = [toy_task("rare", weight=1.0), toy_task("usual", seed=20, weight=3.0)]
    trainer = make_trainer(tmp_path, blocked_tasks=tasks, max_steps=12)
    own = learned_of(trainer)
    drawn = []
    for step in range(1000):
        trainer.state.global_step = step
        drawn.append(trainer.simulation.draw(step).task.name)
    assert drawn.count("usual") / len(drawn) == pytest.approx(0.75, abs=0.05)
    trainer.state.global_step = 0
    trainer.simulation._last = (-1, 0)
    assert set(drawn[:12]) == {"rare", "usual"}
    trainer.train()
    assert still(own, learned_of(trainer)) == set()  # both tasks' heads and rates


# That it works


@pytest.fixture(scope="module")
def knowing_trunk(tiny_model, toy_rows):
    """A trunk pretrained on both labels at once, as a general model knows more than one task needs."""
    model = tiny_model(num_labels=4, layers=1)
    data = toy_rows(400, seed=5)
    tensors = {n: torch.tensor(data[n][:]) for n in data.column_names}
    target = 2 * tensors.pop("labels") + tensors.pop("blocked")
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(300):
        rows = torch.arange(64) + 64 * step % 320
        optimizer.zero_grad()
        model(**{n: v[rows] for n, v in tensors.items()}, labels=target[rows]).loss.backward()
        optimizer.step()
    return model.bert.state_dict()


def read_blocked_label(model, task) -> float:
    """Test accuracy of a logistic regression on what a classifier's head would see."""

    def features(data):
        with torch.no_grad():
            out = model.bert.eval()(
                input_ids=torch.tensor(data["input_ids"][:]), attention_mask=torch.tensor(data["attention_mask"][:])
            )
        return out.last_hidden_state[:, 0].numpy()

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(features(task.attack), task.labels("attack"))
    return probe.score(features(task.test), task.labels("test"))


@pytest.mark.parametrize("mode", MODES)
def test_blocking_blocks_and_keeps_the_desired_task(
    make_trainer, tiny_model, toy_rows, toy_task, knowing_trunk, tmp_path, mode
) -> None:
    task = toy_task(rows=400)
    rows = {
        "train_dataset": toy_rows(400, seed=1, columns=("labels",)),
        "eval_dataset": toy_rows(200, seed=2, columns=("labels",)),
    }

    def train(weight: float, seed: int):
        model = tiny_model(layers=1, seed=50)
        model.bert.load_state_dict(knowing_trunk)
        assert read_blocked_label(model, task) > 0.98
        trainer = make_trainer(
            tmp_path,
            model=model,
            blocked_tasks=[task],
            blocking_weight=weight,
            max_steps=160,
            logging_steps=40,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            blocking_batch_size=48,
            adversary_batch_size=16,
            adversary_learning_rate=3e-3,
            adversary_head_learning_rate=1e-2,
            meta_gradient=mode,
            seed=seed,
            compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
            **rows,
        )
        trainer.train()
        return read_blocked_label(model, task), trainer.evaluate()["eval_accuracy"]

    # Over two seeds: how much desired training alone forgets is chance, and differs from machine to machine.
    undefended, hardened = (np.mean([train(weight, seed) for seed in (0, 1)], axis=0) for weight in (0.0, 3.0))
    assert undefended[0] > hardened[0] + 0.05
    assert undefended[1] > 0.97
    assert hardened[1] > 0.97


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3] * 4, r"train_dataset, column 'label', row 2: label 3 is outside 0\.\.1; .*num_labels="),
        ([0, -1, 2] * 4, r"train_dataset, column 'label', row 1: label -1 is outside"),
        ([0, 1, None] * 4, r"train_dataset, column 'label', row 2: label None is not an integer"),
        ([0.0, 1.0, 0.5] * 4, r"train_dataset, column 'label', row 0: label 0.0 is not an integer"),
        (["a", "b", "c"] * 4, r"train_dataset, column 'label', row 0: label .*a.*class_encode_column"),
        ([], r"train_dataset is empty"),
    ],
)
def test_desired_labels_are_checked_before_training(make_trainer, tmp_path, labels, message) -> None:
    rows = {"input_ids": [[5, 6, 7]] * len(labels), "attention_mask": [[1, 1, 1]] * len(labels), "label": labels}
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, train_dataset=Dataset.from_dict(rows))


def test_a_blocking_gradient_clipped_to_nearly_nothing_is_one_of_nearly_no_weight(make_trainer, tmp_path) -> None:
    def trained(name, **fields):
        trainer = make_trainer(tmp_path / name, optim="sgd", learning_rate=0.1, max_grad_norm=0, **fields)
        trainer.train()
        return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])

    clipped, light = trained("clipped", max_blocking_grad_norm=1e-9), trained("light", blocking_weight=1e-9)
    torch.testing.assert_close(clipped, light, rtol=0, atol=1e-7)
    whole = trained("whole")
    assert (whole - light).abs().max() > 1e-4
    assert trained("unclipped", max_blocking_grad_norm=0.0).equal(whole)
