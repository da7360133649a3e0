"""Suites: the same fixed list of runs on every model, all of them in the report."""

import dataclasses
import json
import re
import shutil
from collections import Counter

import datasets
import evaluate
import numpy as np
import pytest
import torch
from conftest import COLUMNS, collate
from ledger_attacks import Counting
from transformers import BertConfig

from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning, HeadOnly, Target, job, named_suite
from hf_selfdestruct.attacks.job import Job
from hf_selfdestruct.attacks.sibling import Merging
from hf_selfdestruct.attacks.suites import SUITES
from hf_selfdestruct.comparison import difference
from hf_selfdestruct.report import AttackReport


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'attacks.db'}"


@pytest.fixture
def targets(folder):
    return [Target("base", folder), Target("hardened", folder), Target("scratch", folder, random=True)]


@pytest.fixture
def attacked(collate):
    """Runs a suite on toy tasks."""

    def run(suite, targets, tasks, **options):
        return suite.run(targets, tasks, columns=COLUMNS, collate=collate, **{"progress": False, **options})

    return run


def suite_of(*attacks, examples=(10, None), **fields):
    entries = tuple(Entry(attack, examples) for attack in attacks)
    return AttackSuite("mine", 1, entries, **{"seeds": 2, "few_seeds": 0, "more": None, **fields})


def on_models(report):
    """Runs on the models themselves, references left out."""
    return [run for run in report.runs if run.role in report.roles()]


def timeless(report):
    return dataclasses.replace(report, runs=tuple(dataclasses.replace(r, seconds=0.0) for r in report.runs))


def test_every_planned_run_is_in_the_report_once(targets, task_of, attacked):
    """Equal budgets for all models, and nothing beside the plan."""
    tasks = [task_of(rows=40, name="one"), task_of("random", rows=60, name="two")]
    attacks = [Counting({"a": 0.5, "b": 0.7}, name="first"), Counting({"c": 0.6}, name="second")]
    suite = suite_of(*attacks, seeds=3)
    report = attacked(suite, targets, tasks)
    found = Counter((r.task, r.role, r.attack, r.examples) for r in report.runs)
    for task, available in (("one", 28), ("two", 42)):
        plan = suite.plan(available)
        assert [(a.name, n) for a, n in plan] == [
            ("first", 10), ("first", available), ("second", 10), ("second", available)
        ]  # fmt: skip
        for role in ("base", "hardened", "scratch"):
            for attack, examples in plan:
                assert found.pop((task, role, attack.name, examples)) == {"first": 4, "second": 3}[attack.name]
        assert found.pop((task, "raw", "raw input", available)) == 6
        # Scratch again: the stronger attack's settings at as many other seeds.
        assert [found.pop((task, "null", "first", examples)) for examples in (10, available)] == [3, 3]
    assert not found
    assert len(report.runs) - 12 == sum(len(attack.calls) for attack in attacks)


def test_scratch_is_not_attacked_again_where_the_suite_says_so(targets, task_of, attacked):
    attack = Counting({"a": 0.5})
    report = attacked(suite_of(attack, null=False), targets, [task_of(rows=40)])
    assert {run.role for run in report.runs} == {"raw", "base", "hardened", "scratch"}
    assert {call[-1] for call in attack.calls} == {"base", "hardened", "scratch"}
    assert "not measured" in report.table(), "noise alone"


def test_plan_cuts_budgets_to_what_there_is():
    suite = suite_of(HeadOnly(), examples=(20, 100, 400, None))
    assert [n for _, n in suite.plan(105)] == [20, 100, 105]
    assert [n for _, n in suite.plan(15)] == [15]
    assert [n for _, n in suite.plan(1000)] == [20, 100, 400, 1000]


@pytest.mark.parametrize("name", SUITES)
def test_plan_of_a_shipped_suite_counts_its_runs(name):
    suite = named_suite(name)
    assert suite.seeds >= 3
    found = set()
    for attack, examples in suite.plan(10**6):
        space = attack.space()
        assert space
        assert len({json.dumps(point, sort_keys=True) for point in space}) == len(space), attack.name
        assert (attack.name, examples) not in found, "two attacks of one name"
        found.add((attack.name, examples))
        assert len(suite.repeats(examples)) >= (10 if examples <= 20 and name != "smoke" else 3)


