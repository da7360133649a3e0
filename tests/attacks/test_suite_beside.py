"""Controls, metrics, predictions and plans that stand beside the blocked task."""

import re
from collections import Counter

import datasets
import evaluate
import pytest
from ledger_attacks import Counting
from suite_cases import suite_of

from hf_selfdestruct.attacks import FullFineTuning, HeadOnly, Target, named_suite
from hf_selfdestruct.attacks.data import check_controls
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.report.comparison import difference
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.tasks.blocked_task import BlockedTask


def test_control_tasks_are_fine_tuned_to_with_everything_and_stand_apart(targets, task_of, attacked):
    control = task_of(rows=60, name="control")
    suite = suite_of(HeadOnly(), FullFineTuning(learning_rates=(3e-3,), steps=(30,)), examples=(10, None))
    report = attacked(suite, targets, [task_of("random", rows=60)], controls=[control])
    assert report.blocked() == ["toy"]
    found = {(r.attack, r.examples) for r in report.runs if r.task == "control"}
    assert found == {("full fine-tuning", 42)}
    assert report.tasks["control"].control is True
    assert "Control task 'control'" in report.table()
    assert not any(check.startswith("control") for check in report.checks)
    assert AttackReport.from_json(report.to_json()) == report


def test_the_raw_input_has_every_number_of_examples_and_a_control_the_most(targets, task_of, attacked):
    suite = suite_of(HeadOnly(), FullFineTuning(learning_rates=(3e-3,), steps=(5,)), examples=(10, 20))
    report = attacked(suite, targets, [task_of(rows=60)], controls=[task_of("random", rows=60, name="control")])
    assert {r.examples for r in report.runs if r.role == "raw"} == {10, 20}
    assert {(r.attack, r.examples) for r in report.runs if r.task == "control"} == {("full fine-tuning", 20)}


def test_a_control_that_is_blocked_or_has_a_blocked_name_is_refused(targets, task_of, attacked, toy_task):
    """Nothing would be blocked, for the control shows that everything can be learned."""
    blocked, suite = task_of(rows=60), suite_of(HeadOnly(), examples=(None,))
    swapped = {s: d.map(lambda row: {"label": 1 - row["label"]}).select(range(50)) for s, d in blocked.splits().items()}
    for again in (task_of(rows=60, name="control"), BlockedTask("control", **swapped)):
        with pytest.raises(ValueError, match="control task 'control' is blocked task 'toy'"):
            attacked(suite, targets, [blocked], controls=[again])
    with pytest.raises(ValueError, match="two tasks have the name 'toy'"):
        attacked(suite, targets, [blocked], controls=[task_of("random", rows=60)])
    check_controls([blocked], [task_of("random", rows=60, name="control"), toy_task("other")])


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


class Undefined(Misses):
    """A metric that is defined for what is right alone."""

    def _compute(self, predictions, references):
        return {"undefined": 1.0 if predictions == references else float("nan")}


def test_an_undefined_metric_ends_no_attack(targets, task_of, attacked):
    suite = suite_of(HeadOnly(), examples=(10,))
    report = attacked(suite, targets, [task_of("random", rows=60)], metrics={"mine": Undefined()})
    assert {run.test.extra["mine"] for run in report.runs} == {None}
    assert AttackReport.from_json(report.to_json()) == report


def test_selecting_on_test_is_said(targets, task_of, attacked):
    suite = suite_of(HeadOnly(every_layer=True), examples=(None,), select_on_test=True)
    report = attacked(suite, targets, [task_of(rows=60)])
    assert all(run.selection == run.test for run in report.runs if run.status == "ok")
    assert "test split" in report.checks[0]
    for name in ("mlac", "sophon"):
        assert named_suite(name).select_on_test
    assert not any(named_suite(name).select_on_test for name in SUITES if name not in ("mlac", "sophon"))


def test_predictions_of_all_that_counts_are_on_record(targets, task_of, attacked):
    report = attacked(suite_of(HeadOnly(), HeadOnly(every_layer=True)), targets, [task_of(rows=60)])
    assert {bool(run.predictions) for run in report.runs if run.chosen} == {True}
    assert {bool(run.predictions) for run in report.runs if not run.chosen} == {False}
    assert difference(report, "toy", 42).seeds == 2
    assert difference(report, "toy", 42, "base", "hardened").mean == 0.0, "the same folder"


def test_plan_and_time_are_shown_before_the_start(targets, task_of, attacked, capsys, storage):
    suite = suite_of(FullFineTuning(learning_rates=(1e-3,), steps=(3,), looks=1), examples=(None,))
    attacked(suite, targets[:1], [task_of(rows=40)], progress=True, storage=storage)
    shown = " ".join(capsys.readouterr().err.split())
    assert "full fine-tuning" in shown
    assert re.search(r"Estimated time .*: \d+ seconds", shown)
    assert re.search(r"100 % .*; 0 seconds left", shown)
    attacked(suite, targets[:1], [task_of(rows=40)], progress=True, storage=storage)
    again = " ".join(capsys.readouterr().err.split())
    assert "2 searches on base; 2 of them are on record already" in again
    assert "Estimated" not in again


def test_progress_never_runs_backwards(targets, task_of, attacked, capsys):
    """Also when the strongest attack is known and is repeated on other random weights."""
    suite = suite_of(HeadOnly(), HeadOnly(every_layer=True), null=True)
    attacked(suite, targets, [task_of(rows=40)], progress=True)
    shown = [int(number) for number in re.findall(r"^ *(\d+) % .", capsys.readouterr().err, flags=re.MULTILINE)]
    assert shown == sorted(shown)
    assert shown.count(100) == 1
    assert len(shown) > len(targets) * 2


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
