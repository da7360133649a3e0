"""What a job will cost, said before it starts, and how far it is: a table of the plan, and a bar with the time left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..data import Split
from ..methods.batches import batch_of, epochs
from ..target import placed
from .plan import Job
from .search import Search

FORWARD = 0.25  # of a step's time, for as many rows: these are sorted by length, and need no gradient
GUESSED = 0.1  # of all work: as much weight has the time guessed before the start


def weights(searches: Iterable[Search]) -> dict[str, float]:
    """Each search's share of the time by its study, in full fine-tuning steps: looks and encoded rows count as steps.

    The first probe of a model encodes the rows for those after it.
    """
    found: dict[str, float] = {}
    encoded: set[tuple[str, str]] = set()
    for search in searches:
        model = search.data.task, search.target.role
        found[search.study] = _steps(search)
        if search.target.folder and not search.cost() and model not in encoded:
            encoded.add(model)
            once = sum(map(_forward, (search.data.train, search.data.selection, search.data.test)))
            found[search.study] += once * (len(search.seeds) if search.target.random else 2)  # with the published head
    return found


def _steps(search: Search) -> float:
    data, space = search.data, search.space()
    if not search.cost():  # a classifier of features, which takes a map for each class
        classes = data.num_labels if data.kind.model_class is None else 1
        return search.runs() * (0.1 + search.examples * classes / 5000)
    looked, tested = _forward(data.selection), _forward(data.test)
    if data.desired is not None and not search.target.random:
        tested += _forward(data.desired.test)
    probed = looked + _forward(data.train) * search.examples / len(data.train.labels) if "head" in space[0] else 0.0
    whole = search.kept() + len(search.seeds) - 1
    looks = max(int(one.get("looks", 1)) for one in space)
    again = search.refits() * (tested + probed)  # without a look
    short = len(search.short()) * (looked + probed)
    return search.cost() + whole * (probed + looks * looked + tested) + again + short


def _forward(split: Split) -> float:
    return len(split.labels) / 16 * FORWARD


def reserved(job: Job, searches: Sequence[Search]) -> float:
    """About what repeating the strongest attack on random weights takes, before it is known which one is strongest."""
    cells: dict[tuple[int, int], float] = {}
    for search in searches if job.suite.null else ():
        if search.target.role == "scratch":
            cell, cost = (id(search.data), search.examples), _steps(search) * len(search.seeds) / search.runs()
            cells[cell] = max(cost, cells.get(cell, 0.0))
    return sum(cells.values())


def step_seconds(job: Job) -> float:
    """Time of one full fine-tuning step of 16 rows on this machine, measured: the fastest of a few."""
    data = next(iter(job.data().values()))
    model = placed(job.targets[0].load(data.num_labels, 0, auto=data.kind.model_class)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    times = []
    for rows in epochs(len(data.train.labels), 16, 5, 0):
        batch = batch_of(data, data.train.take(rows.tolist()))
        started = time.perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return min(times)


def show_plan(job: Job, searches: Sequence[Search], done: int, console: Console) -> None:
    """The ledger: what is run on each model, and how much of it is on record already."""
    table = Table(title=f"suite {job.suite.name} v{job.suite.version}: at most, on each model")
    for name in ("attack", "examples", "settings", "seeds", "steps"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    shown = {(s.attack.name, s.examples, s.target.role in ("raw", "more")): s for s in reversed(searches)}
    for (attack, examples, reference), search in reversed(shown.items()):
        name = f"{attack} (reference: {search.target.role})" if reference else attack
        table.add_row(name, str(examples), str(len(search.space())), str(len(search.seeds)), str(search.cost()))
    console.print(table)
    models = ", ".join(target.role for target in job.targets)
    console.print(f"{len(searches)} searches on {models}; {done} of them are on record already.")


def lasting(seconds: float) -> str:
    """A time in words.

    Example:
        >>> lasting(40.2), lasting(300)
        ('40 seconds', '5 minutes')
    """
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


class Bar:
    """A bar of the searches that are left, with the time left.

    The time for a unit of weight is guessed before the start, and known better with every search that is done.

    Args:
        name: Name of the suite.
        shares: Weight of each search by its study.
        more: Weight that is expected to come.
        seconds: Guessed time for a unit of weight.
        progress: The bar of ``rich``.
    """

    def __init__(self, name: str, shares: dict[str, float], more: float, seconds: float, progress: Progress) -> None:
        self._shares, self._made = dict(shares), dict[str, float]()
        self._progress, self._scale = progress, 1.0
        self._total = sum(shares.values()) + more or 1.0
        self._guess, self._start = seconds, time.monotonic()
        self._task = progress.add_task(f"attacking ({name})", total=self._total, now="", ends=self._ends(0.0))
        if not shares:
            progress.advance(self._task, self._total)

    def advance(self, search: Search, part: float, now: str) -> None:
        """Count a part of a search as done, or, where it is 1, all that was left of it."""
        if search.study not in self._shares:
            return  # it was on record before
        before = self._made.get(search.study, 0.0)
        self._made[search.study] = after = 1.0 if part == 1.0 else min(1.0, before + part)
        self._progress.advance(self._task, (after - before) * self._shares[search.study] * self._scale)
        task = self._progress.tasks[self._task]
        ends = self._ends(task.completed) if after > before else task.fields["ends"]
        self._progress.update(self._task, ends=ends, now=now or task.fields["now"])
        if now and part == 1.0 and not self._progress.console.is_terminal:  # a bar is not seen in a file
            left = lasting(max(0.0, ends - time.monotonic()))
            self._progress.console.print(f"{int(task.percentage + 1e-6)} % {now}; {left} left")

    def fill(self, shares: dict[str, float]) -> None:
        """Let the rest of the bar stand for other searches: a new total would let it run backwards."""
        left = self._total - self._progress.tasks[self._task].completed
        self._shares |= shares
        if shares:
            self._scale = left / sum(shares.values())
        else:
            self._progress.advance(self._task, left)

    def _ends(self, completed: float) -> float:
        """When all will be done: the guess counts as if a share of all work had been seen to take so long."""
        known, now = GUESSED * self._total, time.monotonic()
        seconds = (known * self._guess + now - self._start) / (known + completed) if known else 0.0
        return now + seconds * (self._total - completed)


class _Left(ProgressColumn):
    """The time left; it runs down between two searches too."""

    def render(self, task: Task) -> Text:
        seconds = round(max(0.0, task.fields["ends"] - time.monotonic()))
        return Text(f"{seconds // 60}:{seconds % 60:02d} left")


@contextmanager
def progress_on(console: Console) -> Iterator[Progress]:
    """An empty bar on a console."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.percentage:>3.0f} %"))
    rest = (TimeElapsedColumn(), _Left(), TextColumn("{task.fields[now]}"))
    with Progress(*columns, *rest, console=console, disable=console.quiet) as progress:
        yield progress
