"""The attack report: frozen evidence, JSON in and out, a table. It knows no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .files import write_whole
from .schema import checked, parse_json

SCHEMA_VERSION = 1
ROLES = ("base", "undefended", "hardened", "scratch")
NOT_MEASURED = "not measured"
MOST_BYTES = 64 * 1024 * 1024
# Types of what stands in the free-form objects, where it does.
SUITE = {"name": str, "version": int, "seeds": int, "limit": int | None}
TASK = {"majority": float, "num_labels": int, "rows": dict[str, int], "fingerprints": dict[str, dict[str, Any]]}
FINGERPRINT = {"rows": int, "sha256": str}


@dataclass(frozen=True)
class Scores:
    """Quality on one split: ``accuracy`` and macro ``auc`` (one class against the rest), both in [0, 1]."""

    accuracy: float
    auc: float


@dataclass(frozen=True)
class AttackRun:
    """One attack run on one model, chosen or not.

    Attributes:
        task: Blocked task.
        attack: The attack's name in the field.
        role: ``hardened``, ``undefended``, ``base`` or ``scratch``.
        examples: Blocked training examples the attacker had.
        seed: Seed of subset, head and data order.
        settings: Hyper-parameters.
        chosen: Whether the selection split chose these settings for this attack, model and ``examples``.
        status: ``ok``, or ``failed`` for a run that crashed or diverged (never counted as resisted).
        selection: Scores on the split the attacker selects on; ``None`` when failed.
        test: Scores on the test split; ``None`` when failed.
        steps: Optimizer steps (0 for a closed-form or convex fit).
        seconds: Wall time.
        error: What went wrong, when failed.
    """

    task: str
    attack: str
    role: str
    examples: int
    seed: int
    settings: dict[str, Any]
    chosen: bool
    status: str
    selection: Scores | None
    test: Scores | None
    steps: int
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Summary:
    """Test accuracy and AUC of one attack on one model over seeds: mean, standard deviation, worst (highest)."""

    attack: str
    role: str
    examples: int
    seeds: int
    mean: float
    deviation: float
    worst: float
    auc: float
    selection: float


@dataclass(frozen=True)
class AttackReport:
    """Everything an attack suite found, and what it was run on.

    Attributes:
        suite: Name and version of the suite, its seeds.
        tasks: Blocked task name (letters, digits, ``_`` and ``-``) to ``num_labels``, ``majority`` (rate of the
            commonest test label), ``rows`` and ``fingerprints`` of its splits.
        models: Role to ``{"name", "sha256"}`` of the model attacked.
        runs: Every run.
        desired: Role to desired-task metrics, and ``"dataset"``: where they were measured.
        recipe: How the model was hardened; empty when it is not known.
        checks: Doubts the suite raised about its own result.
        versions: Package versions.
        schema_version: Version of this format.

    Example:
        ```python
        report = AttackReport.load("hardened/selfdestruct/report.json")
        text = report.table()
        ```
    """

    suite: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    models: dict[str, dict[str, str]]
    runs: tuple[AttackRun, ...]
    desired: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in self.tasks:  # names become files' names
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"tasks: {name!r} is no name of letters, digits, '_' and '-'.")

    def roles(self) -> list[str]:
        """Roles that were attacked, in the order of the tables."""
        return [role for role in ROLES if role in self.models]

    def budgets(self, task: str) -> list[int]:
        """Numbers of examples at which a task was attacked, ascending."""
        return sorted({run.examples for run in self.runs if run.task == task})

    def summaries(self, task: str) -> list[Summary]:
        """One summary per attack, examples and role, over the seeds of the chosen settings."""
        groups: dict[tuple[str, int, str], list[AttackRun]] = {}
        for run in self.runs:
            if run.task == task and run.chosen and run.status == "ok":
                groups.setdefault((run.attack, run.examples, run.role), []).append(run)
        return [_summarise(runs) for runs in groups.values()]

    def strongest(self, task: str, examples: int, role: str) -> Summary | None:
        """The attack that the selection split holds strongest; what it reaches on test is the result."""
        found = [s for s in self.summaries(task) if (s.examples, s.role) == (examples, role)]
        return max(found, key=lambda s: s.selection, default=None)

    def table(self, *, width: int = 110) -> str:
        """The result as text: strongest attack first, then every attack, then desired quality and doubts."""
        console = Console(
            file=StringIO(), width=width, force_terminal=False, highlight=False, markup=False, emoji=False
        )
        for task in self.tasks:
            console.print(self._task_table(task))
        console.print(self._desired_line())
        for doubt in self.checks:
            console.print(f"check: {doubt}")
        # Names and doubts may be a stranger's: what steers a terminal is left out.
        return "".join(c for c in console.file.getvalue() if c == "\n" or c.isprintable())  # type: ignore[attr-defined]

    def _task_table(self, task: str) -> Table:
        facts = self.tasks[task]
        fewest = min((s.seeds for s in self.summaries(task)), default=0)
        table = Table(
            title=f"Blocked task {task!r}: test accuracy after attack (suite {self.suite['name']} "
            f"v{self.suite['version']}; lower is better blocked)",
            caption=f"mean ± standard deviation over {fewest} seeds or more; commonest label {facts['majority']:.3f}",
        )
        table.add_column("attack")
        for name in ("examples", *self.roles()):
            table.add_column(name, justify="right")
        for examples in self.budgets(task):
            cells = [cell(self.strongest(task, examples, role)) for role in self.roles()]
            table.add_row("strongest", str(examples), *cells, style="bold")
        table.add_section()
        summaries = {(s.attack, s.examples, s.role): s for s in self.summaries(task)}
        for attack, examples in sorted({(s[0], s[1]) for s in summaries}):
            cells = [cell(summaries.get((attack, examples, role))) for role in self.roles()]
            table.add_row(attack, str(examples), *cells)
        return table

    def _desired_line(self) -> str:
        shown = [
            f"{role} " + ", ".join(f"{k} {v:.4f}" for k, v in self.desired[role].items())
            for role in self.roles()
            if role in self.desired
        ]
        where = f" on {self.desired['dataset']}" if "dataset" in self.desired else ""
        return f"desired task{where}: " + ("; ".join(shown) or NOT_MEASURED)

    def to_json(self) -> str:
        """The report as JSON, keys sorted, so that equal reports are equal texts."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the JSON; a reader never sees half a file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.to_json())

    @classmethod
    def from_json(cls, text: str) -> AttackReport:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: Not a report, or one of another schema version; the message names the field.
        """
        try:
            raw = parse_json(text)
        except ValueError as error:
            raise ValueError(f"not a report: {error}") from None
        return _report_from(raw)

    @classmethod
    def load(cls, path: str | Path) -> AttackReport:
        """Read a report file.

        Raises:
            ValueError: The file is missing, too large or not a report.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no report at {path}.")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} has {path.stat().st_size} bytes; a report has at most {MOST_BYTES}.")
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _summarise(runs: list[AttackRun]) -> Summary:
    tests = [run.test.accuracy for run in runs if run.test]
    first = runs[0]
    return Summary(
        attack=first.attack,
        role=first.role,
        examples=first.examples,
        seeds=len(runs),
        mean=statistics.fmean(tests),
        deviation=statistics.stdev(tests) if len(tests) > 1 else math.nan,
        worst=max(tests),
        auc=statistics.fmean(run.test.auc for run in runs if run.test),
        selection=statistics.fmean(run.selection.accuracy for run in runs if run.selection),
    )


