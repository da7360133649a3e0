"""The table of what was measured of candidate tasks."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORTH = 0.15
CORPUS = Path(__file__).parents[1] / "lab" / "worth_corpus.json"
COLUMNS = "| n | raw | scratch | base | base minus raw or scratch | raw with unlabelled texts |"


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
        parts.append(f"\n{COLUMNS}\n|{'---|' * 6}\n")
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
    known = json.loads(CORPUS.read_text(encoding="utf-8")) if CORPUS.is_file() else {}
    more = known.get(line["task"], {}).get(str(line["rows"]))
    cells += [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", f"{statistics.fmean(more):.3f}" if more else ""]
    return f"| {line['rows']} | {' | '.join(cells)} |\n"


INTRODUCTION = """
Test accuracy, mean of three draws of n training rows; attacks and their settings are chosen on 200 selection rows.
Raw: words, letters and, for pairs, how the texts overlap. Base and scratch (one random model): probes of frozen
features; scratch is measured where base is .15 above raw at some n. The interval draws seeds and test rows anew, around
attacks as they were chosen; of raw and scratch it takes the one that selection prefers. The last column is of an
attacker who also has thousands of unlabelled texts of the source (latent semantic analysis, `worth/corpus.py`): for it
the weights add less. Made by `worth/measure.py`.
"""
