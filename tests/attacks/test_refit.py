"""Refits: the chosen settings run again on training and selection rows, with nothing left to choose."""

import dataclasses
import json

import numpy as np
import pytest
from ledger_attacks import Counting
from toy_language import DESIRED, language_model, language_rows, language_task
from transformers import default_data_collator

from hf_selfdestruct.attacks import (
    AnyOf,
    AttackSuite,
    Entry,
    FullFineTuning,
    HeadOnly,
    ProbedFirst,
    Target,
    TiedWords,
    Trial,
)
from hf_selfdestruct.attacks.methods.general import desired_texts
from hf_selfdestruct.attacks.methods.references import RawInput
from hf_selfdestruct.attacks.suites.audit import plan_problems
from hf_selfdestruct.attacks.suites.plan import Job
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.jobs.rerun import before_refit
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.report.weights_add import added_rows, best_combination

ROWS, SELECTION = 42, 18  # of 60 rows
TUNED = FullFineTuning(learning_rates=(3e-3,), steps=(8,), looks=4)
ENTRIES = (
    Entry(HeadOnly(every_layer=True, strengths=(0.1,)), (None,), refit=True),
    Entry(TUNED, (None,), refit=True),
    Entry(HeadOnly(strengths=(0.1,)), (None,)),
)
SUITE = AttackSuite("refitted", 1, ENTRIES, seeds=2, few_seeds=2, more=None, null=False)


