"""``JudgeCallback`` reads a live model by a real attack, and leaves everything as it was."""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from toy_models import tiny_model, toy_rows, toy_task
from toy_regression import sized_task
from trainer_state import assert_bitwise, moments_of, weights_of
from transformers import Trainer

from hf_selfdestruct import BlockedTask, JudgeCallback
from hf_selfdestruct.attacks import Attack, AttackData, FullFineTuning, HeadOnly, Outcome, Target, Trial
from hf_selfdestruct.attacks.methods.sibling import Distillation
from hf_selfdestruct.attacks.suites.optimism import optimism

CHEAP = HeadOnly(strengths=(0.1,))
SHORT = FullFineTuning(learning_rates=(1e-3,), steps=(2,), batch_size=8, looks=1)
CLOCK = ("per_second", "runtime")


def own_lines(trainer):
    """The training log without readings of the judge and of the clock."""
    lines = [line for line in trainer.state.log_history if "judge/seconds" not in line]
    return [{n: v for n, v in line.items() if not n.endswith(CLOCK)} for line in lines]


def readings_of(trainer):
    """The judge's readings by step."""
    return {line["step"]: line for line in trainer.state.log_history if "judge/seconds" in line}


def generators():
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


class Noisy:
    """A collator that draws from every generator."""

    def __call__(self, rows):
        random.random(), np.random.rand(), torch.rand(1)
        return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def test_a_run_with_it_is_bitwise_a_run_without(make_trainer, tmp_path):
    """Dropout, a collator that draws, a log line in the step of a reading, and weights saved in half precision."""
    found = []
    for judged in (False, True):
        model = tiny_model(dropout=0.1).bfloat16()
        trainer = make_trainer(tmp_path / str(judged), model=model, max_steps=3, logging_steps=2, data_collator=Noisy())
        for attack in (CHEAP, SHORT) if judged else ():
            trainer.add_callback(JudgeCallback(trainer, every=2, attack=attack))
        trainer.train()
        modes = [module.training for module in model.modules()]
        found.append((generators(), modes, model.config.to_dict(), own_lines(trainer)))
        found.append((weights_of(model), moments_of(trainer)))
    assert found[0] == found[2]
    assert len(found[0][3]) == 2  # in the step of a reading, and at the end
    for one, other in zip(found[1], found[3], strict=True):
        assert_bitwise(one, other)
    assert [*readings_of(trainer)] == [0, 2]
    names = ("judge/blocked/full_fine_tuning", "judge/blocked/full_fine_tuning/scratch", "judge/seconds")
    assert {*names} <= {*readings_of(trainer)[2]}


def test_readings_are_the_attack_s_own_on_selection_rows(make_trainer, tmp_path):
    """Against the attack run by hand on saved models, with all that an attacker has, test rows included."""
    attack = HeadOnly(strengths=(0.01, 1.0))
    trainer = make_trainer(tmp_path, learning_rate=1e-2)
    trainer.add_callback(JudgeCallback(trainer, every=3, attack=attack))
    trainer.train()
    trainer.save_model()
    (task,) = trainer.blocked_tasks
    data = AttackData.of(task, trainer.input_columns, trainer.blocked_collator)
    targets = {
        "": Target("hardened", str(tmp_path)),
        "/base": Target("base", str(tmp_path / "_base")),
        "/scratch": Target("scratch", str(tmp_path), random=True),
    }
    reading = readings_of(trainer)[3]
    for of, target in targets.items():
        tried = [attack.run(Trial(target, data, len(data.train.labels), 0, one)) for one in attack.space()]
        best = max(tried, key=lambda outcome: outcome.selection.merit)
        expected = best.selection.value - optimism([outcome.hits for outcome in tried])
        assert reading[f"judge/blocked/head_only{of}"] == pytest.approx(expected, abs=1e-12), of
    names = [f"judge/blocked/head_only{of}" for of in targets]
    assert {*reading} == {*names, "judge/seconds", "epoch", "step"}
    assert readings_of(trainer)[0][names[0]] == reading[names[1]], "before the first step it is the base"


class Watching(Attack):
    """Notes what it is given, and fails on scratch."""

    name = "watching"
    seen: ClassVar[list[Trial]] = []

    def space(self):
        return [{}]

    def run(self, trial):
        self.seen.append(trial)
        if trial.target.random:
            raise FloatingPointError("not finite")
        return Outcome(*[trial.data.kind.scores(np.array([0, 1]), np.eye(2))] * 2, 0)


def test_it_sees_the_attack_split_alone_and_a_failure_is_no_resistance(make_trainer, tmp_path, caplog):
    rows = {split: toy_rows(60, seed=seed, columns=("blocked",)) for seed, split in enumerate(("train", "attack"), 10)}
    task = BlockedTask("mine", **rows, label_column="blocked")  # without test rows
    Watching.seen.clear()
    trainer = make_trainer(tmp_path, max_steps=1, blocked_tasks=[task])
    trainer.add_callback(JudgeCallback(trainer, attack=Watching(), examples=10))
    trainer.train()
    (reading,) = readings_of(trainer).values()
    assert reading["judge/mine/watching"] == reading["judge/mine/watching/base"] == 1.0
    assert "judge/mine/watching/scratch" not in reading
    assert "watching on scratch failed on task 'mine' (FloatingPointError: not finite)" in caplog.text
    data, columns = Watching.seen[0].data, trainer.input_columns
    trained, selected = (
        [row["input_ids"] for row in task.features("attack", part.tolist(), columns)]
        for part in (task.attacker_rows(), task.selection_rows())
    )
    assert [row["input_ids"] for row in data.selection.features] == selected
    assert all(row["input_ids"] in selected for row in data.test.features)
    assert len(data.train.labels) == 10
    assert all(row["input_ids"] in trained for row in data.train.features)


@pytest.fixture(scope="module", name="trainer")
def _trainer(make_trainer, tmp_path_factory):
    return make_trainer(tmp_path_factory.mktemp("refused"))


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        ({"every": 0}, toy_task, "every must be at least 1 step; got 0"),
        ({"examples": 43}, toy_task, "the attacker has 42 training rows, 70 % of its 'attack' split; got examples=43"),
        ({}, sized_task, "'size' by 'layer probe', which is for classification, and not for regression: pass attack="),
        ({"attack": Distillation()}, toy_task, "which needs sibling: pass another attack="),
        ({}, lambda: toy_task(attack=None), "has no 'attack' split; give BlockedTask"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_training(trainer, monkeypatch, options, task, message):
    monkeypatch.setattr(trainer, "blocked_tasks", [task()])
    with pytest.raises(ValueError, match=message):
        JudgeCallback(trainer, **options)


def test_sharded_weights_and_other_trainers_are_refused(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    with pytest.raises(ValueError, match="sharded over processes: launch without FSDP, or leave the callback out"):
        JudgeCallback(trainer)
    with pytest.raises(TypeError, match="needs a SelfDestructTrainer; got Trainer"):
        JudgeCallback(Trainer(tiny_model(), trainer.args, train_dataset=toy_rows(8, seed=1)))
