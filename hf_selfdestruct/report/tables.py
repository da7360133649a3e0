"""Format reports as text: strongest attacks, every attack, costs, desired quality, doubts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from string import ascii_uppercase

from rich.console import Console, RenderableType
from rich.table import Table

from .attack_run import NOT_MEASURED, cell
from .comparison import Difference, difference
from .readings import reading_lines, scores_of
from .record import Record
from .recovery import recovery, reference, regret
from .references import reference_lines
from .weights_add import ADDED_COLUMNS, BLOCKED_IF, added_rows

DESIRED_DROP = 0.02
DESIRED_KEPT = f"{DESIRED_DROP} in accuracy"  # desired tasks are classifications
BESIDE = "AUC / balanced accuracy"  # see Summary.beside
DIFFERENCES = ("examples", "hardened − scratch", "the same, AUC", "undefended − hardened", "noise alone", "regret")
WITHOUT_PREDICTIONS = "the report holds no predictions of this kind of task: differences have no interval"


def report_table(report: Record, width: int) -> str:
    """Format a report as text."""
    parts: list[RenderableType] = []
    for task in report.tasks:
        parts.append(_task_table(report, task))
        if task in report.blocked() and {"hardened", "scratch"} <= report.models.keys():
            headline = _headline_table(report, task) if report.tasks[task].has_rows else WITHOUT_PREDICTIONS
            parts += [headline, *_added_tables(report, task), _cost_table(report, task)]
        elif report.tasks[task].control:
            parts.append(_control_table(report, task))
    parts += [_desired_line(report), *reading_lines(report)]
    parts += [f"doubt: {doubt}" for doubt in report.checks]
    return _text(parts, width)


def comparison_table(reports: Sequence[Record], names: Sequence[str], width: int = 130) -> str:
    """Compare reports side by side: the strongest attack on each hardened model, and doubts about comparability.

    Args:
        reports: Between 2 and 26 reports.
        names: Name of each report, such as its file name.
        width: Width of the text, in characters.

    Raises:
        ValueError: The reports have no blocked task in common, or are too many.
    """
    if len(reports) > len(ascii_uppercase):
        raise ValueError(f"at most {len(ascii_uppercase)} reports can be compared; got {len(reports)}.")
    scores = {task: scores_of(reports[0], task) for task in reports[0].blocked()}
    tasks = [t for t in scores if all(t in r.blocked() and scores_of(r, t) == scores[t] for r in reports)]
    if not tasks:
        raise ValueError("the reports have no blocked task in common; compare reports of the same blocked task.")
    parts: list[RenderableType] = []
    for task in tasks:
        table = Table(title=f"Blocked task {task!r}: strongest attack on each model, {scores[task]}")
        table.add_column("examples", justify="right")
        for letter in ascii_uppercase[: len(reports)]:
            table.add_column(letter, justify="right")
            table.add_column("− scratch", justify="right")
        for examples in sorted({n for r in reports for n in r.budgets(task)}):
            cells = [
                text
                for r in reports
                for text in (
                    cell(r.strongest(task, examples, "hardened")),
                    _shown(difference(r, task, examples) if examples in r.budgets(task) else None),
                )
            ]
            table.add_row(str(examples), *cells)
        parts.append(table)
    parts += [f"{letter}: {name}" for letter, name in zip(ascii_uppercase, names, strict=False)]
    suites = {(r.suite.name, r.suite.version) for r in reports}
    if len(suites) > 1:
        listed = ", ".join(f"{name} v{version}" for name, version in sorted(suites))
        parts.append(f"doubt: the suites differ ({listed}): the numbers are not comparable.")
    for task in tasks:
        if any(r.tasks[task].fingerprints != reports[0].tasks[task].fingerprints for r in reports):
            parts.append(f"doubt: {task}: the data differ: the numbers are not comparable.")
    return _text(parts, width)


def _task_table(report: Record, task: str) -> Table:
    facts = report.tasks[task]
    fewest = min(seeds(report, task), default=0)
    kind, wish = "Blocked task", "lower is better"
    if facts.control:
        kind, wish = "Control task", "higher is better"
    table = Table(
        title=f"{kind} {task!r}: {scores_of(report, task)} after attack (suite {report.suite.name} "
        f"v{report.suite.version}; {wish})",
        caption=f"mean ± standard deviation over attack seeds (at least {fewest}); "
        + "; ".join(reference_lines(report, task)),
    )
    table.add_column("attack")
    raw = ["raw"] * any(s.role == "raw" for s in report.summaries(task))
    for name in ("examples", *report.roles(), *raw):
        table.add_column("raw input" if name == "raw" else name, justify="right")
    summaries = {(s.attack, s.examples, s.role): s for s in report.summaries(task)}
    for examples in report.budgets(task):
        cells = [cell(report.strongest(task, examples, role)) for role in (*report.roles(), *raw)]
        table.add_row("strongest", str(examples), *cells, style="bold")
    table.add_section()
    for attack, examples in sorted({key[:2] for key, s in summaries.items() if s.role in report.roles()}):
        cells = [cell(summaries.get((attack, examples, role))) for role in report.roles()]
        mark = " (outside)" if report.outside(attack) else ""
        table.add_row(f"{attack}{mark}", str(examples), *cells)
    return table


def seeds(report: Record, task: str) -> list[int]:
    """Return the number of attack seeds of each mean of a task."""
    return [s.seeds for s in report.summaries(task) if s.role in report.roles()]


def desired_kept(report: Record) -> str:
    """How much desired quality the strongest attack that preserves the desired task may cost."""
    texts = any(report.tasks[task].has_tokens for task in report.blocked())
    return f"{DESIRED_DROP} nats per token" if texts else DESIRED_KEPT


def scored(report: Record) -> str:
    """By what the blocked tasks are scored, such as ``accuracy``."""
    return " or ".join(dict.fromkeys(report.tasks[task].score for task in report.blocked()))


def _headline_table(report: Record, task: str) -> Table:
    table = Table(
        title=f"Strongest attack against strongest attack: differences in {report.tasks[task].scored_on} scores, "
        "with 95 % intervals"
    )
    table.add_column("examples", justify="right")
    table.add_column("strongest on hardened")
    for name in DIFFERENCES[1:-1]:
        table.add_column(name, justify="right")
    for examples, (_, *row, _) in zip(report.budgets(task), difference_rows(report, task), strict=True):
        best = report.strongest(task, examples, "hardened")
        table.add_row(str(examples), best.attack if best else NOT_MEASURED, *row)
    return table


def _added_tables(report: Record, task: str) -> list[Table]:
    """What the weights add; no table where the report has no predictions to combine."""
    if not (rows := added_rows(report, task)):
        return []
    table = Table(
        title="What the weights add: best attack with them and all else, minus the best without weights",
        caption=f"without weights: raw input, scratch, both combined; {BLOCKED_IF}",
    )
    for name in ADDED_COLUMNS:
        table.add_column(name, justify="left" if name.startswith("best") else "right")
    for row in rows:
        table.add_row(*row)
    return [table]


def difference_rows(report: Record, task: str) -> list[list[str]]:
    """By examples, best attack against best attack: the cells under :data:`DIFFERENCES`."""
    rows, paid = [], regret(report, task)
    for examples in report.budgets(task):
        found = [
            difference(report, task, examples),
            difference(report, task, examples, metric="auc"),
            difference(report, task, examples, "undefended", "hardened"),
            difference(report, task, examples, "null", "scratch"),
            paid.get(examples),
        ]
        rows.append([str(examples), *map(_shown, found)])
    return rows


def cost_rows(report: Record, task: str) -> list[list[str]]:
    """Rows by model: the cost to recover, and the strongest attack that preserves the desired task."""
    budgets, rows = report.budgets(task), []
    for role in report.roles() if budgets else ():
        kept = report.strongest(task, budgets[-1], role, most_desired_drop=DESIRED_DROP)
        rows.append([role, *_cost(report, task, role), cell(kept)])
    return rows


def control_rows(report: Record, task: str) -> list[list[str]]:
    """Rows by model: accuracy of fine-tuning to a control task, difference from undefended, and cost."""
    budgets, rows = report.budgets(task), []
    for role in report.roles() if budgets else ():
        apart = None if role == "undefended" else difference(report, task, budgets[-1], role, "undefended")
        _, *cost = _cost(report, task, role)
        rows.append([role, cell(report.strongest(task, budgets[-1], role)), _shown(apart), *cost])
    return rows


def _cost(report: Record, task: str, role: str) -> list[str]:
    cost = recovery(report, task, role)
    return cost.cells() if cost else [NOT_MEASURED] * 3


def _cost_table(report: Record, task: str) -> Table:
    lost = f"≤ {DESIRED_DROP:.2f} desired lost"
    table = _by_model(
        f"Cost to recover 90 % of the {reference(report)} model's gain; "
        "strongest attack that preserves the desired task",
        ("examples", "steps", "FLOPs", lost),
        cost_rows(report, task),
    )
    if report.tasks[task].has_rows:
        paid = "; ".join(f"{n}: {value}" for n, value in regret(report, task).items())
        table.caption = f"data-efficiency regret (scratch loss − hardened loss, nats): {paid or NOT_MEASURED}"
    return table


def _control_table(report: Record, task: str) -> Table:
    return _by_model(
        f"Benign fine-tuning, and the cost to reach 90 % of the {reference(report)} model's gain",
        (report.tasks[task].score, "− undefended", "steps", "FLOPs"),
        control_rows(report, task),
    )


def _by_model(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title)
    table.add_column("model")
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _desired_line(report: Record) -> str:
    shown = [
        f"{role} " + ", ".join(f"{k} {v:.4f}" for k, v in report.desired.of(role).items())
        for role in report.roles()
        if role in report.desired.quality
    ]
    where = f" on {report.desired.dataset}" if report.desired.dataset else ""
    return f"desired task{where}: " + ("; ".join(shown) or NOT_MEASURED)


def _shown(found: Difference | None) -> str:
    return NOT_MEASURED if found is None else str(found)


def _text(parts: Iterable[RenderableType], width: int) -> str:
    console = Console(
        file=StringIO(),
        width=width,
        force_terminal=False,
        force_jupyter=False,  # otherwise, in a notebook, rich displays the text and writes nothing into the file
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        console.print(part)
    # Names and doubts are untrusted: drop terminal control characters.
    return "".join(c for c in console.file.getvalue() if c == "\n" or c.isprintable())  # type: ignore[attr-defined]