def test_equal_attacks_are_planned_once():
    one, other = HeadOnly(strengths=(1.0,)), HeadOnly(strengths=(0.1,), title="weak")
    suite = AttackSuite("mine", 1, (Entry(one, (20,)), Entry(other, (20,)), Entry(HeadOnly(strengths=(1.0,)), (None,))))
    assert suite.plan(20) == [(one, 20), (other, 20)]
    assert suite.plan(50) == [(one, 20), (other, 20), (one, 50)]


def test_two_attacks_of_one_name_are_refused():
    """Their runs would be merged: a report knows attacks by their names."""
    with pytest.raises(ValueError, match=r"'mine'.*'head only'.*0\.5.*0\.25.*another name"):
        suite_of(HeadOnly(strengths=(0.5,), title="x"), HeadOnly(strengths=(0.5,)), HeadOnly(strengths=(0.25,)))


@pytest.mark.parametrize("rows", [60, 100, 300, 400, 1000])
@pytest.mark.parametrize("name", SUITES)
def test_few_rows_make_no_attack_stand_twice(name, rows):
    planned = [(attack.name, examples) for attack, examples in named_suite(name).plan(rows)]
    assert len(set(planned)) == len(planned)


def test_unknown_suite_is_refused_by_name():
    with pytest.raises(ValueError, match=r"smoke.*'huge'"):
        named_suite("huge")


def test_facts_of_the_task_are_right(targets, task_of, attacked):
    task = task_of("three", rows=90, name="kinds")
    report = attacked(suite_of(Counting({"a": 0.5}), limit=20), targets, [task])
    facts = report.tasks["kinds"]
    labels = AttackReport.from_json(report.to_json()).tasks["kinds"]
    assert facts == labels
    assert facts["num_labels"] == 3
    assert facts["rows"] == {"train": 63, "selection": 20, "test": 20}
    assert facts["fingerprints"] == task.fingerprints()
    assert report.suite == {"name": "mine", "version": 1, "seeds": 2, "limit": 20}
    assert report.models == {t.role: t.identity() for t in targets}
    whole = attacked(suite_of(Counting({"a": 0.5})), targets, [task]).tasks["kinds"]
    assert whole["majority"] == np.bincount(task.test["label"][:]).max() / 90


def test_rerun_on_the_same_storage_runs_nothing(targets, task_of, attacked, storage):
    task = task_of(rows=40)
    reports = [attacked(suite_of(Counting({"a": 0.5, "b": 0.6})), targets, [task], storage=storage)]
    again = Counting({"a": 0.5, "b": 0.6})
    reports.append(attacked(suite_of(again), targets, [task], storage=storage))
    assert again.calls == []
    assert reports[0] == reports[1]


@pytest.mark.parametrize("dies_at", [1, 8, 16])
def test_killed_suite_goes_on_and_reports_the_same(targets, task_of, attacked, storage, dies_at):
    task, space = task_of(rows=40), {"a": 0.5, "b": 0.6}
    uninterrupted = attacked(suite_of(Counting(space)), targets, [task])
    with pytest.raises(KeyboardInterrupt):
        attacked(suite_of(Counting(space, dies_at=dies_at)), targets, [task], storage=storage)
    rest = Counting(space)
    assert timeless(attacked(suite_of(rest), targets, [task], storage=storage)) == timeless(uninterrupted)
    whole = [run for run in uninterrupted.runs if run.role != "raw"]
    assert len(rest.calls) == len(whole) - dies_at


class Dying(FullFineTuning):
    """Real fine-tuning that is killed at its third run."""

    def run(self, *arguments, **options):
        """As :meth:`FullFineTuning.run`."""
        object.__setattr__(self, "runs", getattr(self, "runs", 0) + 1)
        if self.runs == 3:
            raise KeyboardInterrupt
        return super().run(*arguments, **options)


