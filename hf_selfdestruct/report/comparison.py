"""Compare two models under their strongest attacks, with confidence intervals. Pure functions, no torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from .contributions import METRICS, contributions
from .facts import TaskFacts
from .packing import unpacked, unpacked_labels
from .record import Record
from .token_rows import token_contributions, unpacked_tokens

# Of one report, the name of an attack and, by seed, what each test row contributes to a metric.
Choice = Callable[[Record], tuple[str, dict[int, np.ndarray]]]

DRAWS = 2000
MOST_UNITS = 1500  # more rows than these are drawn in groups


@dataclass(frozen=True)
class Difference:
    """First model's score minus the second's, each under the strongest attack on the selection split.

    Attributes:
        examples: Number of blocked examples.
        attacks: The two attacks.
        mean: The difference.
        low: Lower end of the interval.
        high: Upper end of the interval.
        seeds: Number of attack seeds that both models share.
        models: Number of hardening seeds, one report each.
    """

    examples: int
    attacks: tuple[str, str]
    mean: float
    low: float
    high: float
    seeds: int
    models: int

    def __str__(self) -> str:
        """Format such as ``+.012 [-.004, +.028]``."""
        texts = (f"{value:+.3f}" for value in (self.mean, self.low, self.high))
        mean, low, high = (text[0] + text[1:].removeprefix("0") for text in texts)
        return f"{mean} [{low}, {high}]"


def difference(
    reports: Record | Sequence[Record],
    task: str,
    examples: int,
    first: str = "hardened",
    second: str = "scratch",
    *,
    metric: str = "accuracy",
    level: float = 0.95,
) -> Difference | None:
    """Compare two roles under their strongest attacks, each chosen on the selection split.

    The interval comes from a hierarchical bootstrap over hardening seed (one report each), attack seed and test row.
    Both roles use the same draws of seeds and rows, so shared variation cancels. See :func:`interval`.

    Args:
        reports: One report, or reports of several hardening seeds on the same task.
        task: Blocked task.
        examples: Number of blocked examples.
        first: A role.
        second: Another role, or ``null``: scratch with other random weights.
        metric: One of :data:`METRICS`; of a task without classes ``accuracy`` stands for its own score.
        level: Confidence level of the interval.

    Returns:
        The difference; ``None`` if one of the two was not measured, or has no predictions.

    Raises:
        ValueError: The metric is unknown, or the reports have different test rows.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}.")

    def choice(role: str) -> Choice:
        return lambda report: _by_seed(report, task, examples, role, metric)

    return compared(reports, task, examples, choice(first), choice(second), level=level)


def compared(
    reports: Record | Sequence[Record], task: str, examples: int, first: Choice, second: Choice, *, level: float = 0.95
) -> Difference | None:
    """What one choice of attack reaches minus what another one does, on the same seeds and rows.

    Args:
        reports: One report, or reports of several hardening seeds on the same task.
        task: Blocked task.
        examples: Blocked examples the attacker had.
        first: Chooses an attack in a report.
        second: Chooses the other.
        level: Of the interval.

    Returns:
        The difference; ``None`` where a report has nothing to choose, or no seed in common.

    Raises:
        ValueError: Reports with different test rows.
    """
    all_reports = [reports] if not isinstance(reports, Sequence) else list(reports)
    facts = [report.tasks[task] for report in all_reports]
    if len({one.fingerprints.get("test") if one.has_tokens else one.labels for one in facts}) > 1:
        raise ValueError(f"task {task!r}: the reports have different test rows; attack all models on the same rows.")
    models, attacks = [], ("", "")
    for report in all_reports:
        pair = [first(report), second(report)]
        seeds = sorted(set(pair[0][1]) & set(pair[1][1]))
        if not seeds:
            return None
        attacks = (pair[0][0], pair[1][0])
        models.append(np.stack([pair[0][1][seed] - pair[1][1][seed] for seed in seeds]))
    fewest = min(len(model) for model in models)
    values = np.stack([model[:fewest] for model in models])
    low, high = interval(values, level=level)
    return Difference(examples, attacks, float(values.mean()), low, high, fewest, len(models))


