"""Doubts whether the attacks were tuned well enough: under-tuned, still rising, at an edge, searched unequally."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from ..report.attack_run import AttackRun
from ..report.report import AttackReport

MARGIN = 0.03
RISING = 0.02


def under_tuned(report: AttackReport, task: str) -> Iterator[str]:
    """Fine-tuning that ends below an attack without steps was not tuned: what it fails at says nothing."""
    for examples in report.budgets(task):
        found = {s.attack: s for s in report.summaries(task) if (s.role, s.examples) == ("hardened", examples)}
        stepped = {r.attack for r in report.runs_of(task, examples, "hardened") if r.steps}
        probes = [s for name, s in found.items() if name not in stepped and not report.outside(name)]
        best = max(probes, key=lambda s: s.selection, default=None)
        if best and (weak := sorted(n for n, s in found.items() if n in stepped and s.mean < best.mean - MARGIN)):
            yield (
                f"{task}: with {examples} examples {best.attack} reaches {best.mean:.3f} on the hardened model and "
                f"{', '.join(weak)} less: fine-tuning below what takes no step was not tuned."
            )


def other_search(report: AttackReport, task: str) -> Iterator[str]:
    """Scratch was not attacked with the settings that the hardened model was: it is no fair reference."""
    if not {"hardened", "scratch"} <= report.models.keys():
        return
    examples, tried = report.searched(task), {}
    for role in ("hardened", "scratch"):
        runs = [run for run in report.runs_of(task, examples, role) if not report.outside(run.attack)]
        tried[role] = {(run.attack, json.dumps(run.settings, sort_keys=True)) for run in runs}
    if lacking := sorted({attack for attack, _ in tried["hardened"] - tried["scratch"]}):
        yield (
            f"{task}: with {examples} examples scratch was not attacked with the same settings as the hardened model "
            f"by {', '.join(lacking)}: scratch was not tuned by the same search."
        )


def unusual_winner(report: AttackReport, task: str) -> Iterator[str]:
    """Fine-tuning did best with a precision or a pooling that other attacks do not try."""
    best = report.strongest_runs(task, report.searched(task), "hardened")
    precisions = {str(run.settings["precision"]) for run in best if "precision" in run.settings}
    poolings = {str(run.found["pooling"]) for run in best if run.steps and "pooling" in run.found} - {"mean"}
    if found := [f"precision {one}" for one in sorted(precisions)] + [f"pooling {one}" for one in sorted(poolings)]:
        yield (
            f"{task}: the strongest attack on the hardened model, {best[0].attack}, used {' and '.join(found)}: "
            "attacks that do not try them may be too weak."
        )


def edge_of_range(report: AttackReport, task: str) -> Iterator[str]:
    """The best learning rate is the smallest or largest tried: a better one may lie beyond."""
    tried: dict[Any, set[float]] = {}
    chosen: dict[Any, set[float]] = {}
    for run in report.runs:
        if run.task == task and run.role == "hardened" and "learning_rate" in run.settings:
            tried.setdefault(_kind(run), set()).add(run.settings["learning_rate"])
            if run.chosen and run.status == "ok":
                chosen.setdefault(_kind(run), set()).add(run.settings["learning_rate"])
    for kind, rates in tried.items():
        if len(rates) == 1:  # one of many variants, not a search by rate
            continue
        for rate in sorted(chosen.get(kind, set()) & {min(rates), max(rates)}):
            yield (
                f"{task}: {' / '.join(kind)} chose learning rate {rate:g} on the hardened model, the edge of what was "
                f"tried ({', '.join(f'{r:g}' for r in sorted(rates))}): a stronger attack may lie beyond."
            )


def still_rising(report: AttackReport, task: str) -> Iterator[str]:
    """The score still rises at the last look: with more steps the attack may get further."""
    groups: dict[tuple[str, int], list[AttackRun]] = {}
    for run in report.runs:
        if run.task != task or run.examples == report.refit(task):  # which has the curve of the run before
            continue
        if run.role == "hardened" and run.chosen and run.status == "ok" and len(run.curve) > 1:
            groups.setdefault((run.attack, run.examples), []).append(run)
    for (attack, examples), runs in groups.items():
        gains = [run.curve[-1][1] - max(point[1] for point in run.curve[:-1]) for run in runs]
        if sum(gains) / len(gains) > RISING:
            yield (
                f"{task}: {attack} with {examples} examples still rises at its last step on the hardened model: with "
                "more steps it may get further."
            )


def misled(report: AttackReport, task: str) -> Iterator[str]:
    """Short runs put the best settings well behind others: they may have given up better ones."""
    kept: dict[tuple[str, int], list[tuple[float, bool]]] = {}
    for run in report.runs:
        if run.task == task and run.role == "hardened" and run.rung is not None and run.examples != report.refit(task):
            kept.setdefault((run.attack, run.examples), []).append((run.rung, run.chosen))
    for (attack, examples), rungs in kept.items():
        best = min((rung for rung, chosen in rungs if chosen), default=-math.inf)  # none: its short run failed
        behind = max(rung for rung, _ in rungs) - best
        if behind > MARGIN:
            said = f"lay {behind:.3f} behind others" if behind < math.inf else "failed"
            yield (
                f"{task}: {attack} with {examples} examples did best on the hardened model with settings that {said} "
                "in a short run: settings that were given up after it may do better."
            )


def not_refitted(report: AttackReport, task: str) -> Iterator[str]:
    """The strongest attack with all training rows was not run again with the selection rows, weaker ones were."""
    again, examples = report.refit(task), report.searched(task)
    best = report.strongest(task, examples, "hardened")
    if again is None or best is None:
        return
    if best.attack not in {run.attack for run in report.runs_of(task, again, "hardened")}:
        yield (
            f"{task}: with {again} examples, which include the selection rows, {best.attack} was not run, the "
            f"strongest with {examples}: the score with {again} examples may be too low."
        )


def _kind(run: AttackRun) -> tuple[str, ...]:
    """What competes by learning rate alone: the attack, its variant, its optimizer."""
    parts = (run.attack, run.settings.get("variant"), run.settings.get("optimizer"))
    return tuple(str(part) for part in dict.fromkeys(parts) if part)