def test_killed_real_attack_reports_the_same(targets, task_of, attacked, storage):
    """With dropout: what is run after the kill must not depend on what ran before in the process."""
    fields = {"learning_rates": (1e-3, 5e-3), "steps": (4,), "looks": 1}
    task = task_of(rows=60)
    torch.manual_seed(0)
    uninterrupted = attacked(suite_of(FullFineTuning(**fields), examples=(20,)), targets, [task])
    with pytest.raises(KeyboardInterrupt):
        attacked(suite_of(Dying(**fields), examples=(20,)), targets, [task], storage=storage)
    resumed = attacked(suite_of(FullFineTuning(**fields), examples=(20,)), targets, [task], storage=storage)
    assert timeless(resumed) == timeless(uninterrupted)


def test_changed_data_model_or_rules_are_run_anew(targets, task_of, attacked, storage, save_model, tmp_path):
    def calls(*, targets=targets, task=None, **fields):
        attack = Counting({"a": 0.5})
        attacked(suite_of(attack, examples=(10,), **fields), targets, [task or task_of(rows=40)], storage=storage)
        return Counter(call[-1] for call in attack.calls)

    everything = {"base": 2, "hardened": 2, "scratch": 2, "null": 2}
    assert calls() == everything
    assert calls() == {}
    assert calls(task=task_of("random", rows=40)) == everything
    assert calls(limit=5) == everything
    other = Target("hardened", save_model(tmp_path / "other", seed=5))
    assert calls(targets=[targets[0], other, targets[2]]) == {"hardened": 2}, "the references are shared"


def test_siblings_on_the_hub_are_told_apart_by_name(folder, task_of):
    """There is no file of theirs here to be hashed."""

    def study(sibling):
        job = Job(
            suite_of(Merging()), [Target("hardened", folder, sibling=sibling)], [task_of(rows=40)], COLUMNS, collate
        )
        return [search.study for search in job.searches(job.data()) if search.target.role == "hardened"]

    assert study("someone/one") == study("someone/one") != study("someone/other")


def test_scratch_of_another_architecture_is_run_anew(folder, task_of, attacked, storage, tmp_path):
    """The folder is the same, but what stands in it is another model now."""
    copied = shutil.copytree(folder, tmp_path / "model")

    def calls():
        attack = Counting({"a": 0.5})
        scratch = Target("scratch", str(copied), random=True)
        attacked(suite_of(attack, examples=(10,)), [scratch], [task_of(rows=40)], storage=storage)
        return len(attack.calls)

    assert (calls(), calls()) == (4, 0), "scratch, and scratch again"
    config = BertConfig.from_pretrained(copied)
    config.num_hidden_layers = 2
    config.save_pretrained(copied)
    assert calls() == 4


def test_a_report_too_large_to_be_read_is_refused_before_the_first_run(targets, task_of, attacked, monkeypatch):
    attack, task = Counting({"a": 0.5}), task_of(rows=40)
    report = attacked(suite_of(HeadOnly()), targets, [task])
    held = sum(len(run.predictions) for run in report.runs)
    monkeypatch.setattr(job, "MOST_BYTES", held)  # of which half is for predictions
    with pytest.raises(ValueError, match="too large to be read; give it at most"):
        attacked(suite_of(attack), targets, [task])
    assert attack.calls == []
    monkeypatch.setattr(job, "MOST_BYTES", 5 * held)
    attacked(suite_of(HeadOnly()), targets, [task])


def test_equal_weights_in_another_architecture_are_run_anew(folder, task_of, attacked, storage, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "model")
    counts = []
    for change in ({}, {"hidden_act": "relu"}, {"hidden_dropout_prob": 0.9}):
        config = BertConfig.from_pretrained(folder)
        config.update(change)
        config.save_pretrained(copied)
        attack = Counting({"a": 0.5})
        suite = suite_of(attack, examples=(10,))
        attacked(suite, [Target("hardened", str(copied))], [task_of(rows=40)], storage=storage)
        counts.append(len(attack.calls))
    assert counts == [2, 2, 0], "dropout is no architecture"


