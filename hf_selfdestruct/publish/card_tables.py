"""Tables of a card: rows of text from the numbers of a report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ..report.attack_run import NOT_MEASURED, AttackRun, cell
from ..report.comparison import difference
from ..report.report import AttackReport
from ..report.weights_add import blocked, weights_add

NOISE = 0.03


@dataclass(frozen=True)
class Result:
    """One row of the result: a blocked task at one number of examples, each model under its strongest attack.

    Args:
        cells: The task, the number of examples, and the score of the strongest attack on each model.
        difference: Hardened minus scratch.
        added: What the raw input reaches without a model, and what the hardened weights add to the best attack without
            weights; empty where the report does not record what this takes.
        is_open: Whether the hardened model is not blocked here: its weights add something or, where that is unknown,
            it is better than scratch.
        attack: The attack on the hardened model that the selection split prefers.
    """

    cells: tuple[str, ...]
    difference: str
    added: tuple[str, ...]
    is_open: bool
    attack: str


def results(report: AttackReport) -> list[Result]:
    """Return one row for each blocked task and number of examples.

    Args:
        report: The evidence.

    Returns:
        The rows for which an attack on the hardened model completed.
    """
    rows = []
    for task in report.blocked():
        for examples in report.budgets(task):
            best = {role: report.strongest(task, examples, role) for role in report.roles()}
            hardened, scratch = best.get("hardened"), best.get("scratch")
            if hardened is None:
                continue
            found = difference(report, task, examples) if scratch else None
            apart = hardened.mean - scratch.mean if scratch else 0.0
            added = weights_add(report, task, examples)
            rows.append(
                Result(
                    (task, str(examples), *(cell(best[role]) for role in report.roles())),
                    str(found) if found else f"{apart:+.3f}" if scratch else NOT_MEASURED,
                    (cell(report.strongest(task, examples, "raw")), str(added)) if added else (),
                    not blocked(added) if added else found.low > 0 if found else apart > NOISE,
                    hardened.attack,
                )
            )
    return rows


def attack_rows(report: AttackReport, task: str) -> list[list[str]]:
    """List every attack on a task, ordered by score on the hardened model, highest first."""
    cells = {(s.attack, s.examples, s.role): s for s in report.summaries(task)}
    runs_by: dict[tuple[str, int], list[AttackRun]] = {}
    for run in report.runs:
        if run.task == task and run.role in report.roles():
            runs_by.setdefault((run.attack, run.examples), []).append(run)

    def reached(key: tuple[str, int]) -> float:
        found = cells.get((*key, "hardened"))
        return found.mean if found else -math.inf

    rows = []
    for attack, examples in sorted(sorted(runs_by), key=reached, reverse=True):
        found = cells.get((attack, examples, "hardened"))
        runs = runs_by[attack, examples]
        tried = len({json.dumps(r.settings, sort_keys=True) for r in runs})
        steps = max((r.steps for r in runs), default=0)
        kind = f"{steps} steps" if steps else "no steps" if any(r.test for r in runs) else "failed"
        budget = f"{tried} setting{'s' * (tried > 1)}, {kind}"
        scores = [cell(cells.get((attack, examples, role))) for role in report.roles()]
        name = f"{attack} (outside)" if report.outside(attack) else attack
        beside = [found.beside() if found else NOT_MEASURED] if report.tasks[task].has_classes else []
        rows.append([name, str(examples), budget, *scores, *beside])
    return rows


def desired_lines(report: AttackReport) -> list[str]:
    """Describe desired quality by metric, for every measured model."""
    lines = []
    for metric in sorted({m for role in report.roles() for m in report.desired.of(role)}):
        values = {role: report.desired.of(role).get(metric) for role in report.roles()}
        reached = [f"{role} {value:.4f}" for role, value in values.items() if value is not None]
        lines.append(f"{metric} {', '.join(reached)}")
    return lines


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested settings to a list with dotted names."""
    found: list[tuple[str, Any]] = []
    for name, value in sorted(values.items()):
        inner = isinstance(value, dict)
        found += flat(value, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", value)]
    return found
