"""Unlearning first: no adversary's steps, then a renewed original and noise, and all of it resumed bit for bit."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from peft import LoraConfig
from toy_language import DESIRED, language_model, language_rows, language_task
from toy_models import tiny_model, toy_task
from trainer_state import assert_bitwise, moments_of, weights_of
from transformers import default_data_collator

from hf_selfdestruct import HardeningConfig, HardeningObjective
from hf_selfdestruct.erasure.initial_weights import noised
from hf_selfdestruct.hardening.unlearning import ORIGINAL
from hf_selfdestruct.trainer.recipe import recipe_of

STEPS = 3  # that unlearn
POOL = {
    "method": "pool",
    "keeping_loss": "logit_distillation",
    "adversary": {"pool": 2, "horizon": 4, "batch_size": 4},
    "method_options": {"unlearn_steps": STEPS, "noise": 0.5, "blocking_every": 1},
}


def language_objective(model, **settings):
    config = HardeningConfig(blocking_batch_size=8, **settings)
    rows = language_rows(32, 1, DESIRED)
    return HardeningObjective(model, config, [language_task()], collate=default_data_collator, desired=rows)


def steps(model, objective, count, *, start=0, rate=1e-3):
    """Any loop; the terms of each step."""
    optimizer, rows = torch.optim.AdamW(model.parameters(), lr=rate), language_rows(32, 1, DESIRED)
    padded = language_task().kind.padded([dict(row) for row in rows])
    found = []
    for step in range(start, start + count):
        inputs = default_data_collator(padded[4 * step % 32 :][:4])
        total, terms = objective(model, inputs, model(**inputs).loss, step)
        total.backward()
        objective.before_optimizer_step()
        optimizer.step()
        objective.after_optimizer_step()
        optimizer.zero_grad()
        found.append(terms)
    return found


def test_undo_unlearns_then_mixes_then_distils_alone():
    model = language_model()
    objective = language_objective(model, method="undo", method_options={"unlearn_steps": STEPS})
    objective.prepare(model)
    assert_bitwise(weights_of(model), weights_of(language_model()))  # noise is mixed in later
    terms = steps(model, objective, STEPS - 1)
    assert all({"blocking_loss", "blocked_log-likelihood per token/unlearning"} <= one.keys() for one in terms)
    assert all(one["inner_steps"] == 0 for one in terms)
    terms = steps(model, objective, 1, start=STEPS - 1, rate=0.0)  # the last one moves nothing but by the noise
    kept = {n.removeprefix(ORIGINAL): v.clone() for n, v in objective.state_dict().items() if n.startswith(ORIGINAL)}
    teacher = language_model()
    teacher.load_state_dict(kept)
    expected = weights_of(teacher) | noised(teacher, 0.6, objective.config.seed)
    assert_bitwise(weights_of(model), expected)
    assert len({n for n, w in weights_of(model).items() if not torch.equal(w, kept[n])}) > 10
    (after,) = steps(model, objective, 1, start=STEPS)
    assert not [name for name in after if name.startswith(("block", "meta"))]
    assert after["keeping_loss"] > 0  # the mixed weights are far from the teacher's
    model.load_state_dict(kept)
    (same,) = steps(model, objective, 1, start=STEPS + 1, rate=0.0)
    assert same["keeping_loss"] == pytest.approx(0.0, abs=1e-6)


def test_unlearning_takes_away_what_the_model_knew_and_no_adversary_moves():
    model, task = language_model(), language_task()
    learner = torch.optim.AdamW(model.parameters(), lr=2e-2)
    batch = default_data_collator(task.kind.padded([dict(row) for row in task.train]))
    for _ in range(60):
        loss = model(**batch).loss
        loss.backward()
        learner.step()
        learner.zero_grad()
    objective = language_objective(model, method="language", inner_steps=2, method_options={"unlearn_steps": 20})
    likelihoods = [one["blocked_log-likelihood per token/unlearning"] for one in steps(model, objective, 20, rate=1e-2)]
    assert likelihoods[0] > -1.0
    assert likelihoods[-1] < likelihoods[0] - 1.0
    assert objective.simulator.members.turn == 0
    (pool,) = steps(model, objective, 1, start=20)
    assert objective.simulator.members.turn == 1
    assert pool["inner_steps"] == 2
    assert [name for name in pool if name.startswith("blocked_log-likelihood per token/age_")]


def test_every_blocked_task_is_unlearned_with_a_pool_too():
    """A pool's adversary has one task for its life; unlearning draws one in each step."""
    config = HardeningConfig(**{**POOL, "adversary": {"pool": 1}}, blocking_batch_size=8)
    tasks = [toy_task("one"), toy_task("other")]
    objective = HardeningObjective(tiny_model(), config, tasks, collate=default_data_collator)
    drawn = [objective.simulator.draw(0) for _ in range(20)]
    assert {draw.task.name for draw in drawn} == {"one", "other"}
    assert {(draw.fine_tuning.steps, draw.member) for draw in drawn} == {(0, None)}