@pytest.mark.parametrize("roles", [("hardened", "hardened"), ("hardened", "mine")])
def test_models_of_one_role_or_of_an_unknown_one_are_refused(folder, task_of, attacked, roles):
    with pytest.raises(ValueError, match=f"a role of its own among .*; got {', '.join(roles)}"):
        attacked(suite_of(HeadOnly()), [Target(role, folder) for role in roles], [task_of()])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (HeadOnly(strengths=(1e-7,)), HeadOnly(strengths=(1.0,))),
        (
            FullFineTuning(learning_rates=(5e-3,), steps=(12,), looks=1),
            FullFineTuning(learning_rates=(5e-3,), steps=(12,), looks=12),
        ),
    ],
    ids=["regularisation", "looks"],
)
def test_another_attack_of_the_same_name_is_not_taken_for_this_one(
    save_model, task_of, attacked, storage, tmp_path, one, other
):
    """What changes an attack's result changes its place on record."""
    targets = [Target("hardened", save_model(tmp_path / "model", dropout=0.0))]
    task = task_of("random", rows=100)
    before = attacked(suite_of(one, examples=(20,), seeds=3), targets, [task], storage=storage)
    alone = attacked(suite_of(other, examples=(20,), seeds=3), targets, [task])
    assert timeless(before).runs != timeless(alone).runs, "the two attacks should differ"
    after = attacked(suite_of(other, examples=(20,), seeds=3), targets, [task], storage=storage)
    assert timeless(after) == timeless(alone)


def test_two_suites_share_a_storage(targets, task_of, attacked, storage):
    """As `harden --suite smoke` and then `--suite default` in the same folder: other rates, the same budget."""
    task = task_of(rows=40)
    smoke = suite_of(FullFineTuning(learning_rates=(1e-4, 1e-3), steps=(2,), looks=1), examples=(None,))
    wider = suite_of(FullFineTuning(learning_rates=(1e-4, 1e-3, 1e-2), steps=(2,), looks=1), examples=(None,))
    attacked(smoke, targets[:1], [task], storage=storage)
    found = attacked(wider, targets[:1], [task], storage=storage)
    assert len(on_models(found)) == 4


def test_diverged_runs_are_reported_and_never_counted(targets, task_of, attacked):
    attack = Counting({"good": 0.5, "bad": FloatingPointError("loss is nan at step 3")})
    report = attacked(suite_of(attack, examples=(10,)), targets, [task_of(rows=40)])
    failed = [r for r in report.runs if r.status == "failed"]
    assert len(failed) == 3
    assert not any(r.chosen for r in failed)
    assert {s.seeds for s in report.summaries("toy")} == {2}
    assert any("3 runs failed" in check for check in report.checks)


def test_wholly_diverged_attack_counts_for_nothing(targets, task_of, attacked):
    report = attacked(suite_of(Counting({"bad": FloatingPointError("x")}), examples=(10,)), targets, [task_of(rows=40)])
    assert [s.role for s in report.summaries("toy")] == ["raw"]
    assert report.strongest("toy", 10, "hardened") is None
    assert "not measured" in report.table()


def test_report_of_a_real_suite_is_a_report(targets, task_of, attacked):
    suite = suite_of(
        HeadOnly(), HeadOnly(every_layer=True), FullFineTuning(learning_rates=(3e-3,), steps=(30,)), examples=(None,)
    )
    report = attacked(suite, targets, [task_of(rows=150)])
    assert AttackReport.from_json(report.to_json()) == report
    for role in ("base", "hardened", "scratch"):
        assert report.strongest("toy", 105, role).mean > 0.75
    # Base and hardened are the same folder here, so whatever differed would be the judge's doing.
    by_role = {role: [s for s in report.summaries("toy") if s.role == role] for role in ("base", "hardened")}
    assert [dataclasses.replace(s, role="") for s in by_role["base"]] == [
        dataclasses.replace(s, role="") for s in by_role["hardened"]
    ]


def test_suite_without_entries_is_refused_or_empty(targets, task_of, attacked):
    try:
        report = attacked(AttackSuite("none", 1, ()), targets, [task_of(rows=40)])
    except ValueError:
        return
    assert on_models(report) == []


# What stands beside the blocked task


def test_control_tasks_are_fine_tuned_to_with_everything_and_stand_apart(targets, task_of, attacked):
    control = task_of(rows=60, name="control")
    suite = suite_of(HeadOnly(), FullFineTuning(learning_rates=(3e-3,), steps=(30,)), examples=(10, None))
    report = attacked(suite, targets, [task_of("random", rows=60)], controls=[control])
    assert report.blocked() == ["toy"]
    found = {(r.attack, r.examples) for r in report.runs if r.task == "control"}
    assert found == {("full fine-tuning", 42)}
    assert report.tasks["control"]["control"] is True
    assert "Control task 'control'" in report.table()
    assert not any(check.startswith("control") for check in report.checks)
    assert AttackReport.from_json(report.to_json()) == report


