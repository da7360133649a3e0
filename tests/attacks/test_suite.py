"""A suite plans, runs once and reports what it ran."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from ledger_attacks import Counting
from suite_cases import on_models, suite_of

from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning, HeadOnly, named_suite
from hf_selfdestruct.attacks.suites.plan import RECORD
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.report.facts import RowCounts, SuiteFacts
from hf_selfdestruct.report.report import AttackReport


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
        assert [found.pop((task, "raw", "raw input", examples)) for examples in (10, available)] == [14, 14]
        # Scratch again: the stronger attack's settings at as many other seeds.
        assert [found.pop((task, "null", "first", examples)) for examples in (10, available)] == [3, 3]
    assert not found
    assert len(report.runs) - 56 == sum(len(attack.calls) for attack in attacks)


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
    with pytest.raises(ValueError, match=r"'mine'.*'head only'.*0\.5.*0\.25.*rename one of them"):
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
    assert facts.num_labels == 3
    assert facts.rows == RowCounts(train=63, selection=20, test=20)
    assert {name: dataclasses.asdict(one) for name, one in facts.fingerprints.items()} == task.fingerprints()
    assert report.suite == SuiteFacts("mine", 1, seeds=2, limit=20, record=RECORD, desired=False)
    assert report.models == {t.role: t.identity() for t in targets}
    whole = attacked(suite_of(Counting({"a": 0.5})), targets, [task]).tasks["kinds"]
    assert whole.majority == np.bincount(task.test["label"][:]).max() / 90


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
