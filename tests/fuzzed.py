"""What a stranger may hand in, changed at random: read or refused, never more. Tried, and written down.

python tests/fuzzed.py benchmarks/fuzz.md
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from made_reports import made_folder, made_report, made_run

from hf_selfdestruct.attacks.suites.ledger import BROKEN
from hf_selfdestruct.attacks.suites.ledger import _record_of as record_of
from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.endpoint import _scores as scores_of
from hf_selfdestruct.jobs.fingerprint import Fingerprint
from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.publish.manifest import MANIFEST, problems
from hf_selfdestruct.report.report import AttackReport

LONGEST = 5.0  # processor seconds that an input may take
LARGEST = 1024.0  # MB that the process may reach
INPUTS = {  # of each kind: the slower, the fewer
    "reports": 2_500,
    "texts as reports": 25_000,
    "manifests": 1_500,
    "configurations": 6_000,
    "fingerprints": 25_000,
    "answers of endpoints": 25_000,
    "records of ledgers": 20_000,
}
READ, REFUSED = "read", "refused"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
TEXTS = st.one_of(st.text(), JSON.map(json.dumps), st.binary().map(lambda content: content.decode("latin1")))
CONFIG = {
    "model": "m",
    "data": {"path": "p", "text_column": "t", "label_column": "l", "max_length": 8},
    "blocked_tasks": [{"name": "a", "label_column": "b"}],
    "training": {"max_steps": 2, "method": "mlac", "use_cpu": True},
    "card": {"title": "x", "gate": {"mode": "auto"}, "release": {"stages": ["one"]}},
}
FINGERPRINT = {
    "probes": ["one two", "three four"],
    "labels": ["no", "yes"],
    "probabilities": [[0.25, 0.75], [0.5, 0.5]],
    "sha256": "a" * 64,
    "threshold": 1e-4,
    "largest": 1e-6,
    "false_alarms": 0,
    "servings": 50,
}


def paths(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all values in parsed JSON."""
    yield place
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from paths(content[key], (*place, key))


def mutated(draw: Callable[[Any], Any], content: Any) -> Any:
    """Parsed JSON with another value in one place, or one place gone."""
    content = json.loads(json.dumps(content))
    *upper, last = draw(st.sampled_from([place for place in paths(content) if place]))
    held = content
    for key in upper:
        held = held[key]
    if draw(st.booleans()):
        held[last] = draw(JSON)
    else:
        del held[last]
    return content


def changed_text(draw: Callable[[Any], Any], content: Any) -> str:
    """JSON changed in one place, or its text cut or overwritten at one."""
    if draw(st.integers(0, 3)):
        return json.dumps(mutated(draw, content))
    text = json.dumps(content)
    start = draw(st.integers(0, len(text) - 1))
    return text[:start] + draw(st.text(max_size=8)) + text[start + draw(st.integers(0, 8)) :]


def a_report(draw: Callable[[Any], Any], home: Path) -> None:
    """A report is rendered, and reads back as it was written."""
    report = AttackReport.from_json(changed_text(draw, json.loads(made_report().to_json())))
    render(report, CardDetails())
    assert AttackReport.from_json(report.to_json()) == report


def any_text(draw: Callable[[Any], Any], home: Path) -> None:
    """Any text as a report."""
    AttackReport.from_json(draw(TEXTS))


def a_manifest(draw: Callable[[Any], Any], home: Path) -> None:
    """A manifest that verifies lists the files as they are."""
    folder = home / "hardened"
    if not folder.exists():
        made_folder(folder)
        (folder / MANIFEST).replace(home / "genuine.json")
    genuine = json.loads((home / "genuine.json").read_text())
    (folder / MANIFEST).write_text(changed_text(draw, genuine), errors="replace")
    if found := problems(folder):
        raise ValueError(found[0])
    assert json.loads((folder / MANIFEST).read_text())["files"] == genuine["files"]


