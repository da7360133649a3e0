"""Render a report as one HTML page that needs no other file, no script and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from ..files import printable, write_whole
from ..report.inline_svg import inline_svg
from ..report.plots import attacks_and_models, cost_to_recover, expected_best, score_against_examples
from ..report.references import reference_lines
from ..report.report import AttackReport
from .card_details import CardDetails
from .evidence import evidence_of
from .template import template_of

RAW = "raw"
MAIN, MORE = (4.6, 4.2), (5.8, 4.9)  # inches; the letters of the first are large enough on a phone
GIVES = {  # how the sentence that starts a task names each source of the attacker's score
    "hardened": "this model",
    "undefended": "the undefended model",
    "base": "the base model",
    "filtered": "a model that never saw the task",
    "scratch": "random weights",
}


def page_of(report: AttackReport, details: CardDetails) -> str:
    """Render a page.

    Args:
        report: The evidence: the source of every number on the page.
        details: The publisher's details, of which the page shows the title.

    Returns:
        HTML whose style and figures are part of it.

    Raises:
        ValueError: The report has no blocked tasks or no hardened model.
    """
    evidence = evidence_of(report)
    return template_of("report.html.jinja", _plain, autoescape=True).render(
        evidence,
        title=details.titled(report.models["hardened"].name),
        sentences={task: _sentence(report, task) for task in report.blocked()},
        figures={task: _figures(report, task) for task in report.blocked()},
    )


def write_page(report: AttackReport, details: CardDetails, path: str | Path) -> Path:
    """Write the page of a report to a file, in one piece; its folder is created if missing.

    Raises:
        ValueError: The path is a folder, or the report has no blocked tasks or no hardened model.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"--html {path} is a folder; pass a file name, such as {path / 'report.html'}.")
    text = page_of(report, details)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def _plain(value: Any) -> Any:
    """One line of text, control characters shown as escapes; autoescape then takes care of markup."""
    if isinstance(value, int | float | Markup):
        return value
    return printable(" ".join(str(value).split()))


def _sentence(report: AttackReport, task: str) -> str:
    """What an attacker with all examples reaches from each start, in one sentence."""
    most = max(report.budgets(task), default=0)
    found = {role: report.strongest(task, most, role) for role in (*GIVES, RAW)}
    reached = [f"{best.mean:.3f} from {GIVES[role]}" for role in GIVES if (best := found[role])]
    if raw := found[RAW]:
        reached.append(f"{raw.mean:.3f} from the raw input without a model")
    if not reached:
        return "No attack on this model completed."
    facts = report.tasks[task]
    return (
        f"With {most} labelled examples, an attacker reaches {facts.scored_on} {facts.score} "
        f"{', '.join(reached)}; {reference_lines(report, task)[0]}."
    )


def _figures(report: AttackReport, task: str) -> list[tuple[str, Markup]]:
    """Caption and drawing of each figure of a task, the main one first."""
    drawn = (
        (score_against_examples(report, task), MAIN),
        (cost_to_recover(report, task), MORE),
        (expected_best(report, task), MORE),
        (attacks_and_models(report, task), None),  # one row for each attack: it has a height of its own
    )
    return [(_caption(figure), Markup(inline_svg(figure, size))) for figure, size in drawn]


def _caption(figure: Figure) -> str:
    return figure.axes[0].get_title(loc="left")
