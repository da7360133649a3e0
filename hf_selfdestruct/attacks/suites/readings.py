"""The file of readings: which suite read which test and development rows, on which models, for how many results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

from ...files import read_text
from ...report.facts import Readings
from ...tasks.blocked_task import BlockedTask
from ...tasks.development import DEVELOPMENT, TEST
from ...untrusted_json import checked, parse_json
from .plan import Job
from .search import Search

MOST_BYTES = 16 * 1024 * 1024  # about 40,000 readings


@dataclass(frozen=True)
class Reading:
    """A suite's reading of some rows of a task: one line of the file.

    Attributes:
        when: Date and time of the first start, in UTC.
        task: Name of the task.
        split: ``test`` or ``development``.
        rows: Number of rows.
        sha256: Hash of the rows' documents and labels, see :meth:`BlockedTask.documents_sha256`.
        suite: Name of the suite.
        version: Version of the suite.
        models: Role to the hash of the weights; to the name, of a model that has no files here.
        comparisons: Results on these rows: one for each attack, model and number of examples.
    """

    when: str
    task: str
    split: str
    rows: int
    sha256: str
    suite: str
    version: int
    models: dict[str, str]
    comparisons: int

    @property
    def identity(self) -> str:
        """All but the date: a job that is resumed or repeated is the same reading, for it reveals nothing more."""
        return json.dumps(dataclasses.asdict(self) | {"when": ""}, sort_keys=True)


def recorded(job: Job, searches: Sequence[Search]) -> dict[str, Readings]:
    """Record that a job reads its tasks' rows; only of tasks with a development split, whose readings count.

    The line is written before the first attack, so that an interrupted job is a reading too.

    Args:
        job: What is to be run.
        searches: Its searches.

    Returns:
        Task to its earlier readings.

    Raises:
        ValueError: The file of readings is damaged.
    """
    tasks = [task for task in (*job.tasks, *job.controls) if task.development]
    return {task.name: _earlier(task, _record(task.readings, _reading(job, task, searches))) for task in tasks}


def read(path: str | Path) -> dict[str, Reading]:
    """The readings in a file by their identity, in the file's order; none where there is no file yet.

    Raises:
        ValueError: It cannot be read, or a line is no reading; the message names both.
    """
    path, found, where = Path(path), dict[str, Reading](), f"{path}"
    try:
        for number, line in enumerate(read_text(path, MOST_BYTES).splitlines() if path.exists() else (), 1):
            where = f"{path}, line {number}"
            one: Reading = checked(Reading, parse_json(line), "reading")
            found.setdefault(one.identity, one)
    except ValueError as error:
        raise ValueError(f"{where}: {error} Restore the file from version control.") from None
    return found


def _reading(job: Job, task: BlockedTask, searches: Sequence[Search]) -> Reading:
    split = job.scored_on(task)
    models = {target.role: target.identity() for target in job.targets if not target.random}
    return Reading(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        task=task.name,
        split=split,
        rows=len(task.labels(split)),
        sha256=task.documents_sha256(split),
        suite=job.suite.name,
        version=job.suite.version,
        models={role: model.sha256 or model.name for role, model in models.items()},
        comparisons=sum(search.data.task == task.name for search in searches),
    )


def _record(path: str | Path, reading: Reading) -> list[Reading]:
    """Append a reading that is not in the file, and return those before it."""
    known, path = read(path), Path(path)
    if reading.identity not in known:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:  # one write: processes that share a job may come here at once
            file.write(json.dumps(dataclasses.asdict(reading)) + "\n")
    return [*takewhile(lambda one: one.identity != reading.identity, known.values())]


def _earlier(task: BlockedTask, readings: Sequence[Reading]) -> Readings:
    found = {
        split: [one for one in readings if (one.split, one.sha256) == (split, task.documents_sha256(split))]
        for split in (TEST, DEVELOPMENT)
    }
    compared = sum(one.comparisons for one in found[DEVELOPMENT])
    return Readings(len(found[TEST]), len(found[DEVELOPMENT]), compared)