def a_configuration(draw: Callable[[Any], Any], home: Path) -> None:
    """A configuration, as YAML."""
    path = home / "config.yaml"
    path.write_text(changed_text(draw, CONFIG), errors="replace")
    load_config(path)


def a_fingerprint(draw: Callable[[Any], Any], home: Path) -> None:
    """A fingerprint file."""
    path = home / "fingerprint.json"
    path.write_text(changed_text(draw, FINGERPRINT), errors="replace")
    Fingerprint.load(path)


def an_answer(draw: Callable[[Any], Any], home: Path) -> None:
    """An endpoint's answer to one text: probabilities, or one line."""
    usual = [[{"label": "no", "score": 0.25}, {"label": "yes", "score": 0.75}]]
    if draw(st.booleans()):
        content = changed_text(draw, draw(st.sampled_from([usual, usual[0]]))).encode(errors="replace")
    else:
        content = draw(st.binary(max_size=60))
    found = scores_of(content, "https://host")
    assert all(0 <= score <= 1 for score in found.values())


def a_ledger(draw: Callable[[Any], Any], home: Path) -> None:
    """A record in a ledger."""
    run = dataclasses.asdict(made_run())
    attributes = {"run": changed_text(draw, run), "hits": "gA==", "width": 1}
    if draw(st.booleans()):
        attributes = mutated(draw, {**attributes, "run": json.dumps(run)})
    try:
        record_of(attributes)
    except BROKEN as error:
        raise ValueError("damaged") from error


KINDS = {
    "reports": a_report,
    "texts as reports": any_text,
    "manifests": a_manifest,
    "configurations": a_configuration,
    "fingerprints": a_fingerprint,
    "answers of endpoints": an_answer,
    "records of ledgers": a_ledger,
}


def tried(kind: str, home: Path, inputs: int) -> tuple[Counter[str], float]:
    """So many inputs of a kind.

    Args:
        kind: A key of :data:`KINDS`.
        home: The only folder that may be written to.
        inputs: How many.

    Returns:
        How many were read and refused, and the seconds of the slowest.

    Raises:
        AssertionError: One took too long, or was read as something else than it is.
        Exception: Whatever else than a refusal in one line one of them raised.
    """
    found: Counter[str] = Counter()
    slowest = 0.0

    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
    )
    @hypothesis.given(st.data())
    def one(data: Any) -> None:
        nonlocal slowest
        started = time.process_time()
        try:
            KINDS[kind](data.draw, home)
            found[READ] += 1
        except (ValueError, TypeError, OSError):
            found[REFUSED] += 1
        slowest = max(slowest, time.process_time() - started)
        assert slowest < LONGEST, f"{kind}: an input took {slowest:.1f} s"

    one()
    return found, slowest


def table() -> str:
    """The table of everything that was tried."""
    lines = [
        "# Random changes",
        "",
        "Each input is a valid one with one value replaced or removed, or its text cut or overwritten (`hypothesis`). "
        "It must be read or refused in one line: a traceback of another kind, a write outside its folder, more than "
        f"{LONGEST:.0f} s of the processor or a process above {LARGEST:.0f} MB ends the script. "
        "Made by `python tests/fuzzed.py benchmarks/fuzz.md`.",
        "",
        "| what | inputs | read | refused | slowest, processor s | process at most, MB |",
        "|---|---|---|---|---|---|",
    ]
    total = 0
    for kind, inputs in INPUTS.items():
        with tempfile.TemporaryDirectory() as outer:
            home = Path(outer, "inner")
            home.mkdir()
            found, slowest = tried(kind, home, inputs)
            assert [*Path(outer).iterdir()] == [home], "written outside"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        assert peak < LARGEST, f"{kind}: {peak:.0f} MB"
        total += found.total()
        cells = (kind, f"{found.total():,}", f"{found[READ]:,}", f"{found[REFUSED]:,}", f"{slowest:.2f}", f"{peak:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{total:,} inputs in all.", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), encoding="utf-8")
