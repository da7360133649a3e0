"""Suites: fixed, versioned lists of attacks, run alike on every model."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..report import AttackReport, AttackRun
from ..tasks import BlockedTask
from .base import Attack, AttackData, Collate, Target
from .checks import doubts
from .finetune import FullFineTuning, HeadOnly
from .search import Ledger, search

PACKAGES = ("hf-selfdestruct", "torch", "transformers", "datasets", "scikit-learn", "optuna")


@dataclass(frozen=True)
class Entry:
    """An attack and the numbers of examples it is run with; ``None`` means all there are."""

    attack: Attack
    examples: tuple[int | None, ...]


@dataclass(frozen=True)
class AttackSuite:
    """A named list of attacks. Two reports with the same name and version compare.

    Args:
        name: Its name; a list of your own should not take a shipped one's.
        version: Raised whenever anything below changes.
        entries: Attacks with their budgets.
        seeds: Repetitions of the chosen settings.
        limit: Most rows of the selection and of the test split; ``None`` for all.

    Example:
        ```python
        suite = AttackSuite("mine", 1, (Entry(HeadOnly(), (20, None)),), seeds=3)
        ```
    """

    name: str
    version: int
    entries: tuple[Entry, ...]
    seeds: int = 3
    limit: int | None = None

    def plan(self, available: int) -> list[tuple[Attack, int, int]]:
        """What is run on each model: attack, examples and number of runs.

        Args:
            available: Training rows the attacker has; larger budgets are cut to it.
        """
        planned = []
        for entry in self.entries:
            for examples in dict.fromkeys(min(n or available, available) for n in entry.examples):
                planned.append((entry.attack, examples, len(entry.attack.space()) + self.seeds - 1))
        return planned

    def run(
        self,
        targets: Sequence[Target],
        tasks: Sequence[BlockedTask],
        *,
        columns: Sequence[str],
        collate: Collate,
        storage: str | None = None,
        progress: bool = True,
    ) -> AttackReport:
        """Attack every model with every entry and report everything.

        Args:
            targets: The hardened model and its references.
            tasks: Blocked tasks.
            columns: Columns the models accept.
            collate: Makes batches.
            storage: Optuna storage URL of the ledger; runs found there are not repeated.
            progress: Whether to show a progress bar.

        Returns:
            The report, with its doubts; desired quality and recipe are for the caller to add.
        """
        data = {t.name: AttackData.of(t, columns, collate, limit=self.limit) for t in tasks}
        models = {target.role: target.identity() for target in targets}
        ledger = Ledger(storage)
        total = sum(n for d in data.values() for *_, n in self.plan(len(d.train.labels))) * len(targets)
        runs: list[AttackRun] = []
        with _bar(progress) as bar:
            shown = bar.add_task(f"attacking ({self.name})", total=total, now="")
            for task in tasks:
                for attack, examples, _ in self.plan(len(data[task.name].train.labels)):
                    for target in targets:
                        bar.update(shown, now=f"{target.role}: {attack.name}, {examples} examples")
                        runs += search(
                            attack,
                            target,
                            data[task.name],
                            examples=examples,
                            seeds=self.seeds,
                            study=self._study(task, attack, examples, target, models[target.role]),
                            ledger=ledger,
                            done=lambda run: bar.advance(shown),
                        )
        report = AttackReport(
            suite={"name": self.name, "version": self.version, "seeds": self.seeds, "limit": self.limit},
            tasks={t.name: _facts(t, data[t.name]) for t in tasks},
            models=models,
            runs=tuple(runs),
            versions={p: importlib.metadata.version(p) for p in PACKAGES},
        )
        return dataclasses.replace(report, checks=doubts(report))

    def _study(self, task: BlockedTask, attack: Attack, examples: int, target: Target, model: dict[str, Any]) -> str:
        """A name that changes with the data, the model and the suite's rules."""
        content = [task.fingerprints(), model, target.folder if target.random else "", self.limit]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return f"v{self.version}/{task.name}/{attack.name}/{examples}/{target.role}/{digest}"


def _facts(task: BlockedTask, data: AttackData) -> dict[str, Any]:
    labels = data.test.labels
    return {
        "num_labels": task.classes,
        "majority": float(np.bincount(labels).max() / len(labels)),
        "rows": {name: len(getattr(data, name).labels) for name in ("train", "selection", "test")},
        "fingerprints": task.fingerprints(),
    }


def _bar(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[now]}"), console=Console(stderr=True), disable=not shown)


SMOKE = AttackSuite(
    "smoke",
    1,
    (
        Entry(HeadOnly(), (20, 100, None)),
        Entry(FullFineTuning(learning_rates=(5e-5, 3e-4), steps=(40,), checkpoints=1), (None,)),
    ),
    limit=400,
)
DEFAULT = AttackSuite(
    "default",
    1,
    (
        Entry(HeadOnly(), (20, 50, 100, 200, 400, None)),
        Entry(HeadOnly(every_layer=True), (20, 50, 100, 200, 400, None)),
        Entry(FullFineTuning(learning_rates=(5e-5, 2e-4), steps=(100,), checkpoints=2), (100, None)),
    ),
)
SUITES = {suite.name: suite for suite in (SMOKE, DEFAULT)}


def named_suite(name: str) -> AttackSuite:
    """The shipped suite of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}; got {name!r}.")
    return SUITES[name]
