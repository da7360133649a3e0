"""What stands beside the table of a task: constant answers, raw input, a filtered model, general loss. No torch."""

from __future__ import annotations

import statistics

from .attack_run import FILTERED, NOT_MEASURED, Summary, cell
from .comparison import difference
from .record import Record
from .token_rows import known_general


def reference_lines(report: Record, task: str) -> list[str]:
    """Describe reference values: a constant answer, the raw input alone, scratch with more data and steps.

    The attack that the selection split prefers need not be the one that reached most on test, which is stated too.
    """
    words = {"raw": "raw input without a model", "more": "scratch with more data and steps"}
    found: list[Summary] = [s for s in report.summaries(task) if s.role in words]
    best = {s.role: s for s in sorted(found, key=lambda s: s.examples)}
    known = [f"{words[role]} {cell(best[role])}" for role in words if role in best]
    facts = report.tasks[task]
    highest, refitted, general = _highest(report, task), _refitted(report, task), general_lines(report, task)
    return [
        f"{facts.constant} {facts.majority:.3f}",
        *known,
        *highest,
        *refitted,
        *_from_filtered(report, task),
        *general,
    ]


def _from_filtered(report: Record, task: str) -> list[str]:
    """How much more the hardened model gives an attacker than one that never saw the task."""
    most = max(report.budgets(task), default=0)
    if FILTERED not in report.models:
        return []
    apart = difference(report, task, most, "hardened", FILTERED)
    return [f"hardened − filtered {apart or NOT_MEASURED} ({most} examples)"]


def general_lines(report: Record, task: str) -> list[str]:
    """The general loss and the share of gibberish of each model, before the strongest attack and after it."""
    most = max(report.budgets(task), default=0)
    runs = {role: report.strongest_runs(task, most, role) for role in report.roles()}
    losses = {role: [*filter(None, map(known_general, found))] for role, found in runs.items()}
    shares = {role: [run.gibberish for run in found if run.gibberish] for role, found in runs.items()}
    return [
        *_before_and_after("general loss (nats per token)", losses, ".3f"),
        *_before_and_after("gibberish among continuations", shares, ".0%"),
    ]


def _before_and_after(what: str, known: dict[str, list[tuple[float, ...]]], form: str) -> list[str]:
    """One line of what was measured before and after the attack, averaged over seeds, by role."""
    means = {role: [statistics.fmean(values) for values in zip(*pairs, strict=True)] for role, pairs in known.items()}
    found = [f"{role} {pair[0]:{form}} → {pair[1]:{form}}" for role, pair in means.items() if pair]
    return [f"{what} before → after: {', '.join(found)}"] if found else []


def _highest(report: Record, task: str) -> list[str]:
    """What most was reached on the hardened model with all examples, whichever attack the selection split prefers."""
    most = max(report.budgets(task), default=0)
    runs = [run for run in report.runs_of(task, most, "hardened") if not report.outside(run.attack)]
    names = {run.attack for run in runs}
    found = [s for s in report.summaries(task) if (s.role, s.examples) == ("hardened", most) and s.attack in names]
    best = max(found, key=lambda s: s.mean, default=None)
    if best is None:
        return []
    return [f"highest of {len(names)} attacks ({len(runs)} runs, {most} examples) {cell(best)}, {best.attack}"]


def _refitted(report: Record, task: str) -> list[str]:
    """What the last number of examples means where it counts the selection rows."""
    if (examples := report.refit(task)) is None:
        return []
    return [f"{examples} examples are the training and the selection rows: settings were chosen before, and refitted"]
