"""What an outer step moves, by every way to a meta-gradient and every kind of adversary."""

from __future__ import annotations

import math

import pytest
import torch
from toy_models import ARCHITECTURES
from trainer_state import MODES, bones_of, learned_of, still, weights_of

from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.adversaries.optimizers import INNER_OPTIMIZERS, SGD
from hf_selfdestruct.hardening.draw import Draw
from hf_selfdestruct.hardening.episode_builder import EpisodeBuilder
from hf_selfdestruct.losses.blocking import UniformKL
from hf_selfdestruct.models import heads
from hf_selfdestruct.models.stateless import OWN


def scene_of(trainer, *key) -> EpisodeBuilder:
    """What the first adversary does to the first task in the micro-step of this key."""
    fine_tuning = trainer.objective.adversaries[0].draw(0, *key)
    return trainer.objective.simulator.builder(trainer.model, Draw(trainer.blocked_tasks[0], 0, fine_tuning, key))


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
        trainer.objective.simulator._last = (-1, 0)
        trainer.model.zero_grad()
        trainer.training_step(trainer.model, inputs)
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
    assert trainer.objective.adversaries[0].steps == 0
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
        adversary={"head_learning_rate": 0.05},
        blocking_batch_size=12,
        model=None,
    )
    before = weights_of(trainer.model)
    trainer.train()
    assert still(before, weights_of(trainer.model)) == set(before)
    # Against a model that holds still, the head alone gets better at the blocked task.
    losses = [entry["blocking_loss"] for entry in trainer.state.log_history if "blocking_loss" in entry]
    heads_ = [learned.head for learned in trainer.objective.simulator.learned.values()]
    fresh = heads.draw(bones_of(trainer)[0], heads_[0], 0)
    assert set(heads_[0]) == set(fresh)
    episodes = [scene_of(trainer, i).episode() for i in range(20)]

    def entropy(head) -> float:
        own = {OWN + n: value for n, value in head.items()}
        return sum(e.measure({**e.published, **own}).objective.item() for e in episodes) / len(episodes)

    assert entropy(heads_[0]) < entropy(fresh) - 1e-3
    assert all(math.isfinite(v) for v in losses)


@pytest.mark.parametrize(
    ("architecture", "mode"),
    [
        *((one, "exact") for one in ARCHITECTURES),
        ("llama", "unrolled"),
        ("bert", "first_order"),
        ("gpt2", "first_order"),
    ],
)
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
        make_trainer(tmp_path, model=tiny_model(num_labels=3), adversary={"head": "keep"})


# Each kind in exact mode, whose steps are those of first order and more; the others in a few that are apart.
KINDS = (
    {"adversary": {"head": "keep"}},
    {"adversary": {"head": "keep", "trainable": "head"}},
    {"adversary": {"head": "random"}},
    {"adversary": {"head": "random", "trainable": "head"}},
    {"adversary": {"trainable": "head"}},
    {"adversary": {"optimizer": "sgd", "learning_rate": 1e-2}},
    {"adversary": {"learning_rate": {"low": 3e-3, "high": 1e-2}}},
    {"method_options": {"step_weights": "last"}},
    {"method_options": {"step_weights": "exponential"}},
    {"blocking_loss": "uniform_kl"},
    {"inner_steps": 4, "method_options": {"blocking_every": 3}},
    {"adversary": {"examples": 5}},
    {"adversary": {"trainable": "last_1"}},
    {"adversary": {"trainable": "lora"}},
    {"adversary": {"prelude": 2}},
    {"adversary": {"dropout": True}},
    {"method_options": {"hvp": "finite_difference", "trajectory": "recompute"}},
    *({"adversary": {"optimizer": name, "learning_rate": 1e-3}} for name in INNER_OPTIMIZERS),
)
APART = tuple(one for one in KINDS if {"head", "trainable", "prelude"} & {*one.get("adversary", {})})


@pytest.fixture(scope="module")
def desired_alone(make_trainer, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights where nothing is blocked; the adversary, whichever it is, makes no difference there."""
    found = []
    for number, kind in enumerate(({}, {"head": "random", "trainable": "lora", "optimizer": "sgd"})):
        trainer = make_trainer(
            tmp_path_factory.mktemp(f"plain{number}"),
            **{"blocking_weight": 0.0, "learning_rate": 3e-3, "max_steps": 2, "adversary": kind},
        )
        trainer.train()
        found.append(weights_of(trainer.model))
    assert still(*found) == {*found[0]}
    return found[0]


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        *(("exact", fields) for fields in KINDS),
        *((mode, fields) for mode in ("unrolled", "first_order") for fields in APART),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(map(str, given.values())),
)
def test_every_kind_of_adversary_blocks(make_trainer, tmp_path, desired_alone, mode, fields) -> None:
    arguments = {"meta_gradient": mode, "learning_rate": 3e-3, "max_steps": 2, **fields}
    arguments["adversary"] = {"learning_rate": 3e-3, **fields.get("adversary", {})}
    trainer = make_trainer(tmp_path, **arguments)
    before = weights_of(trainer.model)
    trainer.train()
    after = weights_of(trainer.model)
    assert still(before, after) == set()
    trunk = {n for n in after if n.startswith("bert.")}
    assert still(desired_alone, after) & trunk == set()  # the blocking loss has changed every weight of the trunk
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["meta_grad_norm"] > 1e-6 for entry in logged)


def test_an_inner_loop_over_the_head_alone_leaves_the_trunk_still(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, adversary={"trainable": "head"})
    episode = scene_of(trainer, "x").episode()
    assert episode.moving == {OWN + "classifier.weight", OWN + "classifier.bias"}
    assert not any("classifier" in n for n in episode.published)


def test_a_random_head_is_another_one_in_every_step(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, adversary={"head": "random"})

    def head(*key):
        return scene_of(trainer, *key).episode().own[OWN + "classifier.weight"]

    assert torch.equal(head("a", 0), head("a", 0))
    assert not torch.equal(head("a", 0), head("a", 1))
    assert all(not learned.head for learned in trainer.objective.simulator.learned.values())


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
