"""Scores on record, computed again from the predictions on record."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...report.contributions import METRICS, contributions
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
    labels, known = unpacked_labels(facts.labels), unpacked_labels(facts.selection)
    if facts.has_classes:
        for split, found, rows in (("test", labels, facts.rows.test), ("selection", known, facts.rows.selection)):
            if len(found) != rows:
                yield f"{task}: {len(found)} {split} labels on record, for {rows} {split} rows"
                return
        if abs(max((labels == c).mean() for c in set(labels.tolist())) - facts.majority) > EXACT:
            yield f"{task}: the commonest label's rate does not follow from the labels"
    for run in report.runs:
        if run.task != task or not run.chosen or run.test is None:
            continue
        where = f"{task}: {run.attack} on {run.role} with {run.examples} examples, seed {run.seed}"
        if not (run.predictions and run.selected and run.selection):
            yield f"{where}: chosen, and without predictions"
            continue
        for split, right, text, scores in (
            ("test", labels, run.predictions, run.test),
            ("selection", known, run.selected, run.selection),
        ):
            again = _token_metrics(text) if facts.has_tokens else _metrics(right, unpacked(text, facts.num_labels))
            stated = {"loss": scores.loss, **scores.extra} if facts.has_tokens else vars(scores)
            for name, value in again.items():
                if _differ(value, stated.get(name)):
                    yield f"{where}: {name.replace('_', ' ')} on {split} does not follow from its predictions"


def _differ(one: float | None, other: float | None) -> bool:
    return one is not other if one is None or other is None else abs(one - other) > EXACT


def _metrics(right: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    return {name: float(contributions(right, probabilities, name).mean()) for name in METRICS}


def _token_metrics(sums: str) -> dict[str, float | None]:
    found = token_scores(unpacked_tokens(sums))
    return {"loss": found.loss, **found.extra}