def test_what_stands_beside_has_the_most_examples_that_the_suite_gives(targets, task_of, attacked):
    suite = suite_of(HeadOnly(), FullFineTuning(learning_rates=(3e-3,), steps=(5,)), examples=(10, 20))
    report = attacked(suite, targets, [task_of(rows=60)], controls=[task_of(rows=60, name="control")])
    assert {r.examples for r in report.runs if r.role == "raw"} == {20}
    assert {(r.attack, r.examples) for r in report.runs if r.task == "control"} == {("full fine-tuning", 20)}


class Misses(evaluate.Metric):
    """Rows labelled wrong."""

    def _info(self):
        number = datasets.Value("int64")
        features = datasets.Features({"predictions": number, "references": number})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"misses": sum(p != r for p, r in zip(predictions, references, strict=True))}


def test_metrics_of_the_users_own_are_in_every_run(targets, task_of, attacked):
    report = attacked(suite_of(HeadOnly(), examples=(None,)), targets, [task_of(rows=60)], metrics={"misses": Misses()})
    for run in report.runs:
        assert run.test.extra["misses"] == round((1 - run.test.accuracy) * 60)
    assert AttackReport.from_json(report.to_json()) == report


def test_selecting_on_test_is_said(targets, task_of, attacked):
    suite = suite_of(HeadOnly(every_layer=True), examples=(None,), select_on_test=True)
    report = attacked(suite, targets, [task_of(rows=60)])
    assert all(run.selection == run.test for run in report.runs if run.status == "ok")
    assert "test split" in report.checks[0]
    for name in ("mlac", "sophon"):
        assert named_suite(name).select_on_test
    assert not any(named_suite(name).select_on_test for name in SUITES if name not in ("mlac", "sophon"))


def test_predictions_of_the_strongest_attacks_are_kept(targets, task_of, attacked):
    report = attacked(suite_of(HeadOnly(), HeadOnly(every_layer=True)), targets, [task_of(rows=60)])
    kept = [r for r in report.runs if r.predictions]
    strongest = [
        run for n in report.budgets("toy") for role in (*report.roles(), "null")
        for run in report.strongest_runs("toy", n, role)
    ]  # fmt: skip
    assert sorted(map(id, kept)) == sorted(map(id, strongest))
    assert difference(report, "toy", 42).seeds == 2
    assert difference(report, "toy", 42, "base", "hardened").mean == 0.0, "the same folder"


def test_plan_and_time_are_shown_before_the_start(targets, task_of, attacked, capsys, storage):
    suite = suite_of(FullFineTuning(learning_rates=(1e-3,), steps=(3,), looks=1), examples=(None,))
    attacked(suite, targets[:1], [task_of(rows=40)], progress=True, storage=storage)
    shown = capsys.readouterr().err
    assert "full fine-tuning" in shown
    assert re.search(r"Estimated time .*: \d+ minutes", " ".join(shown.split()))
    attacked(suite, targets[:1], [task_of(rows=40)], progress=True, storage=storage)
    again = " ".join(capsys.readouterr().err.split())
    assert "2 searches on base; 2 of them are on record already" in again
    assert "Estimated" not in again


def test_scratch_and_undefended_are_shared_between_hardened_models(
    folder, task_of, attacked, storage, save_model, tmp_path
):
    """Their places on record depend on what they are, not on whom they are compared with."""
    first, second = (save_model(tmp_path / name, seed=seed) for name, seed in (("one", 3), ("two", 4)))
    calls = []
    for hardened in (first, second):
        attack = Counting({"a": 0.5})
        targets = [
            Target("undefended", folder),
            Target("hardened", hardened, sibling=folder),
            Target("scratch", hardened, random=True),
        ]
        attacked(suite_of(attack, examples=(None,)), targets, [task_of(rows=40)], storage=storage)
        calls.append(Counter(call[-1] for call in attack.calls))
    assert calls == [{"undefended": 2, "hardened": 2, "scratch": 2, "null": 2}, {"hardened": 2}]
