"""Which rows the scores of a report are on, and how often these rows were read before."""

from __future__ import annotations

from .record import Record


def scores_of(report: Record, task: str) -> str:
    """The split and the measure of a task's scores, such as ``test accuracy``."""
    return f"{report.tasks[task].scored_on} {report.tasks[task].score}"


def reading_lines(report: Record) -> list[str]:
    """State how often the rows of each task with a development split were read before, one sentence for each task."""
    return [
        f"Before this report, suites read the test rows of {task} {_times(before.test)} and its development rows "
        f"{_times(before.development)}, where they compared {before.compared} results."
        for task, facts in report.tasks.items()
        if (before := facts.earlier)
    ]


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")
