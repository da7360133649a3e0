"""Table and plot of what ``meta_gradient.py`` measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outer_steps import Job

Record = dict[str, Any]
METHODS = {
    "exact_fd": "exact, finite differences",
    "exact_fd_recompute": "exact, finite differences, recompute",
    "exact_fd_logarithmic": "exact, finite differences, logarithmic",
    "exact_db": "exact, double backward",
    "exact_db_recompute": "exact, double backward, recompute",
    "first_order": "first order",
    "unrolled": "unrolled",
    "higher": "higher 0.2.1",
    "torchopt": "torchopt 0.7.3",
}
FUSED = ("exact_fd", "exact_fd_recompute", "exact_fd_logarithmic", "first_order")
GOALS: dict[str, Callable[[int], float]] = {  # seconds in u
    "exact_fd": lambda steps: 1.25 * (4 * steps + 1),
    "exact_db": lambda steps: 1.25 * (5 * steps + 1),
    "first_order": lambda steps: 1.2 * (2 * steps + 1),
}
COMMANDS = """    python benchmarks/meta_gradient.py --inner-steps 4 --repeats 5
    python benchmarks/meta_gradient.py --inner-steps {steps} --repeats {repeats}
    python benchmarks/meta_gradient.py --table --plot"""
INTRO = """# One outer step, by every way to its meta-gradient

all-MiniLM-L6-v2 with {parameters:.1f} million weights, all of them moving; batches of 16 rows of 64 tokens drawn by
Zipf's law; Adam with rate 1e-4 and epsilon 1e-6; the mean of `UniformKL` over theta_0 .. theta_K; float32; dropout off.
Every measurement is a process of its own, methods take turns; medians, with least and most in brackets. Seconds are of
the second of two outer steps; memory is the peak of both, resident, above what the process held before them.

{machine}; torch {torch}, {threads} threads.

{unit}

"u" is that forward and backward with the attention a method runs with: fused for finite differences and first order,
eager for the others. A dash stands where there is no goal or no measurement.

