"""Scores on record, computed again from the predictions on record."""

from __future__ import annotations

from collections.abc import Iterator

from ...report.contributions import METRICS, contributions
from ...report.facts import TaskFacts
from ...report.packing import unpacked, unpacked_labels
from ...report.report import AttackReport
from ...report.token_rows import token_scores, unpacked_tokens

EXACT = 1e-6


def score_problems(report: AttackReport, task: str) -> Iterator[str]:
    """Yield where scores do not follow from predictions, without which no run that counts is believed.

    Args:
        report: A report.
        task: The task, of classes or of next tokens.
    """
    facts = report.tasks[task]
    if facts.has_classes and (problem := _labels(facts)):
        yield f"{task}: {problem}"
        return
    for run in report.runs:
        if run.task != task or not run.chosen or run.test is None:
            continue
        where = f"{task}: {run.attack} on {run.role} with {run.examples} examples, seed {run.seed}"
        if not (run.predictions and run.selected and run.selection):
            yield f"{where}: chosen, and without predictions"
            continue
        for split, labels, text, scores in (
            ("test", facts.labels, run.predictions, run.test),
            ("selection", facts.selection, run.selected, run.selection),
        ):
            known = _token_metrics(text) if facts.has_tokens else _metrics(labels, text, facts.num_labels)
            stated = {"loss": scores.loss, **scores.extra} if facts.has_tokens else vars(scores)
            for name, value in known.items():
                if value is not None and abs(value - (stated.get(name) or 0.0)) > EXACT:
                    yield f"{where}: {name.replace('_', ' ')} on {split} does not follow from its predictions"


def _labels(facts: TaskFacts) -> str | None:
    """The first thing in which labels differ from what the report says of them."""
    labels, known = unpacked_labels(facts.labels), unpacked_labels(facts.selection)
    for split, found, rows in (("test", labels, facts.rows.test), ("selection", known, facts.rows.selection)):
        if len(found) != rows:
            return f"{len(found)} {split} labels on record, for {rows} {split} rows"
    if abs(max((labels == c).mean() for c in set(labels.tolist())) - facts.majority) > EXACT:
        return "the commonest label's rate does not follow from the labels"
    return None


def _metrics(labels: str, predictions: str, classes: int) -> dict[str, float | None]:
    right, probabilities = unpacked_labels(labels), unpacked(predictions, classes)
    return {name: float(contributions(right, probabilities, name).mean()) for name in METRICS}


def _token_metrics(sums: str) -> dict[str, float | None]:
    found = token_scores(unpacked_tokens(sums))
    return {"loss": found.loss, **found.extra}
