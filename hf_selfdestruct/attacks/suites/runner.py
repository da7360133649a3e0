"""The work of a job: done by this process and by others that share its ledger, with its plan shown first."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from transformers.utils import logging

from ...report.attack_run import AttackRun
from ...report.facts import Readings
from ...report.report import AttackReport
from ..doubts import doubted
from ..methods.batches import inputs_of
from ..target import placed
from .ledger import Ledger, shown_storage
from .plan import Job
from .readings import recorded
from .search import Changed, NotOnRecord, Search

FORWARD = 0.4  # of a step's time, for as many rows
AGAIN_AFTER = 5.0  # seconds until a search held by another worker is asked for again


def carry_out(job: Job, *, storage: str | None = None, workers: int = 1, progress: bool = True) -> AttackReport:
    """Make every run of a job that is not on record, and report all of them.

    Args:
        job: What is to be run.
        storage: Optuna storage URL of the ledger.
        workers: Processes on this machine, this one included.
        progress: Whether to show the plan and a progress bar.

    Raises:
        ValueError: Several workers without a storage that they could share, or a damaged file of readings.
    """
    if workers < 1 or (workers > 1 and storage is None):
        given = "no storage" if storage is None else shown_storage(storage)
        raise ValueError(f"workers must be at least 1, and more than one need a storage; got {workers}, {given}.")
    ledger, data = Ledger(storage), job.data()
    searches = job.searches(data)
    console = Console(stderr=True, quiet=not progress)
    if progress:
        _show_plan(job, searches, ledger, console)
    earlier = recorded(job, searches)
    with _helpers(job, storage, workers), _bar(console) as bar:
        total = sum(map(weight, searches)) + _reserved(job, searches)
        shown = bar.add_task(f"attacking ({job.suite.name})", total=total, now="")
        work(searches, ledger, lambda search, part, now: _advance(bar, shown, search, part, now))
        runs = [run for search in searches for run in search.recall(ledger)]
        again = job.repeated(job.report(runs, data), data)
        _fill(bar, shown, sum(map(weight, again)))
        work(again, ledger, lambda search, part, now: _advance(bar, shown, search, part, now))
        runs += [run for search in again for run in search.recall(ledger)]
        report = doubted(_counted(job.report(runs, data), earlier))
        for search in searches:  # the report names the models that stand there now
            search.check()
    return report


def _counted(report: AttackReport, earlier: Mapping[str, Readings]) -> AttackReport:
    """The report with the earlier readings of its tasks' rows."""
    tasks = {name: dataclasses.replace(facts, earlier=earlier.get(name)) for name, facts in report.tasks.items()}
    return dataclasses.replace(report, tasks=tasks)


def work(
    searches: Sequence[Search], ledger: Ledger, done: Callable[[Search, float, str], None] = lambda *_: None
) -> None:
    """Make every run that is not on record, leaving searches to whoever claimed them first.

    Args:
        searches: What is to be run.
        ledger: Shared by all workers.
        done: Called with a search, a share of it that is done, and what is being run.
    """
    waiting, asked = list(searches), dict.fromkeys((s.study for s in searches), -math.inf)
    while waiting:
        left = []
        for search in waiting:
            if is_done(search, ledger):
                done(search, 1.0, "")
            elif time.monotonic() - asked[search.study] < AGAIN_AFTER:
                left.append(search)
            elif not _made(search, ledger, done):
                asked[search.study] = time.monotonic()
                left.append(search)
        if len(left) == len(waiting):
            time.sleep(0.2)
        waiting = left


def is_done(search: Search, ledger: Ledger) -> bool:
    """Whether every run of a search is on record."""
    try:
        search.recall(ledger)
    except NotOnRecord:
        return False
    return True


def weight(search: Search) -> float:
    """A search's share of the time, in full fine-tuning steps: looks and probes are counted as steps too."""
    looked, tested = (len(split.labels) / 16 * FORWARD for split in (search.data.selection, search.data.test))
    if not search.cost():
        return search.runs() * (2 + math.sqrt(search.examples) / 4)
    space = search.space()
    whole = search.kept(space) + len(search.seeds) - 1
    looks = max(int(one.get("looks", 1)) for one in space)
    again = search.refits() * tested  # without a look
    return search.cost() + whole * (tested + looks * looked) + again + (len(space) - search.kept(space)) * looked


