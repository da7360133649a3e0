"""What a report from a stranger must hold beyond its types."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from ..untrusted_json import checked
from .attack_run import REFERENCES, ROLES, STATUSES, AttackRun
from .packing import unpacked, unpacked_labels
from .record import Record

# Types of what stands in the free-form objects, where it does.
SUITE = {"name": str, "version": int, "seeds": int, "limit": int | None, "record": int, "desired": bool}
TASK = {
    "majority": float,
    "num_labels": int,
    "labels": str,
    "control": bool,
    "rows": dict[str, int],
    "fingerprints": dict[str, dict[str, Any]],
}
FINGERPRINT = {"rows": int, "sha256": str}
# Far above what any suite makes: what a card costs to render is bounded too.
MOST_TASKS, MOST_BUDGETS, MOST_ATTACKS, MOST_LOOKS = 20, 200, 100, 1000
ATTACK = {"assumes": str, "outside": bool}


def check_report(report: Record) -> None:
    """Refuse a report whose free-form parts or runs do not hold together.

    Raises:
        ValueError: What is wrong, and where.
    """
    _check_facts(report.suite, SUITE, "report.suite", required=("name", "version"))
    _check_count(report.tasks, MOST_TASKS, "report.tasks", "tasks")
    for name, facts in report.tasks.items():
        _check_task(facts, f"report.tasks[{name!r}]")
    for name, facts in report.attacks.items():
        _check_facts(facts, ATTACK, f"report.attacks[{name!r}]")
    for role, metrics in report.desired.items():
        checked(str if role == "dataset" else dict[str, float], metrics, f"report.desired[{role!r}]")
    for i, run in enumerate(report.runs):
        _check_run(run, f"report.runs[{i}]")
    if unknown := {run.task for run in report.runs} - report.tasks.keys():
        raise ValueError(f"report: runs of tasks that it does not list: {', '.join(sorted(unknown))}.")
    budgets = [examples for task in report.tasks for examples in report.budgets(task)]
    _check_count(budgets, MOST_BUDGETS, "report", "numbers of examples")
    names = {*report.attacks, *(run.attack for run in report.runs)}
    _check_count(names, MOST_ATTACKS, "report", "attacks")
    for i, run in enumerate(report.runs):
        if run.predictions:
            _check_predictions(run, report.tasks[run.task], f"report.runs[{i}]")


def _check_count(found: Sized, most: int, where: str, what: str) -> None:
    if len(found) > most:
        raise ValueError(f"{where} has {len(found)} {what}; at most {most} are read.")


def _check_facts(facts: dict[str, Any], kinds: dict[str, Any], where: str, required: tuple[str, ...] = ()) -> None:
    for name, kind in kinds.items():
        if name in facts:
            checked(kind, facts[name], f"{where}.{name}")
        elif name in required:
            raise ValueError(f"{where} has no {name!r}.")


def _check_task(facts: dict[str, Any], where: str) -> None:
    _check_facts(facts, TASK, where, required=("majority",))
    for split, found in facts.get("fingerprints", {}).items():
        _check_facts(found, FINGERPRINT, f"{where}.fingerprints[{split!r}]")
    if not 0 <= facts["majority"] <= 1:
        raise ValueError(f"{where}.majority must lie in [0, 1], got {facts['majority']}.")
    try:
        labels = unpacked_labels(facts.get("labels", ""))
    except ValueError as error:
        raise ValueError(f"{where}.labels: {error}") from None
    if len(labels) and labels.max() >= facts.get("num_labels", 0):
        raise ValueError(f"{where}.labels: label {labels.max()} is outside num_labels, {facts.get('num_labels')}.")


def _check_run(run: AttackRun, where: str) -> None:
    if run.status not in STATUSES:
        raise ValueError(f"{where}: status must be one of {', '.join(STATUSES)}, got {run.status!r}.")
    if run.role not in (*ROLES, *REFERENCES):
        raise ValueError(f"{where}: role must be one of {', '.join((*ROLES, *REFERENCES))}, got {run.role!r}.")
    if run.examples < 1 or min(run.seed, run.steps, run.seconds, run.flops) < 0:
        raise ValueError(f"{where}: examples must be at least 1; seed, steps, seconds and flops at least 0.")
    for split, scores, there in (
        ("selection", run.selection, run.status != "failed"),
        ("test", run.test, run.status == "ok"),
    ):
        if (scores is not None) != there:
            raise ValueError(f"{where}: a run that is {run.status!r} cannot have {split} {scores!r}.")
        if scores:
            bounded = (scores.accuracy, scores.auc, scores.balanced_accuracy)
            if not all(0 <= score <= 1 for score in bounded) or scores.loss < 0:
                raise ValueError(f"{where}.{split}: scores must lie in [0, 1], losses at 0 or above; got {scores}.")
            checked(dict[str, float | None], scores.extra, f"{where}.{split}.extra")
    _check_count(run.curve, MOST_LOOKS, f"{where}.curve", "points")
    if any(len(point) != 2 for point in run.curve):
        raise ValueError(f"{where}.curve: expected pairs of step and accuracy.")


def _check_predictions(run: AttackRun, facts: dict[str, Any], where: str) -> None:
    """Predictions agree with the accuracy beside them, so that neither can be edited alone."""
    labels = unpacked_labels(facts.get("labels", ""))
    try:
        predictions = unpacked(run.predictions, facts.get("num_labels", 2))
    except ValueError as error:
        raise ValueError(f"{where}.predictions: {error}") from None
    if len(predictions) != len(labels):
        raise ValueError(f"{where}.predictions: {len(predictions)} rows; the task has {len(labels)} test labels.")
    accuracy = float((predictions.argmax(axis=1) == labels).mean())
    if run.test is None or abs(accuracy - run.test.accuracy) > 1e-6:
        raise ValueError(f"{where}: accuracy on test does not follow from its predictions ({accuracy:.6f}).")
