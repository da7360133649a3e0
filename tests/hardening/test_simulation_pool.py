"""Adversaries of a pool continue from one outer step to a later one."""

from __future__ import annotations

import dataclasses
import logging
import shutil

import pytest
import torch
from simulation_parts import on_whole_tables

from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.adversaries.optimizers import SGD, Adam
from hf_selfdestruct.adversaries.ranges import Range
from hf_selfdestruct.models.stateless import OWN

ALONE = {"pool": 1, "horizon": 1000}


def member_of(trainer, number: int = 0):
    return trainer.objective.simulator.members._all[number]


def stretch(trainer, step: int):
    """One outer step's simulation: the draw, its inner losses on whole tables, and the meta-gradient."""
    simulator = trainer.objective.simulator
    draw = simulator.draw(step)
    episode = simulator.builder(trainer.model, draw).episode()
    return draw, episode, simulator.meta_gradient(trainer.model, draw)


@pytest.mark.parametrize(
    ("mode", "head", "trainable", "schedule"),
    [
        ("first_order", "random", "all", "constant"),
        ("first_order", "random", "all", "linear"),
        ("exact", "learned", "all", "constant"),
        ("unrolled", "random", "lora", "linear"),
    ],
)
def test_an_adversary_alone_is_torchs_adam_in_one_long_loop(
    make_trainer, tiny_model, tmp_path, mode, head, trainable, schedule
) -> None:
    """Three stretches of K = 2, the published weights moved between them, and a loop of six steps that moves too."""
    adversary = Adversary(Adam(), 0.01, steps=2, batch_size=3, head=head, trainable=trainable, schedule=schedule)
    pool = {"pool": 1, "horizon": 8}
    trainer = make_trainer(
        tmp_path, model=tiny_model().double(), meta_gradient=mode, adversaries=[adversary], adversary=pool
    )
    on_whole_tables(trainer)
    generator = torch.Generator().manual_seed(3)
    weights: dict[str, torch.Tensor] = {}
    for step in range(3):
        draw, episode, found = stretch(trainer, step)
        assert draw.age == 2 * step
        if not weights:
            start = {**episode.published, **episode.own}
            weights = {n: w.detach().clone().requires_grad_() for n, w in start.items()}
            optimizer = torch.optim.Adam([weights[n] for n in episode.moving], lr=0.01, eps=1e-6)
        if schedule == "linear":
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - draw.age / 8)
        for loss in episode.inner_losses:
            optimizer.zero_grad()
            loss(weights).backward()
            for name in episode.moving:  # a pool's weights without a gradient have one of zeros
                weights[name].grad = (
                    torch.zeros_like(weights[name]) if weights[name].grad is None else weights[name].grad
                )
            optimizer.step()
        assert found.losses[2] == pytest.approx(episode.measure(weights).loss.item(), rel=1e-8)
        member = member_of(trainer)
        published = {n: p.detach() for n, p in trainer.model.named_parameters()}
        for name in episode.moving:
            value = member.own[name] if name in member.own else published[name] + member.offset[name]
            torch.testing.assert_close(value, weights[name].detach(), atol=1e-8, rtol=1e-6)
            moved = not torch.equal(value, start[name])  # a key's bias has no effect but by rounding
            assert moved or "lora_A" in name, name
        with torch.no_grad():
            for name, value in trainer.model.named_parameters():
                change = 0.01 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value += change
                if name in weights:
                    weights[name] += change
    assert member.age == 6


def test_of_a_table_only_rows_that_are_read_move(make_trainer, tiny_model, tmp_path) -> None:
    """Without momentum that is no difference, and the other rows stay where an earlier stretch left them."""

    def ended(*, whole: bool):
        adversary = Adversary(SGD(), 0.05, steps=2, batch_size=3, head="random")
        trainer = make_trainer(tmp_path, model=tiny_model().double(), adversaries=[adversary], adversary=ALONE)
        if whole:
            on_whole_tables(trainer)
        for step in range(3):
            stretch(trainer, step)
        return member_of(trainer).offset

    rows, table = ended(whole=False), ended(whole=True)
    assert {*rows} == {*table}
    for name, value in table.items():
        torch.testing.assert_close(rows[name], value, atol=1e-9, rtol=1e-6)
    assert rows["bert.embeddings.word_embeddings.weight"].any(1).sum() > 10


def test_a_draw_holds_for_a_whole_life(make_trainer, tmp_path) -> None:
    adversary = Adversary(
        optimizer=(SGD(momentum=0.9), Adam()),
        learning_rate=Range(1e-5, 1e-2),
        batch_size=Range(2, 9),
        examples=10,
        head=("random", "learned"),
        trainable=("all", "last_1", "lora"),
    )
    trainer = make_trainer(
        tmp_path,
        meta_gradient="first_order",
        adversaries=[dataclasses.replace(adversary, steps=2)],
        adversary={"pool": 3, "horizon": 6},
    )
    lives, rows, batches = {}, {}, []
    for step in range(15):
        draw = trainer.objective.simulator.draw(step)
        builder = trainer.objective.simulator.builder(trainer.model, draw)
        life = (draw.member.number, draw.member.life)
        lives.setdefault(life, set()).add(str(draw.fine_tuning))
        seen = {tuple(row) for batch in builder.blocked for row in batch["input_ids"].tolist()}
        rows.setdefault(life, set()).update(seen)
        batches.append(str([batch["input_ids"].tolist() for batch in builder.blocked]))
        trainer.objective.simulator.meta_gradient(trainer.model, draw)
    assert all(len(drawn) == 1 for drawn in lives.values())
    assert len({drawn for life in lives.values() for drawn in life}) == len(lives) >= 6
    assert all(len(found) <= 10 for found in rows.values())
    assert len({*batches}) == len(batches)