def step_seconds(job: Job) -> float:
    """Time of one full fine-tuning step of 16 rows on this machine, measured: the fastest of a few."""
    data = next(iter(job.data().values()))
    model = placed(job.targets[0].load(data.num_labels, 0, auto=data.kind.model_class)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    times = []
    for batch in inputs_of(data, data.train, 0, steps=5):
        rows = next(iter(batch.values()))
        shape = rows.shape[:1] if data.kind.model_class is None else rows.shape  # a label for each token
        labels = torch.zeros(shape, dtype=torch.long, device=model.device)
        started = time.perf_counter()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    return min(times)


def _made(search: Search, ledger: Ledger, done: Callable[[Search, float, str], None]) -> bool:
    role, n = search.target.role, search.examples
    now, part = f"{role}: {search.attack.name}, {n} examples", 1.0 / search.runs()
    with ledger.claim(search.study) as ours:
        if ours:
            done(search, 0.0, now)
            search.work(ledger, lambda run: done(search, part, now))
            done(search, 1.0, now)
    return ours


@contextlib.contextmanager
def _helpers(job: Job, storage: str | None, workers: int) -> Iterator[None]:
    """Further processes at the same work; each gets its share of the cores."""
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    context = multiprocessing.get_context("spawn")
    helpers = [
        context.Process(target=_help, args=(job, storage, share, os.getpid()), daemon=True) for _ in range(workers - 1)
    ]
    torch.set_num_threads(share if helpers else threads)
    for helper in helpers:
        helper.start()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for helper in helpers:
            helper.terminate()
            helper.join()


def _help(job: Job, storage: str, threads: int, parent: int) -> None:
    torch.set_num_threads(threads)
    logging.set_verbosity_error()  # the first process has said what there is to say
    logging.disable_progress_bar()
    ledger, data = Ledger(storage), job.data()

    def check(*_: object) -> None:
        if os.getppid() != parent:  # whoever asked for the work is gone
            sys.exit(1)

    searches = job.searches(data)
    with contextlib.suppress(Changed):  # the first process finds the same, and says so
        work(searches, ledger, check)
        runs: list[AttackRun] = [run for search in searches for run in search.recall(ledger)]
        work(job.repeated(job.report(runs, data), data), ledger, check)


def _advance(bar: Progress, shown: TaskID, search: Search, part: float, now: str) -> None:
    """Progress in steps: ``part`` of a search is done, or all that was left of it."""
    made = bar.tasks[shown].fields.setdefault("made", {})
    before = made.get(search.study, 0.0)
    made[search.study] = 1.0 if part == 1.0 else min(1.0, before + part)
    scale = bar.tasks[shown].fields.get("scale", 1.0)
    bar.advance(shown, (made[search.study] - before) * weight(search) * scale)
    if now:
        bar.update(shown, now=now)
    if now and part == 1.0 and not bar.console.is_terminal:  # a bar is not seen in a file
        bar.console.print(f"{bar.tasks[shown].percentage:.0f} % {now}")


def _reserved(job: Job, searches: Sequence[Search]) -> float:
    """About what repeating the strongest attack on random weights takes, before it is known which one is strongest."""
    cells: dict[tuple[int, int], float] = {}
    for search in searches if job.suite.null else ():
        if search.target.role == "scratch":
            cell, cost = (id(search.data), search.examples), weight(search) * len(search.seeds) / search.runs()
            cells[cell] = max(cost, cells.get(cell, 0.0))
    return sum(cells.values())


def _fill(bar: Progress, shown: TaskID, more: float) -> None:
    """Let the rest of the bar stand for as much work as there is: a new total would let it run backwards."""
    task = bar.tasks[shown]
    left = (task.total or 0.0) - task.completed
    bar.update(shown, scale=left / more if more else 1.0)
    if not more:
        bar.advance(shown, left)


def _show_plan(job: Job, searches: Sequence[Search], ledger: Ledger, console: Console) -> None:
    """The ledger: what is run on each model, and how long it takes here."""
    left = [search for search in searches if not is_done(search, ledger)]
    table = Table(title=f"suite {job.suite.name} v{job.suite.version}: at most, on each model")
    for name in ("attack", "examples", "settings", "seeds", "steps"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    shown = {(s.attack.name, s.examples, s.target.role in ("raw", "more")): s for s in reversed(searches)}
    for (attack, examples, reference), search in reversed(shown.items()):
        name = f"{attack} (reference: {search.target.role})" if reference else attack
        table.add_row(name, str(examples), str(len(search.space())), str(len(search.seeds)), str(search.cost()))
    console.print(table)
    models = ", ".join(target.role for target in job.targets)
    console.print(f"{len(searches)} searches on {models}; {len(searches) - len(left)} of them are on record already.")
    if left:
        minutes = sum(map(weight, left)) * step_seconds(job) / 60
        console.print(f"Estimated time on this machine, by one process that has it to itself: {minutes:.0f} minutes.")


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.percentage:>3.0f} %"))
    rest = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    # Searches differ a hundredfold in what a second of them does, so that speed is taken over a long time.
    return Progress(*columns, *rest, console=console, disable=console.quiet, speed_estimate_period=1800)
