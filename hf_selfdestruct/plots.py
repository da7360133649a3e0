"""Plots of a report, as PNG files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .report import AttackReport

COLOURS = {"base": "#7f7f7f", "undefended": "#d55e00", "hardened": "#0072b2", "scratch": "#009e73"}
MARKERS = {"base": "^", "undefended": "s", "hardened": "o", "scratch": "D"}


def save_plots(report: AttackReport, folder: str | Path) -> list[Path]:
    """Draw every plot of a report.

    Args:
        report: The report.
        folder: Where the PNG files go; made if missing.

    Returns:
        Paths of the files, one per blocked task.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for task in report.tasks:
        path = folder / f"score_against_examples_{task}.png"
        FigureCanvasAgg(_score_against_examples(report, task)).print_png(path)
        paths.append(path)
    return paths


def _score_against_examples(report: AttackReport, task: str) -> Figure:
    """Test accuracy of the strongest attack against the examples it had, one line per model, with spread."""
    figure = Figure(figsize=(7.5, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    budgets = report.budgets(task)
    for role in report.roles():
        found = [s for n in budgets if (s := report.strongest(task, n, role))]
        x = [s.examples for s in found]
        low = [s.mean - (s.deviation if s.seeds > 1 else 0.0) for s in found]
        high = [s.mean + (s.deviation if s.seeds > 1 else 0.0) for s in found]
        axes.fill_between(x, low, high, color=COLOURS[role], alpha=0.15, linewidth=0)
        width = 2.4 if role == "hardened" else 1.6
        axes.plot(x, [s.mean for s in found], marker=MARKERS[role], color=COLOURS[role], lw=width, label=role)
    majority = report.tasks[task]["majority"]
    axes.axhline(majority, color="#444444", ls=":", lw=1.2, label="commonest label")
    axes.set_xscale("log")
    axes.set_xticks(budgets, [str(n) for n in budgets])
    axes.minorticks_off()
    axes.set_xlabel("blocked examples the attacker has")
    axes.set_ylabel("test accuracy, strongest attack")
    axes.set_title(f"Fine-tuning to the blocked task “{task}”", loc="left", fontsize=11)
    axes.grid(axis="y", color="#dddddd", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    return figure
