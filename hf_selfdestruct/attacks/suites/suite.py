"""Suites: named, versioned lists of attacks, run on every model with equal budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import evaluate

from ...report.report import AttackReport
from ...tasks.blocked_task import BlockedTask
from ..data import Collate, DesiredData
from ..target import Target
from .attack_list import AttackList
from .plan import Job
from .runner import carry_out


@dataclass(frozen=True)
class AttackSuite(AttackList):
    """A named list of attacks that can be run. Two reports with the same name and version compare.

    It has the arguments of :class:`AttackList`.

    Example:
        ```python
        suite = AttackSuite("mine", 1, (Entry(HeadOnly(), (20, None)),), seeds=3)
        ```
    """

    def run(
        self,
        targets: Sequence[Target],
        tasks: Sequence[BlockedTask],
        *,
        columns: Sequence[str],
        collate: Collate,
        controls: Sequence[BlockedTask] = (),
        desired: DesiredData | None = None,
        metrics: Mapping[str, evaluate.Metric] | None = None,
        storage: str | None = None,
        workers: int = 1,
        progress: bool = True,
    ) -> AttackReport:
        """Attack every model with every entry and report everything.

        Args:
            targets: The hardened model and its references.
            tasks: Blocked tasks.
            columns: Columns the models accept.
            collate: Makes batches.
            controls: Benign tasks, fine-tuned to with all examples to see that they can still be learned.
            desired: The desired task, for benign fine-tuning and for what attacks cost it.
            metrics: Metrics of your own, by name.
            storage: Optuna storage URL of the ledger; runs found there are not repeated, and every process that runs
                the same suite on the same storage shares the work.
            workers: Processes on this machine; more than one need a ``storage``.
            progress: Whether to show the ledger and a progress bar.

        Returns:
            The report, with its doubts; desired quality and recipe are for the caller to add.

        Raises:
            ValueError: Several workers without a storage, or a task that cannot be attacked.
        """
        job = Job(self, targets, tasks, columns, collate, controls, desired, metrics or {})
        return carry_out(job, storage=storage, workers=workers, progress=progress)