@pytest.mark.parametrize("cut", [2, 3, 4], ids=["before", "at", "after"])
def test_resuming_is_bitwise_the_uninterrupted_run(make_trainer, tmp_path, cut, caplog):
    def run(folder, *, resume=None):
        saving = {"save_steps": 1, "save_strategy": "steps"}
        trainer = make_trainer(folder, model=tiny_model(dropout=0.2), max_steps=6, inner_steps=2, **saving, **POOL)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    with caplog.at_level(logging.WARNING, "hf_selfdestruct"):
        whole = run(tmp_path / "whole")
    assert sum("unlearning ended after 3 steps" in record.message for record in caplog.records) == 1
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{cut}", tmp_path / "cut" / f"checkpoint-{cut}")
    resumed = run(tmp_path / "cut", resume=True)
    assert_bitwise(weights_of(resumed.model), weights_of(whole.model))
    assert_bitwise(moments_of(resumed), moments_of(whole))
    assert_bitwise(resumed.objective.state_dict(), whole.objective.state_dict())
    assert any(name.startswith(ORIGINAL) for name in whole.objective.state_dict())
    recipe = recipe_of(whole)
    assert (recipe["unlearn_steps"], recipe["unlearn_weight"], recipe["noise"]) == (STEPS, 1.0, 0.5)
    logged = [[name for name in entry if name.startswith("blocked_acc")] for entry in whole.state.log_history]
    assert [names[0].partition("/")[2][:5] for names in logged if names] == ["unlea"] * STEPS + ["age_0"] * 3


def test_merged_words_stay_one_through_the_noise(make_trainer, tmp_path):
    def words(**options) -> int:
        options = {"unlearn_steps": 1, "merge_words": 1.5, **options}
        task = toy_task(rows=200)
        made = make_trainer(tmp_path, model=tiny_model(), blocked_tasks=[task], max_steps=2, method_options=options)
        made.train()
        return len(torch.unique(made.model.get_input_embeddings().weight.detach(), dim=0))

    assert words(noise=0.5) == words(noise=0.0) < words(merge_words=0.0)


def test_the_sibling_neither_unlearns_nor_is_mixed():
    hardened = language_objective(language_model(), method="undo", method_options={"unlearn_steps": 1})
    model, plain = language_model(), language_model()
    sibling = hardened.without_blocking(model)
    sibling.prepare(model)
    terms = steps(model, sibling, 2)
    assert not [name for one in terms for name in one if name.startswith("block")]
    alone = language_objective(plain, method="language", blocking_weight=0.0)
    steps(plain, alone, 2)
    assert_bitwise(weights_of(model), weights_of(plain))


def test_a_state_of_another_phase_is_refused():
    early, late = language_model(), language_model()
    settings = {"method": "undo", "method_options": {"unlearn_steps": 1}}
    before = language_objective(early, **settings).state_dict()
    objective = language_objective(late, **settings)
    steps(late, objective, 1)
    with pytest.raises(ValueError, match=r"from before unlearning ended.*in a new trainer"):
        objective.load_state_dict(before)
    with pytest.raises(ValueError, match="this run does not unlearn"):
        language_objective(early, method="undo", method_options={"unlearn_steps": 0}).load_state_dict(
            objective.state_dict()
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 3}, "unlearn_steps=3 leaves none of the 3 steps .*: set max_steps above 3"),
        ({"max_steps": -1, "num_train_epochs": 0.25}, "none of the 3 steps"),  # 12 batches of 4 in 48 rows
        (
            {"load_best_model_at_end": True, "max_steps": 4, "save_strategy": "steps", "eval_strategy": "steps"},
            "load_best_model_at_end=False",
        ),
        ({"max_steps": 4, "method": "ctrap"}, "unlearn_steps minimises Collapse without an adversary"),
        ({"max_steps": 4, "method": "booster"}, "would be taught: set unlearn_steps=0"),
    ],
)
def test_what_cannot_work_is_refused_before_training(make_trainer, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **{**arguments, "method_options": {"unlearn_steps": STEPS}})


def test_with_an_adapter_the_teacher_has_the_last_step_of_unlearning() -> None:
    model, rows = language_model(), language_rows(32, 1, DESIRED)
    config = HardeningConfig(method="undo", blocking_batch_size=8, method_options={"unlearn_steps": 1, "noise": 0.0})
    adapter = LoraConfig(r=2, target_modules="all-linear")
    task = [language_task()]
    objective = HardeningObjective(model, config, task, collate=default_data_collator, desired=rows, adapter=adapter)
    objective.prepare(model)
    optimizer = torch.optim.AdamW([p for p in objective.adapter.parameters() if p.requires_grad], lr=1e-2)
    inputs = default_data_collator(task[0].kind.padded([dict(row) for row in rows])[:4])
    total, _ = objective(model, inputs, model(**inputs).loss, 0)
    total.backward()
    objective.before_optimizer_step()
    optimizer.step()
    objective.after_optimizer_step()
    before, after, state = weights_of(language_model()), weights_of(model), objective.state_dict()
    assert [name for name in after if not torch.equal(before[name], after[name])]
    assert_bitwise({name: state[ORIGINAL + name] for name in after}, after)
