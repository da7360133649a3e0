"""Plots of a report, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .attack_run import NOT_MEASURED
from .readings import scores_of
from .record import Record
from .recovery import looks, recovery, reference

COLOURS = {
    "base": "#7f7f7f",
    "undefended": "#d55e00",
    "hardened": "#0072b2",
    "filtered": "#cc79a7",
    "scratch": "#009e73",
}
MARKERS = {"base": "^", "undefended": "s", "hardened": "o", "filtered": "v", "scratch": "D"}
INK, GRID = "#444444", "#dddddd"
STEPS = (0, *(digit * 10**power for power in range(1, 7) for digit in (1, 2, 5)))
LONGEST = 34  # characters of an attack's name
LABEL_WIDTH = 0.06  # of a number below an axis, as a share of the axis


def save_plots(report: Record, folder: str | Path) -> list[Path]:
    """Draw every plot of a report.

    Args:
        report: The report.
        folder: Folder of the PNG files; created if missing.

    Returns:
        Paths of the files, four per blocked task.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for task in report.blocked():
        for draw in (score_against_examples, cost_to_recover, attacks_and_models, expected_best):
            path = folder / f"{draw.__name__}_{task}.png"
            FigureCanvasAgg(draw(report, task)).print_png(path)
            paths.append(path)
    return paths


def score_against_examples(report: Record, task: str) -> Figure:
    """Test score of the strongest attack against the examples it had, one line per model, with spread."""
    figure, axes = _figure(f"Strongest attack on the blocked task “{task}”", scores_of(report, task))
    budgets = report.budgets(task)
    for role in report.roles():
        found = [s for n in budgets if (s := report.strongest(task, n, role))]
        if not found:
            continue
        x = [s.examples for s in found]
        low = [s.mean - (s.deviation if s.seeds > 1 else 0.0) for s in found]
        high = [s.mean + (s.deviation if s.seeds > 1 else 0.0) for s in found]
        axes.fill_between(x, low, high, color=COLOURS[role], alpha=0.15, linewidth=0)
        axes.plot(x, [s.mean for s in found], marker=MARKERS[role], label=role, **_line(role))
    for role, style, words in (("raw", "--", "raw input, no model"), ("more", "-.", "scratch, more data")):
        beside = sorted((s.examples, s.mean) for s in report.summaries(task) if s.role == role)
        if len(beside) > 1:
            axes.plot(*zip(*beside, strict=True), color=INK, ls=style, lw=1.2, label=words)
        elif beside:
            axes.axhline(beside[0][1], color=INK, ls=style, lw=1.2, label=words)
    axes.set_xscale("log")
    axes.set_xticks(budgets, _apart(budgets))
    axes.minorticks_off()
    axes.set_xlabel("blocked examples")
    _close(axes, report, task, empty=not axes.lines)
    return figure


def _apart(budgets: Sequence[int]) -> list[str]:
    """Labels on a logarithmic axis; one that would run into the next is left out."""
    if len(budgets) < 2:
        return [str(n) for n in budgets]
    places = np.log(budgets) / np.log(budgets[-1] / budgets[0])
    kept = [*(np.diff(places) > LABEL_WIDTH), True]
    return [str(n) if keep else "" for n, keep in zip(budgets, kept, strict=True)]


def cost_to_recover(report: Record, task: str) -> Figure:
    """Best score against optimizer steps, by the chosen settings of all attacks with all examples."""
    score = report.tasks[task].score
    value = f"best selection {score} so far,\nmean over seeds, corrected for selection bias"
    figure, axes = _figure(f"Best attack {score} by optimizer steps: “{task}”", value)
    examples = report.searched(task)
    points = {
        role: sorted((step, reached) for reached, step, _ in looks(report, task, examples, role))
        for role in report.roles()
    }
    most = max((step for found in points.values() for step, _ in found), default=0)
    end = max(10.0, 1.2 * most)  # beyond the last evaluation, so that a gain there is visible
    for role in [role for role in points if points[role]]:
        steps, reached = zip(*points[role], strict=True)
        best = np.maximum.accumulate(reached)
        axes.step([*steps, end], [*best, best[-1]], where="post", label=role, **_line(role))
    found = recovery(report, task, "hardened") if "hardened" in report.models else None
    if found:
        axes.axhline(found.level, color=INK, ls="--", lw=1.2, label=f"90 % of {reference(report)} recovered")
    axes.set_xscale("symlog", linthresh=10)
    ticks = [step for step in STEPS if step <= end]
    axes.set_xticks(ticks, [str(step) for step in ticks])
    axes.minorticks_off()
    axes.set_xlim(-0.5, end)
    axes.set_xlabel(f"optimizer steps (0: a probe), with {examples} examples")
    _close(axes, report, task, empty=not any(points.values()))
    return figure