def cell(summary: Summary | None) -> str:
    """A summary in a table: mean and standard deviation, the latter where there are several seeds."""
    if summary is None:
        return NOT_MEASURED
    spread = "" if math.isnan(summary.deviation) else f" ± {summary.deviation:.3f}"
    return f"{summary.mean:.3f}{spread}"


def _report_from(raw: Any) -> AttackReport:
    # The version first: what another version holds is no mistake of its writer.
    if isinstance(raw, dict) and (version := raw.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
        raise ValueError(f"report has schema_version {version!r}; this version reads {SCHEMA_VERSION}.")
    report: AttackReport = checked(AttackReport, raw, "report")
    _check_facts(report.suite, SUITE, "report.suite", required=("name", "version"))
    for name, facts in report.tasks.items():
        _check_task(facts, f"report.tasks[{name!r}]")
    for role, metrics in report.desired.items():
        checked(str if role == "dataset" else dict[str, float], metrics, f"report.desired[{role!r}]")
    for i, run in enumerate(report.runs):
        _check_run(run, f"report.runs[{i}]")
    if unknown := {run.task for run in report.runs} - report.tasks.keys():
        raise ValueError(f"report: runs of tasks that it does not list: {', '.join(sorted(unknown))}.")
    return report


def _check_facts(facts: dict[str, Any], kinds: dict[str, Any], where: str, required: tuple[str, ...] = ()) -> None:
    for name, kind in kinds.items():
        if name in facts:
            checked(kind, facts[name], f"{where}.{name}")
        elif name in required:
            raise ValueError(f"{where} has no {name!r}.")


def _check_task(facts: dict[str, Any], where: str) -> None:
    _check_facts(facts, TASK, where, required=("majority",))
    for split, found in facts.get("fingerprints", {}).items():
        _check_facts(found, FINGERPRINT, f"{where}.fingerprints[{split!r}]")
    if not 0 <= facts["majority"] <= 1:
        raise ValueError(f"{where}.majority must lie in [0, 1], got {facts['majority']}.")


def _check_run(run: AttackRun, where: str) -> None:
    if run.status not in ("ok", "failed"):
        raise ValueError(f"{where}: status must be 'ok' or 'failed', got {run.status!r}.")
    if run.role not in ROLES:
        raise ValueError(f"{where}: role must be one of {', '.join(ROLES)}, got {run.role!r}.")
    if run.examples < 1 or min(run.seed, run.steps, run.seconds) < 0:
        raise ValueError(f"{where}: examples must be at least 1; seed, steps and seconds at least 0.")
    for split, scores in (("selection", run.selection), ("test", run.test)):
        if (scores is None) == (run.status == "ok"):
            raise ValueError(f"{where}: a run that is {run.status!r} cannot have {split} {scores!r}.")
        if scores and not all(0 <= score <= 1 for score in dataclasses.astuple(scores)):
            raise ValueError(f"{where}.{split}: scores must lie in [0, 1], got {scores}.")
