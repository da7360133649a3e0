"""Consistency checks of an untrusted report, beyond its types."""

from __future__ import annotations

import math
import re
from collections.abc import Sized
from dataclasses import astuple

from .attack_run import REFERENCES, ROLES, STATUSES, AttackRun, Scores
from .facts import TaskFacts
from .packing import unpacked, unpacked_labels
from .record import Record
from .token_rows import token_scores, unpacked_tokens

# Far above the size of any suite's report; these limits also bound the cost of rendering a card.
MOST_TASKS, MOST_BUDGETS, MOST_ATTACKS, MOST_LOOKS = 20, 200, 100, 1000


def check_report(report: Record) -> None:
    """Check that the tasks and runs of a report are consistent.

    Raises:
        ValueError: A value is wrong; the message names its place.
    """
    _check_count(report.tasks, MOST_TASKS, "report.tasks", "tasks")
    for name, facts in report.tasks.items():
        _check_task(facts, f"report.tasks[{name!r}]")
    for i, run in enumerate(report.runs):
        _check_run(run, f"report.runs[{i}]")
    if unknown := {run.task for run in report.runs} - report.tasks.keys():
        raise ValueError(f"report: runs of unlisted tasks: {', '.join(sorted(unknown))}.")
    budgets = [examples for task in report.tasks for examples in report.budgets(task)]
    _check_count(budgets, MOST_BUDGETS, "report", "numbers of examples")
    names = {*report.attacks, *(run.attack for run in report.runs)}
    _check_count(names, MOST_ATTACKS, "report", "attacks")
    for i, run in enumerate(report.runs):
        _check_kind(run, report.tasks[run.task], f"report.runs[{i}]")
        if run.predictions or run.selected:
            _check_predictions(run, report.tasks[run.task], f"report.runs[{i}]")


def _check_count(found: Sized, most: int, where: str, what: str) -> None:
    if len(found) > most:
        raise ValueError(f"{where} has {len(found)} {what}; the limit is {most}.")


def _check_task(facts: TaskFacts, where: str) -> None:
    low, high = (0, 1) if facts.has_classes else (-math.inf, 0 if facts.has_tokens else math.inf)
    if not low < facts.majority <= high and facts.majority != low:
        raise ValueError(f"{where}.majority must be in [{low}, {high}], got {facts.majority}.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,23}", facts.score):
        raise ValueError(f"{where}.score must be a name of at most 24 letters, digits, spaces, '_' and '-'.")
    if not facts.has_classes and (facts.num_labels or facts.labels or facts.selection):
        raise ValueError(f"{where}: a task scored by {facts.score!r} has no num_labels and no labels.")
    if (least := min(facts.num_labels, *astuple(facts.rows), *(s.rows for s in facts.fingerprints.values()))) < 0:
        raise ValueError(f"{where}: num_labels and numbers of rows must be at least 0, got {least}.")
    if facts.scored_on not in ("test", "development"):
        raise ValueError(f"{where}.scored_on must be 'test' or 'development', got {facts.scored_on!r}.")
    if facts.earlier and min(astuple(facts.earlier)) < 0:
        raise ValueError(f"{where}.earlier: numbers of readings must be at least 0, got {facts.earlier}.")
    for name in ("labels", "selection"):
        try:
            labels = unpacked_labels(getattr(facts, name))
        except ValueError as error:
            raise ValueError(f"{where}.{name}: {error}") from None
        if len(labels) and labels.max() >= facts.num_labels:
            raise ValueError(f"{where}.{name}: label {labels.max()} must be less than num_labels, {facts.num_labels}.")


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
            raise ValueError(f"{where}: a run with status {run.status!r} cannot have {split} {scores!r}.")
        if scores:
            bounded = (scores.accuracy, scores.auc, scores.balanced_accuracy)
            known = all(0 <= score <= 1 for score in bounded if score is not None) and math.isfinite(scores.value)
            if not known or scores.loss < 0:
                raise ValueError(f"{where}.{split}: scores must be in [0, 1] and losses at least 0; got {scores}.")
    _check_count(run.general, MOST_LOOKS, f"{where}.general", "losses")
    if not all(0 <= loss < math.inf for loss in run.general):
        raise ValueError(f"{where}.general: losses must be finite and at least 0.")
    if len(run.gibberish) not in (0, 2) or not all(0 <= share <= 1 for share in run.gibberish):
        raise ValueError(f"{where}.gibberish: expected two shares in [0, 1], before and after the attack, or none.")
    _check_count(run.curve, MOST_LOOKS, f"{where}.curve", "points")
    if any(len(point) != 2 for point in run.curve):
        raise ValueError(f"{where}.curve: expected pairs of step and score.")


def _check_kind(run: AttackRun, facts: TaskFacts, where: str) -> None:
    """Scores are of the kind that the task's facts name."""
    for split, scores in (("selection", run.selection), ("test", run.test)):
        if scores and (scores.score is None) != facts.has_classes:
            raise ValueError(f"{where}.{split}: the task is scored by {facts.score!r}; got {scores}.")
    if run.rung is not None and (run.status == "pruned" or (facts.has_classes and not 0 <= run.rung <= 1)):
        raise ValueError(f"{where}.rung: expected a score, of a run that was not given up; got {run.rung}.")


def _check_predictions(run: AttackRun, facts: TaskFacts, where: str) -> None:
    """Check the predictions against the accuracy, so that neither can be edited alone."""
    for split, name, text, labels, scores in (
        ("test", "predictions", run.predictions, facts.labels, run.test),
        ("selection", "selected", run.selected, facts.selection, run.selection),
    ):
        if not text:
            continue
        if facts.has_tokens:
            _check_sums(text, getattr(facts.rows, split), scores, f"{where}.{name}")
            continue
        if not facts.num_labels:
            raise ValueError(f"{where}.{name}: the task has no num_labels.")
        right = unpacked_labels(labels)
        try:
            predictions = unpacked(text, facts.num_labels)
        except ValueError as error:
            raise ValueError(f"{where}.{name}: {error}") from None
        if len(predictions) != len(right):
            raise ValueError(f"{where}.{name}: {len(predictions)} rows, but the task has {len(right)} {split} labels.")
        accuracy = float((predictions.argmax(axis=1) == right).mean())
        if scores is None or abs(accuracy - scores.value) > 1e-6:
            raise ValueError(
                f"{where}: {split} accuracy differs from that of the predictions ({name}: {accuracy:.6f})."
            )


def _check_sums(text: str, rows: int, scores: Scores | None, where: str) -> None:
    """Check the sums over each row's tokens against the score, so that neither can be edited alone."""
    try:
        sums = unpacked_tokens(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if len(sums) != rows or not rows:
        raise ValueError(f"{where}: {len(sums)} rows, but the task has {rows}.")
    reached = token_scores(sums).value
    if scores is None or abs(reached - scores.value) > 1e-6:
        raise ValueError(f"{where}: the score differs from that of the rows' tokens ({reached:.6f}).")
