"""The table of what was measured of candidate tasks."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

WORTH = 0.15
COLUMNS = "| n | raw | scratch | base | base minus best of both |"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table: candidates whose weights add most come first."""
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        tasks.setdefault(line["task"], []).append(line)
    order = sorted(tasks, key=lambda name: -max(line["added"][0] for line in tasks[name]))
    parts = ["# Tasks by what the weights of all-MiniLM-L6-v2 add\n", INTRODUCTION]
    for name in order:
        worth = [str(line["rows"]) for line in tasks[name] if line["added"][0] >= WORTH]
        verdict = f"worth blocking at n = {', '.join(worth)}" if worth else "weights add less than .15"
        shape = tasks[name][0]
        parts.append(
            f"\n## {name}: {verdict}\n\n{shape['about']} {shape['classes']} classes, {shape['test']} test rows.\n"
        )
        parts.append(f"\n{COLUMNS}\n|{'---|' * 5}\n")
        parts += [_row(line) for line in sorted(tasks[name], key=lambda line: line["rows"])]
    return "".join(parts)


def _row(line: Mapping[str, Any]) -> str:
    cells = []
    for role in ("raw", "scratch", "base"):
        if role not in line:
            cells.append("")
            continue
        name = line["best"][role]
        cells.append(f"{statistics.fmean(line[role][name]):.3f} {name}")
    mean, low, high = line["added"]
    return f"| {line['rows']} | {' | '.join(cells)} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] |\n"


INTRODUCTION = """
Test accuracy, mean of three draws of n training rows; attacks and their settings are chosen on 200 selection rows.
Raw: words, letters and, for pairs, how the texts overlap. Base and scratch (one random model): probes of frozen
features; scratch is measured where base is .15 above raw at some n. The interval draws seeds and test rows anew, around
attacks as they were chosen. Made by `worth.py`.
"""