def attacks_and_models(report: Record, task: str) -> Figure:
    """Heat map: mean test score of every attack on every model, with all its examples."""
    summaries = {(s.attack, s.examples, s.role): s.mean for s in report.summaries(task) if s.role in report.roles()}
    most: dict[str, int] = {}
    for attack, examples, _ in summaries:
        most[attack] = max(examples, most.get(attack, 0))
    attacks, roles = sorted(most), report.roles()
    values = np.array([[summaries.get((a, most[a], role), np.nan) for role in roles] for a in attacks])
    height = 1.6 + 0.36 * max(1, len(attacks))
    figure = Figure(figsize=(7.5, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    chance = report.tasks[task].majority
    if values.size:
        top = max(float(np.nanmax(values)), chance + 0.05)
        axes.imshow(values, cmap="YlOrBr", aspect="auto", vmin=min(chance, float(np.nanmin(values))), vmax=top)
        for (row, column), value in np.ndenumerate(values):
            light = value > chance + 0.7 * (top - chance)
            text = "–" if np.isnan(value) else f"{value:.3f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if light else "#111111")
    else:
        _say_empty(axes)
    labels = [f"{_short(a)} ({most[a]}{', outside' if report.outside(a) else ''})" for a in attacks]
    axes.set_xticks(range(len(roles)) if attacks else (), roles if attacks else ())
    # A name may contain a dollar sign; it is not a formula.
    axes.set_yticks(range(len(attacks)), labels, fontsize=9, parse_math=False)
    scored = f"{scores_of(report, task)} on “{task}”, by attack (examples)"
    axes.set_title(f"{scored[0].upper()}{scored[1:]}", loc="left", fontsize=11)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def expected_best(report: Record, task: str) -> Figure:
    """Selection score that the best of so many settings has on average, drawn at random from all, whatever attack's.

    With all examples, at the first seed; a pruned setting counts with its accuracy in its short run.
    """
    figure, axes = _figure(
        f"Does a longer search help? “{task}”", f"expected best selection {report.tasks[task].score}"
    )
    examples = report.searched(task)
    runs = [run for role in report.roles() for run in report.runs_of(task, examples, role)]
    first = min((run.seed for run in runs), default=0)
    inside = [run for run in runs if run.seed == first and not report.outside(run.attack)]
    tried = {role: [r.selection.value for r in inside if r.role == role and r.selection] for role in report.roles()}
    for role in [role for role in tried if tried[role]]:
        best = best_of(tried[role])
        axes.plot(range(1, len(best) + 1), best, marker=".", label=role, **_line(role))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, 1 + max(map(len, tried.values()), default=0))
    axes.set_xlabel(f"number of random settings (without failed runs), with {examples} examples")
    _close(axes, report, task, empty=not any(tried.values()))
    return figure


def best_of(values: Sequence[float]) -> np.ndarray:
    """Expected maximum of 1, 2, ... values drawn without replacement, independent of the order of the search.

    Example:
        >>> best_of([0.0, 1.0])
        array([0.5, 1. ])
    """
    count, ranked = len(values), np.sort(values)
    ranks, below, expected = np.arange(1, count + 1), np.ones(count), np.empty(count)
    for drawn in range(count):  # below: probability that no drawn value ranks higher, C(rank, k) / C(count, k)
        below *= np.maximum(ranks - drawn, 0) / (count - drawn)
        expected[drawn] = np.diff(below, prepend=0.0) @ ranked
    return expected


def _figure(title: str, value: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel(value)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _line(role: str) -> dict[str, Any]:
    return {"color": COLOURS[role], "lw": 2.4 if role == "hardened" else 1.6}


def _close(axes: Axes, report: Record, task: str, *, empty: bool) -> None:
    """The line of the best constant answer, and a legend below the plot, where it covers nothing."""
    facts = report.tasks[task]
    axes.axhline(facts.majority, color=INK, ls=":", lw=1.2, label=facts.constant)
    if empty:
        _say_empty(axes)
    legend_below(axes, 3)


def legend_below(axes: Axes, columns: int) -> None:
    """Put the legend of a plot below it, in place of the one that is there.

    Args:
        axes: The plot.
        columns: Columns of the legend.
    """
    for earlier in axes.figure.legends:
        earlier.remove()
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=columns, fontsize=9)


def _say_empty(axes: Axes) -> None:
    axes.text(0.5, 0.8, NOT_MEASURED, transform=axes.transAxes, ha="center", color=INK)


def _short(name: str) -> str:
    """Shorten a name to one line."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
