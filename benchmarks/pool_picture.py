"""Draw what the study found on real digits: ``python benchmarks/pool_picture.py`` writes ``pool.png``."""

import json
import statistics
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pool_report import Found, gathered

HERE = Path(__file__).parent
SHOWN = {  # from above
    "base": "nothing: the base",
    "undefended": "nothing, trained as long: undefended",
    "reset, K = 0": "no adversary's steps",
    "reset, K = 4": "adversaries that start anew",
    "relearned from random weights": "forgetting",
    "pool of 8": "adversaries that continue",
    "pool of 8, rates 1e-3 to 1e-2": "adversaries that continue, faster",
}
STYLES = {"100": ("o", "#0072b2"), "400": ("s", "#d55e00")}


def picture(found: Found) -> Figure:
    """Blocked accuracy after fine-tuning: a row per model, a dot per number of examples, scratch as vertical lines."""
    figure = Figure(figsize=(8.5, 3.8), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    names = [name for name in SHOWN if f"digits: {name}" in found]
    for place, (examples, (marker, colour)) in enumerate(STYLES.items()):
        scores = [found[f"digits: {name}"]["blocked"][examples] for name in names]
        heights = [-row + 0.12 - 0.24 * place for row in range(len(names))]
        means, spreads = [statistics.fmean(one) for one in scores], [statistics.stdev(one) for one in scores]
        style = {"fmt": marker, "color": colour, "capsize": 3, "label": f"{examples} examples"}
        axes.errorbar(means, heights, xerr=spreads, **style)
        scratch = statistics.fmean(found["digits: scratch"]["blocked"][examples])
        axes.axvline(scratch, color=colour, ls="--", lw=1, label=f"scratch, {examples}")
    axes.set_yticks([-row for row in range(len(names))], [SHOWN[name] for name in names])
    axes.set_xlabel("← better     accuracy on the blocked task after fine-tuning")
    axes.set_ylabel("hardened against")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def main() -> None:
    """Draw the ledger."""
    lines = map(json.loads, (HERE / "pool.jsonl").read_text().splitlines())
    FigureCanvasAgg(picture(gathered(lines))).print_png(HERE / "pool.png")


if __name__ == "__main__":
    main()
