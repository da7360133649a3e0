"""What the weights add: the best attack with them and with all else, minus the best without them. No torch.

An attacker without the weights still has the raw input and can train the same architecture from scratch. What weights
reveal beyond that is what a defence can take away; what the input reveals, no weights can hide.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .attack_run import NOT_MEASURED, AttackRun
from .comparison import Choice, Difference, compared
from .contributions import contributions
from .packing import unpacked, unpacked_labels
from .record import Record

SHARES = (0.25, 0.5, 0.75)  # of the raw input, where it is combined with a model
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

    Attributes:
        attack: Name of the attack.
        role: The model attacked, or ``raw``.
        share: Weight of the raw input; 0 for the attack alone.
        merit: Mean accuracy on the selection rows over seeds, less the optimism of the attack's choice; between
            equals the smaller loss.
    """

    attack: str
    role: str
    share: float
    merit: tuple[float, float]

    def __str__(self) -> str:
        """Such as ``layer probe with raw input``."""
        model = " from scratch" if self.role == "scratch" else ""
        return f"{self.attack}{model}" + (" with raw input" if self.share else "")


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
    found = [one for role in roles for one in _combinations(report, task, examples, role)]
    return max(found, key=lambda one: one.merit, default=None)


def combined(model: np.ndarray, raw: np.ndarray, share: float) -> np.ndarray:
    """The weighted geometric mean of two predictions, normalised: a mean of log-probabilities.

    Args:
        model: Class probabilities, shape ``(rows, classes)``, all positive.
        raw: Others, of the same shape.
        share: Weight of the second.

    Example:
        >>> combined(np.array([[0.8, 0.2]]), np.array([[0.2, 0.8]]), 0.5)
        array([[0.5, 0.5]])
    """
    logs = (1 - share) * np.log(model) + share * np.log(raw)
    values = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def blocked(found: Difference) -> bool:
    """Whether what the weights add is next to nothing, see :data:`BLOCKED_IF`."""
    return found.mean <= MOST_ADDED and found.high <= MOST_HIGH


def _combinations(report: Record, task: str, examples: int, role: str) -> Iterator[Combination]:
    facts, raw = report.tasks[task], _runs(report, task, examples, "raw").get("raw input", {})
    labels = unpacked_labels(facts.selection)
    for attack, runs in _runs(report, task, examples, role).items():
        luck = statistics.fmean(run.optimism for run in runs.values())
        for share in (0.0, *(SHARES if role != "raw" and runs.keys() <= raw.keys() else ())):
            parts = [
                _predicted(run.selected, raw[seed].selected if share else "", share, facts.num_labels)
                for seed, run in runs.items()
            ]
            right, loss = (
                statistics.fmean(float(contributions(labels, part, metric).mean()) for part in parts)
                for metric in ("accuracy", "loss")
            )
            yield Combination(attack, role, share, (right - luck, -loss))


def _rows(report: Record, task: str, examples: int, one: Combination, metric: str) -> dict[int, np.ndarray]:
    facts, raw = report.tasks[task], _runs(report, task, examples, "raw").get("raw input", {})
    labels = unpacked_labels(facts.labels)
    return {
        seed: contributions(
            labels,
            _predicted(run.predictions, raw[seed].predictions if one.share else "", one.share, facts.num_labels),
            metric,
        )
        for seed, run in _runs(report, task, examples, one.role)[one.attack].items()
    }


def _predicted(model: str, raw: str, share: float, classes: int) -> np.ndarray:
    own = unpacked(model, classes)
    return combined(own, unpacked(raw, classes), share) if share else own


def _runs(report: Record, task: str, examples: int, role: str) -> dict[str, dict[int, AttackRun]]:
    """By attack and seed, the chosen runs inside the headline whose predictions are on record, all seeds of them."""
    found: dict[str, dict[int, AttackRun]] = {}
    for run in report.runs_of(task, examples, role):
        if run.chosen and not report.outside(run.attack):
            found.setdefault(run.attack, {})[run.seed] = run
    return {name: by for name, by in found.items() if all(run.selected and run.predictions for run in by.values())}