def test_a_prelude_heals_once_in_a_life(make_trainer, tmp_path) -> None:
    adversary = Adversary(steps=2, prelude=3, batch_size=4, head="random")
    trainer = make_trainer(tmp_path, adversaries=[adversary], adversary={"pool": 1, "horizon": 6})
    seen = [stretch(trainer, step)[:2] for step in range(4)]
    assert [(draw.age, draw.fine_tuning.prelude, episode.taken) for draw, episode in seen] == [
        (0, 3, 0),
        (2, 0, 5),
        (4, 0, 7),
        (0, 3, 0),
    ]


def test_an_adversary_that_diverges_is_reset_and_training_goes_on(make_trainer, tmp_path, caplog) -> None:
    trainer = make_trainer(tmp_path, method="pool", adversary=ALONE, max_steps=1)
    simulator = trainer.objective.simulator
    stretch(trainer, 0)
    member = member_of(trainer)
    own = next(iter(member.own.values()))
    own.fill_(float("inf"))
    with caplog.at_level(logging.WARNING):
        draw = simulator.draw(1)
        assert simulator.meta_gradient(trainer.model, draw) is None
    assert "an adversary of the pool diverged at age 2: it is reset" in caplog.text
    assert (member.life, member.age, member.own) == (1, 0, {})
    assert stretch(trainer, 2)[2].loss > 0
    with torch.no_grad():  # a model that is broken is not the adversary's fault
        trainer.model.bert.pooler.dense.weight.fill_(float("nan"))
    member.reset()
    with pytest.raises(FloatingPointError, match="blocking_loss is nan"):
        trainer.objective(trainer.model, {}, torch.ones(()), 3)


def test_a_pool_goes_on_bitwise_after_a_restart_and_on_disk(make_trainer, tiny_model, tmp_path) -> None:
    def trained(storage, **resume):
        made = make_trainer(
            tmp_path / storage,
            model=tiny_model(),
            method="mlac",
            meta_gradient="first_order",
            adversary={"pool": 2, "horizon": 10, "pool_storage": storage, "pool_precision": "bfloat16"},
            gradient_accumulation_steps=2,
            max_steps=6,
            save_steps=3,
            save_strategy="steps",
        )
        made.train(**resume)
        state = made.objective.state_dict()
        return made, {**{n: p.detach().clone() for n, p in made.model.named_parameters()}, **state}

    made, whole = trained("cpu")
    assert (whole["/pool/turn"], whole["/pool/0/life"], whole["/pool/1/life"]) == (12, 1, 1)
    assert any(name.startswith("/pool/1/moment.second/") for name in whole)
    readings = {name for line in made.state.log_history for name in line if name.startswith("blocked_accuracy/")}
    assert readings <= {f"blocked_accuracy/age_{age}" for age in (0, 2, 5, 7, 10)}
    assert len(readings) >= 4
    shutil.rmtree(tmp_path / "cpu" / "checkpoint-6")
    for _, again in (trained("cpu", resume_from_checkpoint=True), trained("disk")):
        assert {*whole} == {*again}
        assert [n for n in whole if not torch.equal(whole[n], again[n])] == []


def test_the_learned_head_is_learned_where_lives_begin(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, meta_gradient="first_order", adversary=ALONE)
    learned = trainer.objective.simulator.learned["blocked", 0]
    for step, own in enumerate((True, False)):
        draw, episode, found = stretch(trainer, step)
        trainer.objective.simulator.learn(draw, found, share=1.0)
        assert bool(found.own) == episode.learns == own
        heads = {OWN + name: value for name, value in learned.head.items()}
        assert all(torch.equal(episode.own[n], heads[n]) == own for n in heads)


def test_a_pool_that_cannot_continue_is_refused(make_trainer, tmp_path) -> None:
    with pytest.raises(ValueError, match="one here makes none"):
        make_trainer(tmp_path, method="ac", inner_steps=None, adversary={"pool": 2})
    with pytest.raises(ValueError, match=r"is of the life of an adversary in a pool: set adversary=\{'pool': 1\}"):
        make_trainer(tmp_path, adversary={"schedule": ["constant", "linear"], "learns_rate": False})
    trainer, other = make_trainer(tmp_path), make_trainer(tmp_path, adversary={"pool": 2})
    for one, state in ((trainer, other.objective.state_dict()), (other, trainer.objective.state_dict())):
        with pytest.raises(ValueError, match="pool of adversaries, unlike this run; resume with"):
            one.objective.load_state_dict(state)


def test_a_rate_falls_over_each_life_whatever_its_length(make_trainer, tmp_path) -> None:
    """First lives are shorter; after a reset the rate is the drawn one again, and after a restart where it was."""
    settings = {"pool": 2, "horizon": 8, "schedule": "linear", "learning_rate": 0.01, "learns_rate": False}
    trainer, other = (make_trainer(tmp_path, meta_gradient="first_order", inner_steps=2, adversary=settings)
                      for _ in range(2))  # fmt: skip
    rates: dict[tuple[int, int], list[float]] = {}
    for step in range(14):
        if step == 5:
            other.objective.load_state_dict(trainer.objective.state_dict())
            trainer = other
        draw = trainer.objective.simulator.draw(step)
        rates.setdefault((draw.member.number, draw.member.life), []).append(draw.fine_tuning.learning_rate)
        trainer.objective.simulator.meta_gradient(trainer.model, draw)
    whole = [0.01, 0.0075, 0.005, 0.0025]
    expected = {(0, 0): [0.01, 0.005], (1, 0): whole, (0, 1): whole, (1, 1): whole[:3], (0, 2): whole[:1]}
    assert {life: pytest.approx(found) for life, found in rates.items()} == expected
