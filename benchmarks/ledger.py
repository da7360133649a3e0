"""The ledger of a study: a line for each model and seed, which are not measured again, and a page made from it."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Line = dict[str, Any]


def fill(
    study: str,
    planned: Iterable[tuple[str, int]],
    measured: Callable[[str, int], Line],
    page: Callable[[Sequence[Line]], str],
) -> None:
    """Measure what a study's ledger does not have yet, and write its page after each line.

    Args:
        study: Its name, of the ledger ``STUDY.jsonl`` and of the page ``STUDY.md``; several processes may fill one
            ledger, each with other variants.
        planned: Variants and their seeds, the most important first.
        measured: What a variant and a seed give.
        page: The page's text, from all lines.
    """
    for variant, seed in planned:
        if (variant, seed) in {(line["variant"], one) for line in lines(study) for one in seeds(line)}:
            continue
        found = measured(variant, seed)
        with (HERE / f"{study}.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        (HERE / f"{study}.md").write_text(page(lines(study)), encoding="utf-8")


def lines(study: str) -> list[Line]:
    """The lines of a study's ledger; none where it was never begun."""
    ledger = HERE / f"{study}.jsonl"
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []


def seeds(line: Line) -> list[int]:
    """The seeds of a line."""
    return line["seeds"] if "seeds" in line else [line["seed"]]