@pytest.fixture(scope="module")
def report(task_of, collate, folder, save_model, tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    targets = [
        Target("base", folder),
        Target("undefended", save_model(home / "undefended", seed=1)),
        Target("hardened", save_model(home / "hardened", seed=2)),
        Target("scratch", folder, random=True),
    ]
    given = {"columns": ("input_ids", "attention_mask"), "collate": collate, "progress": False}
    return SUITE.run(targets, [task_of(rows=60)], **given)


def refits(report):
    return [run for run in report.runs if run.task == "toy" and run.examples == ROWS + SELECTION]


def test_what_was_chosen_with_all_examples_runs_again_at_every_seed(report):
    found = refits(report)
    models = ("base", "undefended", "hardened", "scratch")
    expected = {(role, name) for role in models for name in ("layer probe", "full fine-tuning")}
    assert {(run.role, run.attack) for run in found} == expected | {("raw", "raw input")}
    assert len(found) == 2 * (len(expected) + 1)
    for run in found:
        before = before_refit(report, run)
        assert (before.settings, before.chosen, run.chosen, run.status) == (run.settings, True, True, "ok")
        kept = ("selection", "selected", "curve", "found", "optimism")
        assert all(getattr(run, name) == getattr(before, name) for name in kept)
    assert any(run.predictions != before_refit(report, run).predictions for run in found)
    assert report.refit("toy") == ROWS + SELECTION
    assert report.searched("toy") == ROWS


def test_a_refit_stops_at_the_look_that_was_best(report):
    tuned = [run for run in refits(report) if run.attack == "full fine-tuning"]
    assert all(run.steps == max(run.curve, key=lambda point: point[1])[0] for run in tuned)
    assert {run.steps for run in tuned} <= {2, 4, 6, 8}


def test_a_refit_of_a_probe_is_a_fit_to_all_rows(target, readable):
    """Slow twin: the same probe of a task whose training rows are all rows of the attacker."""
    attack = HeadOnly(strengths=(0.1,))
    rows = len(readable.train.labels)
    (settings,) = attack.space()
    everything = dataclasses.replace(readable, train=readable.train.joined(readable.selection), memory={})
    for one in (attack, RawInput()):
        settings = one.space()[0]
        chosen = one.run(Trial(target, readable, rows, 0, settings))
        again = one.run(Trial(target, readable, rows, 0, settings, refit=chosen))
        twin = one.run(Trial(target, everything, len(everything.train.labels), 0, settings))
        np.testing.assert_allclose(again.probabilities, twin.probabilities, atol=2e-3)
        assert abs(chosen.probabilities - twin.probabilities).max() > 0.02


@pytest.mark.parametrize("attack", [TUNED, ProbedFirst(learning_rates=(1e-3,), steps=(6,), looks=3)])
def test_a_refit_takes_no_look_at_the_selection_rows(target, readable, attack):
    """Other labels of the selection rows are other labels to train on, and nothing else: scores stay those before."""
    (settings, *_) = attack.space()
    rows = len(readable.train.labels)
    chosen = attack.run(Trial(target, readable, rows, 0, settings))
    again = attack.run(Trial(target, readable, rows, 0, settings, refit=chosen))
    assert again.hits is None
    assert again.selection == chosen.selection
    assert again.steps == max(chosen.curve, key=lambda point: point[1])[0]
    flipped = dataclasses.replace(readable.selection, labels=1 - readable.selection.labels)
    other = attack.run(Trial(target, dataclasses.replace(readable, selection=flipped), rows, 0, settings, refit=chosen))
    assert other.steps == again.steps


def test_the_last_budget_is_stated_and_its_seeds_are_averaged(report):
    assert f"{ROWS + SELECTION} examples are the training and the selection rows" in " ".join(report.table().split())
    assert [row[0] for row in added_rows(report, "toy")] == ["42", "60"]
    best = best_combination(report, "toy", ROWS + SELECTION, "hardened")
    assert best.attack in {run.attack for run in refits(report)}
    assert AttackReport.from_json(report.to_json()) == report


CHEATS = {
    "left out": (lambda run, raw: raw["runs"].remove(run), "refits at seeds"),
    "other settings": (lambda run, raw: run.update(settings={"steps": 1}), "refits with other settings"),
    "a better look": (lambda run, raw: run.update(steps=run["steps"] + 1), "numbers of steps"),
    "other optimism": (lambda run, raw: run.update(optimism=0.4), "refits with other settings"),
}


@pytest.mark.parametrize("name", [None, *CHEATS])
def test_refits_are_held_against_the_plan(report, monkeypatch, name):
    monkeypatch.setitem(SUITES, "refitted", SUITE)
    raw = json.loads(report.to_json())
    if name is None:
        assert [line for line in plan_problems(report) if "desired" not in line] == []
        return
    run = next(r for r in raw["runs"] if (r["examples"], r["role"]) == (ROWS + SELECTION, "hardened"))
    cheat, named = CHEATS[name]
    cheat(run, raw)
    assert any(named in line for line in plan_problems(AttackReport.from_json(json.dumps(raw))))


def test_a_refit_of_a_language_model_is_held_against_the_plan(tmp_path, monkeypatch):
    """It measures neither the general loss at looks, of which it takes none, nor gibberish; all else is as before."""
    for seed, role in enumerate(("base", "undefended", "hardened")):
        language_model(seed=seed).save_pretrained(tmp_path / role)
    targets = [Target(role, str(tmp_path / role)) for role in ("base", "undefended", "hardened")]
    suite = dataclasses.replace(SUITE, name="of texts", entries=(Entry(TUNED, (None,), refit=True),), seeds=1)
    monkeypatch.setitem(SUITES, "of texts", suite)
    report = suite.run(
        [*targets, Target("scratch", str(tmp_path / "base"), random=True)],
        [language_task()],
        columns=("input_ids", "attention_mask"),
        collate=default_data_collator,
        desired=desired_texts(*[language_rows(20, 8, DESIRED)] * 2, ("input_ids", "attention_mask")),
        progress=False,
    )
    (before, again) = (run for run in report.runs if run.role == "hardened")
    assert (len(before.general), len(before.gibberish), again.general, again.gibberish) == (5, 2, (), ())
    assert plan_problems(report) == []


def test_controls_and_fewer_examples_are_not_refitted(targets, task_of, collate):
    suite = dataclasses.replace(SUITE, entries=(Entry(TUNED, (20, None), refit=True),))
    job = Job(suite, targets, [task_of()], ("input_ids",), collate, [task_of(rows=60, name="control")])
    data = job.data()
    found = {(search.data.task, search.examples) for search in job.searches(data) if search.refit}
    assert found == {("toy", len(data["toy"].train.labels))}


def test_what_cannot_be_refitted_is_refused():
    with pytest.raises(ValueError, match=r"'counting' cannot be refitted"):
        Entry(Counting({"a": 0.5}), (None,), refit=True)
    with pytest.raises(ValueError, match=r"'both' cannot be refitted"):
        Entry(AnyOf("both", (TiedWords(), Counting({"a": 0.5}))), (None,), refit=True)
    with pytest.raises(ValueError, match=r"would train on the test split"):
        AttackSuite("mine", 1, ENTRIES, select_on_test=True)
