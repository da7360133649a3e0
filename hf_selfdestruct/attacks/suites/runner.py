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
from transformers.utils import logging

from ...report.attack_run import AttackRun
from ...report.facts import Readings
from ...report.report import AttackReport
from ..doubts import doubted
from ..target import device
from .ledger import Ledger, shown_storage
from .plan import Job
from .progress import Bar, lasting, progress_on, reserved, show_plan, step_seconds, weights
from .readings import recorded
from .search import Changed, NotOnRecord, Search

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
    left, seconds = [search for search in searches if not is_done(search, ledger)], 0.0
    shares, more = weights(left), reserved(job, searches) if left else 0.0
    if progress:
        show_plan(job, searches, len(searches) - len(left), console)
    if progress and left:
        seconds = step_seconds(job) * _slower(workers)
        total = lasting(seconds * (sum(shares.values()) + more))
        console.print(f"Estimated time on this machine, if nothing else runs on it: {total}.")
    earlier = recorded(job, searches)
    with _helpers(job, storage, workers), progress_on(console) as shown:
        bar = Bar(job.suite.name, shares, more, seconds, shown)
        work(searches, ledger, bar.advance)
        runs = [run for search in searches for run in search.recall(ledger)]
        again = job.repeated(job.report(runs, data), data)
        bar.fill(weights(search for search in again if not is_done(search, ledger)))
        work(again, ledger, bar.advance)
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


def _from(searches: Sequence[Search], place: float) -> list[Search]:
    """All searches, from a place in their order: workers that start elsewhere encode the rows of other models."""
    start = int(place * len(searches))
    return [*searches[start:], *searches[:start]]


def _slower(workers: int) -> float:
    """Time per step of all workers together, relative to one process: only further cores save time."""
    threads = torch.get_num_threads()
    used = min(max(1, threads // workers) * workers, max(threads, os.cpu_count() or 1))
    return 1.0 if device().type == "cuda" else threads / used


def _made(search: Search, ledger: Ledger, done: Callable[[Search, float, str], None]) -> bool:
    role, n = search.target.role, search.examples
    now, part = f"{role}: {search.attack.name}, {n} examples", 1.0 / search.made()
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
        context.Process(target=_help, args=(job, storage, share, os.getpid(), number / workers), daemon=True)
        for number in range(1, workers)
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


def _help(job: Job, storage: str, threads: int, parent: int, place: float) -> None:
    torch.set_num_threads(threads)
    logging.set_verbosity_error()  # the first process has said what there is to say
    logging.disable_progress_bar()
    ledger, data = Ledger(storage), job.data()

    def check(*_: object) -> None:
        if os.getppid() != parent:  # whoever asked for the work is gone
            sys.exit(1)

    searches = job.searches(data)
    with contextlib.suppress(Changed):  # the first process finds the same, and says so
        work(_from(searches, place), ledger, check)
        runs: list[AttackRun] = [run for search in searches for run in search.recall(ledger)]
        work(job.repeated(job.report(runs, data), data), ledger, check)