def interval(values: np.ndarray, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Confidence interval for the mean of ``values`` by a bootstrap over models, seeds within models, and rows.

    The bootstrap determines the shape. The scale is an unbiased estimate: the sum of the variances among the top-level
    units (models, or the seeds of a single model) and among rows. Student's t with Satterthwaite's degrees of freedom
    widens it, because few seeds estimate a variance poorly. Both variances include the interaction of unit and row;
    this conservative choice compensates for choosing the attack on a finite selection split.

    Args:
        values: Contributions, shape ``(models, seeds, rows)``.
        level: Confidence level.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Returns:
        Lower and upper end.
    """
    models, seeds, rows = values.shape
    size = -(-rows // MOST_UNITS)
    units = rows // size  # the remaining rows affect only centre and scale, not the shape
    flat = values[..., : units * size].reshape(models * seeds, units, size).mean(axis=2)
    parts = [(part * (of_rows @ flat.T)).sum(axis=1) for part, of_rows in _drawn(models, seeds, units, draws, seed)]
    means = np.concatenate(parts)
    variance, freedom = _variance(values)
    centre = float(values.mean())
    if variance == 0:
        return centre, centre
    tail = (1 - level) / 2
    factor = math.sqrt(variance) / means.std() * student.ppf(1 - tail, freedom) / norm.ppf(1 - tail)
    low, high = np.quantile(means, [tail, 1 - tail]) - means.mean()
    return float(centre + factor * low), float(centre + factor * high)


@functools.lru_cache(maxsize=3)  # all comparisons of a report share the draws
def _drawn(models: int, seeds: int, rows: int, draws: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw bootstrap weights of units and of rows, in chunks."""
    generator = np.random.default_rng(seed)

    def drawn(count: int, *shape: int) -> np.ndarray:
        return generator.multinomial(count, np.full(count, 1 / count), size=shape) / count

    weights = (drawn(models, draws)[..., None] * drawn(seeds, draws, models)).reshape(draws, -1)
    return [(part, drawn(rows, len(part))) for part in np.array_split(weights, 20)]


def _variance(values: np.ndarray) -> tuple[float, float]:
    """Variance of the mean over units (models, or seeds of a single model) crossed with rows; degrees of freedom."""
    units = values.mean(axis=1) if len(values) > 1 else values[0]
    count, rows = units.shape
    of_unit, of_row = units.mean(axis=1), units.mean(axis=0)
    among_units = np.var(of_unit, ddof=1) / count if count > 1 else 0.0
    among_rows = np.var(of_row, ddof=1) / rows if rows > 1 else 0.0
    parts = [(v, n - 1) for v, n in ((among_units, count), (among_rows, rows)) if v > 0]
    total = sum(v for v, _ in parts)
    return total, (total**2 / sum(v**2 / n for v, n in parts) if parts else math.inf)


def _by_seed(report: Record, task: str, examples: int, role: str, metric: str) -> tuple[str, dict[int, np.ndarray]]:
    """Return the strongest attack and, by seed, the contribution of each test row."""
    found = report.strongest_runs(task, examples, role)
    # `null` has its own seeds, which are paired with those of scratch in order.
    first = min((run.seed for run in found), default=0) if role == "null" else 0
    kept = [run for run in found if run.predictions]
    rows = {r.seed - first: _contributed(report.tasks[task], r.predictions, metric) for r in kept}
    return (found[0].attack if found else ""), {seed: row for seed, row in rows.items() if row is not None}


def _contributed(facts: TaskFacts, text: str, metric: str) -> np.ndarray | None:
    """What each test row contributes, from what is on record of it; ``None`` where the task has no such metric."""
    if not facts.has_tokens:
        return contributions(unpacked_labels(facts.labels), unpacked(text, facts.num_labels), metric)
    if metric not in ("accuracy", "loss"):
        return None
    rows = token_contributions(unpacked_tokens(text))
    return rows if metric == "accuracy" else -rows
