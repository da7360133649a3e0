"""What the weights add: the best attack with them and with all else, minus the best without them. No torch.

An attacker without the weights still has the raw input and can train the same architecture from scratch. What weights
reveal beyond that is what a defence can take away; what the input reveals, no weights can hide.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .attack_run import NOT_MEASURED, AttackRun
from .comparison import Choice, Difference, compared
from .contributions import contributions
from .packing import unpacked, unpacked_labels
from .record import Record

SHARES = (0.25, 0.5, 0.75)  # of the raw input, where it is combined with a model
RAW = "raw input"  # the attack of the role raw
WITHOUT = ("raw", "scratch")  # the raw input is always there
MOST_ADDED, MOST_HIGH = 0.01, 0.03
BLOCKED_IF = f"blocked where the weights add at most {MOST_ADDED} and the interval ends at most at {MOST_HIGH}"
ADDED_COLUMNS = (
    "examples",
    "best without weights",
    "best with hardened weights",
    "hardened adds",
    "undefended adds",
    "base adds",
    "blocked",
)


@dataclass(frozen=True)
class Combination:
    """An attack, alone or combined with the raw input: the mean of both log-probabilities, weighted.

    With all examples, or refitted, it may also be averaged over its seeds.

    Attributes:
        attack: Name of the attack.
        role: The model attacked, or ``raw``.
        share: Weight of the raw input; 0 for the attack alone.
        averaged: Whether the log-probabilities of all seeds are averaged.
        merit: Mean accuracy on the selection rows over seeds, less the optimism of the attack's choice; between
            equals the smaller loss.
    """

    attack: str
    role: str
    share: float
    averaged: bool = False
    merit: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        """Such as ``layer probe with raw input``."""
        model = " from scratch" if self.role == "scratch" else ""
        averaged = ", seeds averaged" if self.averaged else ""
        return f"{self.attack}{model}{' with raw input' if self.share else ''}{averaged}"


def weights_add(
    reports: Record | Sequence[Record],
    task: str,
    examples: int,
    role: str = "hardened",
    *,
    metric: str = "accuracy",
    level: float = 0.95,
) -> Difference | None:
    """Best attack that has a model's weights and all else, minus the best that has no weights.

    With weights, an attack counts alone and combined with the raw input; an attacker may also ignore the weights.
    Without them, the raw input, scratch and their combinations count. Both are chosen on the selection split.

    Args:
        reports: One report, or reports of several hardening seeds on the same task.
        task: Blocked task.
        examples: Blocked examples the attacker had.
        role: The model whose weights the attacker has.
        metric: One of :data:`.contributions.METRICS`.
        level: Of the interval.

    Returns:
        The difference; ``None`` where a report does not record the predictions of both splits.
    """

    def choice(*roles: str) -> Choice:
        def chosen(report: Record) -> tuple[str, dict[int, np.ndarray]]:
            attacked = best_combination(report, task, examples, roles[0]) is not None
            found = best_combination(report, task, examples, *roles) if attacked else None
            return (str(found), _rows(report, task, examples, found, metric)) if found else ("", {})

        return chosen

    return compared(reports, task, examples, choice(role, *WITHOUT), choice(*WITHOUT), level=level)


def added_rows(report: Record, task: str) -> list[list[str]]:
    """By examples, the cells of :data:`ADDED_COLUMNS`; no rows where a report does not record what they take.

    Args:
        report: A report.
        task: Blocked task.
    """
    rows = []
    for examples in report.budgets(task):
        with_hardened = weights_add(report, task, examples)
        if with_hardened is None:
            continue
        best = [best_combination(report, task, examples, *roles) for roles in (WITHOUT, ("hardened", *WITHOUT))]
        shown = [
            f"{np.mean([*_rows(report, task, examples, one, 'accuracy').values()]):.3f} {one}" for one in best if one
        ]
        others = [weights_add(report, task, examples, role) for role in ("undefended", "base")]
        adds = [str(one) if one else NOT_MEASURED for one in (with_hardened, *others)]
        rows.append([str(examples), *shown, *adds, "yes" if blocked(with_hardened) else "no"])
    return rows


def best_combination(report: Record, task: str, examples: int, *roles: str) -> Combination | None:
    """The attack on any of these roles, alone or combined with the raw input, that the selection split prefers.

    Args:
        report: A report.
        task: Blocked task.
        examples: Blocked examples the attacker had.
        roles: Models, ``scratch`` or ``raw``.

    Returns:
        The combination; ``None`` where the report does not record predictions of the selection rows.
    """
    for role in roles:
        if (key := ("combination", task, examples, role)) not in report.memory:
            found = _combinations(report, task, examples, role)
            report.memory[key] = max(found, key=lambda one: one.merit, default=None)
    best = [one for role in roles if (one := report.memory["combination", task, examples, role])]
    return max(best, key=lambda one: one.merit, default=None)


def combined(predictions: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted geometric mean of predictions, normalised: a mean of log-probabilities.

    Args:
        predictions: Class probabilities, each of shape ``(rows, classes)`` and all positive.
        weights: One for each, of sum 1.

    Example:
        >>> combined([np.array([[0.8, 0.2]]), np.array([[0.2, 0.8]])], [0.5, 0.5])
        array([[0.5, 0.5]])
    """
    logs = sum(weight * np.log(one) for weight, one in zip(weights, predictions, strict=True))
    values = np.exp(logs - np.max(logs, axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def blocked(found: Difference) -> bool:
    """Whether what the weights add is next to nothing, see :data:`BLOCKED_IF`."""
    return found.mean <= MOST_ADDED and found.high <= MOST_HIGH


def _combinations(report: Record, task: str, examples: int, role: str) -> Iterator[Combination]:
    facts, raw = report.tasks[task], _runs(report, task, examples, "raw").get(RAW, {})
    labels = unpacked_labels(facts.selection)
    for attack, runs in _runs(report, task, examples, role).items():
        luck = statistics.fmean(run.optimism for run in runs.values())
        shares = (0.0, *(SHARES if role != "raw" and runs.keys() <= raw.keys() else ()))
        # With all examples every seed has the same ones, so that an attacker can average over seeds.
        averages = (False, True) if examples >= facts.rows.train > 0 and len(runs) > 1 else (False,)
        for share, averaged in itertools.product(shares, averages):
            one = Combination(attack, role, share, averaged)
            answers = _answers(report, task, examples, one, "selected").values()
            right, loss = (
                statistics.fmean(float(contributions(labels, answer, metric).mean()) for answer in answers)
                for metric in ("accuracy", "loss")
            )
            yield replace(one, merit=(right - luck, -loss))


def _rows(report: Record, task: str, examples: int, one: Combination, metric: str) -> dict[int, np.ndarray]:
    """By seed, what each test row contributes."""
    labels = unpacked_labels(report.tasks[task].labels)
    answers = _answers(report, task, examples, one, "predictions")
    return {seed: contributions(labels, answer, metric) for seed, answer in answers.items()}


def _answers(report: Record, task: str, examples: int, one: Combination, split: str) -> dict[int, np.ndarray]:
    """By seed, class probabilities of the rows of a split."""
    classes = report.tasks[task].num_labels
    raw = _runs(report, task, examples, "raw").get(RAW, {}) if one.share else {}
    found = {
        seed: combined(
            [unpacked(getattr(run, split), classes), *([unpacked(getattr(raw[seed], split), classes)] if raw else [])],
            [1 - one.share, one.share] if raw else [1.0],
        )
        for seed, run in _runs(report, task, examples, one.role)[one.attack].items()
    }
    if not one.averaged:
        return found
    return dict.fromkeys(found, combined([*found.values()], [1 / len(found)] * len(found)))


def _runs(report: Record, task: str, examples: int, role: str) -> dict[str, dict[int, AttackRun]]:
    """By attack and seed, the chosen runs inside the headline whose predictions are on record, all seeds of them."""
    found: dict[str, dict[int, AttackRun]] = {}
    for run in report.runs_of(task, examples, role) if report.tasks[task].has_classes else ():
        if run.chosen and not report.outside(run.attack):
            found.setdefault(run.attack, {})[run.seed] = run
    return {name: by for name, by in found.items() if all(run.selected and run.predictions for run in by.values())}