Peers run with eager attention and whole embeddings, as they come, but for two things without which the problem would
be another: `higher` is handed epsilon times the root of its bias correction at each step, because its Adam adds epsilon
before that correction; `torchopt` gets `eps_root=1e-30`, because with 0 the gradient is not a number.
"""


def read(ledger: Path) -> list[Record]:
    """Every measurement so far."""
    if not ledger.exists():
        return []
    return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]


def is_of(record: Record, job: Job) -> bool:
    """Whether a record is the result of a job."""
    return all(record[name] == value for name, value in vars(job).items())


def values(field: str, method: str, steps: int, records: list[Record]) -> list[float]:
    """Measured seconds (``seconds``) or megabytes (``peak_mb``) of a method."""
    fit = [r for r in records if r["method"] == method and r["inner_steps"] == steps and not r["error"]]
    return sorted(r[field] for r in fit)


def median(field: str, method: str, steps: int, records: list[Record]) -> float | None:
    """The middle of :func:`values`."""
    found = values(field, method, steps, records)
    return statistics.median(found) if found else None


def expected(field: str, method: str, steps: int, records: list[Record]) -> float:
    """A value at K inner steps from those at fewer, by a straight line through the two largest; 0 if unknown."""
    smaller = sorted({r["inner_steps"] for r in records if r["method"] == method and not r["error"]})
    known = [(k, median(field, method, k, records) or 0.0) for k in smaller if k < steps]
    if not known:
        return 0.0
    (k, high), (j, low) = known[-1], known[-2] if len(known) > 1 else (0, 0.0)
    return high + (high - low) / (k - j) * (steps - k)


def unit(method: str, records: list[Record]) -> float | None:
    """Seconds of a plain forward and backward with the attention a method runs with."""
    return median("seconds", "unit_fused" if method in FUSED else "unit_eager", 0, records)


def error(method: str, dtype: str, epsilon: float, steps: int, records: list[Record]) -> Record:
    """The comparison of a method with the reference; empty if there is none."""
    wanted = {"error": True, "method": method, "dtype": dtype, "epsilon": epsilon, "inner_steps": steps}
    return next((r for r in records if all(r[n] == v for n, v in wanted.items())), {})


def summary(records: list[Record]) -> list[Record]:
    """One row per method and K."""
    pairs = {(r["inner_steps"], r["method"]) for r in records if r["method"] in METHODS and not r["error"]}
    order = list(METHODS)
    found = []
    for steps, method in sorted(pairs, key=lambda pair: (pair[0], order.index(pair[1]))):
        seconds, peaks = values("seconds", method, steps, records), values("peak_mb", method, steps, records)
        row = {"inner_steps": steps, "method": method, "repeats": len(seconds)}
        row |= {"seconds": statistics.median(seconds), "least": seconds[0], "most": seconds[-1]}
        row["peak_mb"] = statistics.median(peaks)
        base = unit(method, records)
        row["u"] = row["seconds"] / base if base else None
        row["goal_u"] = GOALS[method](steps) if method in GOALS else None
        for name, field in (("time_to_higher", "seconds"), ("memory_to_higher", "peak_mb")):
            peer = median(field, "higher", steps, records)
            row[name] = row[field] / peer if peer else None
        found.append(row)
    return found


def write_table(records: list[Record], output: Path) -> None:
    """Write the summary as JSON and as a page."""
    rows = summary(records)
    last = records[-1]
    facts = {name: last[name] for name in ("machine", "torch", "threads")}
    units = {
        n: median("seconds", n, 0, records) for n in ("unit_fused", "unit_eager", "trainer_fused", "trainer_eager")
    }
    output.write_text(json.dumps({**facts, **units, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    size = next((r["parameters"] for r in records if "parameters" in r), 0) / 1e6
    parts = [INTRO.format(unit=_units(units), parameters=size, **facts)]
    for steps in sorted({row["inner_steps"] for row in rows}):
        parts.append(f"## K = {steps}\n\n" + _times([row for row in rows if row["inner_steps"] == steps]))
        parts.append(_errors(steps, records))
    others = sorted({row["inner_steps"] for row in rows} - {4})
    most = max((row["repeats"] for row in rows if row["inner_steps"] != 4), default=1)
    parts.append("## How\n\n" + COMMANDS.format(steps=" ".join(map(str, others)), repeats=most))
    output.with_suffix(".md").write_text("\n\n".join(p.strip("\n") for p in parts if p) + "\n", encoding="utf-8")


def _units(units: dict[str, float | None]) -> str:
    lines = {}
    for attention in ("fused", "eager"):
        lines[attention] = [_text(units[f"{kind}_{attention}"], "{:.3f}") for kind in ("unit", "trainer")]
    body = [[f"{attention} attention", *cells] for attention, cells in lines.items()]
    return _table(["seconds, same batch", "forward and backward", "step of a plain `Trainer`, AdamW included"], body)


def _times(rows: list[Record]) -> str:
    head = ["method", "seconds", "in u", "goal in u", "peak MB", "time / higher", "memory / higher", "runs"]
    body = [
        [
            METHODS[row["method"]],
            f"{row['seconds']:.2f} ({row['least']:.2f}-{row['most']:.2f})",
            _text(row["u"], "{:.1f}"),
            _text(row["goal_u"], "{:.1f}"),
            f"{row['peak_mb']:.0f}",
            _text(row["time_to_higher"], "{:.2f}"),
            _text(row["memory_to_higher"], "{:.2f}"),
            str(row["repeats"]),
        ]
        for row in rows
    ]
    return _table(head, body)


def _errors(steps: int, records: list[Record]) -> str:
    """Distances from the reference, or nothing."""
    kinds = [("float64", 1e-6), ("float32", 1e-6), ("float64", 1e-4), ("float32", 1e-4)]
    found = {m: [error(m, dtype, epsilon, steps, records) for dtype, epsilon in kinds] for m in METHODS}
    if not any(any(row) for row in found.values()):
        return ""
    head = ["relative error (1 - cosine)", *[f"{dtype}, epsilon {epsilon:.0e}" for dtype, epsilon in kinds]]
    body = [
        [METHODS[m], *[f"{r['relative_error']:.1e} ({abs(1 - r['cosine']):.0e})" if r else "-" for r in row]]
        for m, row in found.items()
        if any(row)
    ]
    return "Of the gradient, against `unrolled` in float64:\n\n" + _table(head, body)


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def write_plot(records: list[Record], path: Path) -> None:
    """Draw time and memory against K; dashed where a method was left out and its line is drawn on."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    every = sorted({r["inner_steps"] for r in records if r["method"] in METHODS and not r["error"]})
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axis, field, label in zip(axes, ("seconds", "peak_mb"), ("time in u", "peak memory in MB"), strict=True):
        for number, (method, name) in enumerate(METHODS.items()):
            scale = (unit(method, records) or 1.0) if field == "seconds" else 1.0
            _line(axis, field, method, name, every, records, scale, f"C{number}")
        axis.set(xscale="log", yscale="log", xlabel="K inner steps", ylabel=label, xticks=every)
        axis.set_xticklabels([str(k) for k in every])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].plot([], [], "--", color="grey", label="extrapolated, not run (memory)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _line(
    axis: Any, field: str, method: str, name: str, every: list[int], records: list[Record], scale: float, color: str
) -> None:
    """One method's line."""
    points = {k: median(field, method, k, records) for k in every}
    known = {k: value / scale for k, value in points.items() if value is not None}
    if not known:
        return
    axis.plot(list(known), list(known.values()), "o-", color=color, label=name, markersize=3)
    last = max(known)
    beyond = {k: expected(field, method, k, records) / scale for k in every if k > last}
    if beyond and method in ("unrolled", "higher", "torchopt"):
        axis.plot([last, *beyond], [known[last], *beyond.values()], "--", color=color)
