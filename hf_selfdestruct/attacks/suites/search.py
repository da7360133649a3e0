"""The attacker's search: settings tried at one seed, the worse ones given up after a short run, the best repeated.

Every run is on record and none is made twice, so a search killed and started again, or made by another
worker, gives the same runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...files import file_hash, printable, weights_hash
from ...report.attack_run import AttackRun, Scores
from ..attack import Attack, Trial
from ..data import AttackData
from ..methods.tamper import NotApplicable
from ..target import Target
from .ledger import Ledger, RecordedRun
from .optimism import optimism

# What a model does to an attack; anything else is a mistake in the attack, and is not caught. Nor is a lack of memory:
# it may be gone next time, and put on record it would leave one model with a smaller search than the others.
FAILURES = (FloatingPointError, NotApplicable, np.linalg.LinAlgError, torch.linalg.LinAlgError)
KEPT = 1 / 4  # of the settings, after their short runs
FEWEST = 2  # short runs mistake neighbours for each other
MOST_TOLD = 200  # characters of why a run failed
ROOT = r"(?:[A-Za-z]:|~)?[/\\]"  # of a path of this machine, in quotes or up to what ends a word
PLACE = rf"(?<=['\"]){ROOT}[^'\"\n]*(?=['\"])|(?<![\w.])(?:[A-Za-z]:|~)?(?:[/\\]+[^\s/\\'\"()<>,;:]+)+[/\\]?"


class NotOnRecord(LookupError):
    """A run is wanted that nobody has made yet."""


class Changed(ValueError):
    """A model's files changed while it was attacked."""


@dataclass(frozen=True, eq=False)
class Search:
    """One attack on one model with one number of examples.

    Args:
        attack: The recipe.
        target: The model.
        data: What the attacker has.
        examples: Training rows it may use.
        seeds: Seeds that the chosen settings get; settings are searched at the first.
        study: Name under which runs are on record; it must identify data, model and judge.
        settings: Instead of a search: the settings to run at every seed.
        refit: Whether the chosen settings are run again at every seed on training and selection rows. Such a run has
            the rows of both as its ``examples``. Its selection scores, curve and what it found are those of the run
            before: the choice was made then.
    """

    attack: Attack
    target: Target
    data: AttackData
    examples: int
    seeds: tuple[int, ...]
    study: str
    settings: dict[str, Any] | None = None
    refit: bool = False
    files: dict[str, tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", self._files())

    def check(self) -> None:
        """Refuse to go on with a model that has changed since the search was planned.

        Raises:
            Changed: Its weights or its configuration are others now.
        """
        for folder, before in self.files.items():
            if _content(folder) != before:
                raise Changed(
                    f"the weights of {self.target.role!r} changed during the attack: {folder} contains another model "
                    "than at its start. Attack again while nothing writes to the folder."
                )

    def _files(self) -> dict[str, tuple[str, str]]:
        """What stands in the folders that are read; of a model on the Hub there is none."""
        folders = (self.target.folder, self.target.sibling)
        return {folder: _content(folder) for folder in folders if folder and Path(folder).is_dir()}

    def space(self) -> list[dict[str, Any]]:
        """Settings that compete."""
        return self.attack.space() if self.settings is None else [self.settings]

    def kept(self) -> int:
        """How many of the settings are run to the end."""
        return kept_of(self.attack, self.space())

    def short(self) -> list[dict[str, Any]]:
        """Settings that have a short run first: all, or none where none is given up."""
        space = self.space()
        return space if self.kept() < len(space) else []

    def runs(self) -> int:
        """Number of runs in the report, those that are given up included."""
        return len(self.space()) + len(self.seeds) - 1 + self.refits()

    def made(self) -> int:
        """Number of runs that are made; short runs of settings that are kept are not in the report."""
        return self.runs() + (self.kept() if self.short() else 0)

    def refits(self) -> int:
        """How many of them are on training and selection rows."""
        return len(self.seeds) if self.refit else 0

    def cost(self) -> int:
        """Optimizer steps at most."""
        whole = sorted((self.attack.cost(one) for one in self.space()), reverse=True)
        rungs = sum(self._to_rung(one) for one in self.short())
        return rungs + sum(whole[: self.kept()]) + (len(self.seeds) - 1 + self.refits()) * whole[0]

    def _to_rung(self, settings: dict[str, Any]) -> int:
        """Steps of the short run; what comes before the first, such as benign steps, is made in it too."""
        before = self.attack.cost(settings) - settings["steps"] if "steps" in settings else 0
        return before + (self.attack.rung(settings) or 0)

    def work(self, ledger: Ledger, done: Callable[[AttackRun], None]) -> None:
        """Make every run that is not on record.

        Args:
            ledger: Runs already made.
            done: Called after each run.
        """

        def make(
            settings: dict[str, Any], seed: int, until: int | None, before: AttackRun | None = None
        ) -> RecordedRun:
            key = _key(settings, seed, until, before)
            record = ledger.recall(self.study, key)
            if record is None:
                self.check()
                try:
                    record = self._run(settings, seed, until, before)
                finally:  # what is read of half-written weights is an error that says less
                    self.check()
                ledger.record(self.study, key, record)
            done(record.run)
            return record

        self._go(make)

    def recall(self, ledger: Ledger) -> list[AttackRun]:
        """All runs, from the record, those with the chosen settings marked.

        Raises:
            NotOnRecord: One is missing.
        """

        def find(
            settings: dict[str, Any], seed: int, until: int | None, before: AttackRun | None = None
        ) -> RecordedRun:
            record = ledger.recall(self.study, _key(settings, seed, until, before))
            if record is None:
                raise NotOnRecord(self.study)
            return record

        return self._go(find)

    def _go(self, one: Callable[..., RecordedRun]) -> list[AttackRun]:
        space, first = self.space(), self.seeds[0]
        kept, given_up, reached = [*range(len(space))], [], {}
        if short := [one(settings, first, self.attack.rung(settings)) for settings in self.short()]:
            count, order = self.kept(), sorted(kept, key=lambda i: _merit(short[i].run), reverse=True)
            kept, given_up = sorted(order[:count]), [short[i] for i in sorted(order[count:])]
            reached = {i: short[i].run.selection for i in kept}
        tried = [_with_rung(one(space[i], first, None), reached.get(i)) for i in kept]
        best = max(tried, key=lambda record: _merit(record.run))
        repeated = [one(best.run.settings, seed, None) for seed in self.seeds[1:]]
        # At the first seed the best of all settings was taken, at the others of one setting's looks.
        runs = [_chosen(r, (*tried, *given_up)) if r is best else r.run for r in tried]
        runs += [_chosen(r, (r,)) for r in repeated]
        refitted = [self._refitted(run, one) for run in runs if run.chosen and self.refit]
        return [*runs, *(r.run for r in given_up), *refitted]

    def _refitted(self, run: AttackRun, one: Callable[..., RecordedRun]) -> AttackRun:
        if run.status == "failed":  # there is nothing to make again
            return dataclasses.replace(run, examples=self.examples + len(self.data.selection.labels))
        again = one(run.settings, run.seed, None, run).run
        return dataclasses.replace(again, chosen=True, optimism=run.optimism, rung=run.rung)

    def _run(
        self, settings: dict[str, Any], seed: int, until: int | None, before: AttackRun | None = None
    ) -> RecordedRun:
        """One run; a diverged one is recorded as failed, never as resisted."""
        start = time.perf_counter()
        outcome, error = None, ""
        try:
            outcome = self.attack.run(Trial(self.target, self.data, self.examples, seed, settings, until, before))
        except FAILURES as failure:
            error = short_reason(failure)
        known: dict[str, Any] = {} if outcome is None else {
            "selection": outcome.selection, "test": outcome.test, "steps": outcome.steps, "flops": outcome.flops,
            "curve": outcome.curve, "desired_drop": outcome.desired_drop, "found": outcome.found,
            "general": outcome.general, "gibberish": outcome.gibberish,
            "predictions": self._packed(outcome.probabilities), "selected": self._packed(outcome.selected),
        }  # fmt: skip
        if known and before is not None:
            known |= {name: getattr(before, name) for name in ("selection", "curve", "found", "selected")}
        status = "failed" if outcome is None else "ok" if until is None else "pruned"
        run = AttackRun(
            task=self.data.task,
            attack=self.attack.name,
            role=self.target.role,
            examples=self.examples + (len(self.data.selection.labels) if before else 0),
            seed=seed,
            settings=settings,
            chosen=False,
            status=status,
            seconds=round(time.perf_counter() - start, 3),
            error=error,
            **{"selection": None, "test": None, "steps": 0, **known},
        )
        return RecordedRun(run, None if outcome is None else outcome.hits)

    def _packed(self, answers: np.ndarray | None) -> str:
        return "" if answers is None else self.data.kind.packed(answers)


def kept_of(attack: Attack, settings: Sequence[dict[str, Any]]) -> int:
    """How many of an attack's settings are run to the end: the best quarter, and two at least, or all."""
    pruned = all(attack.rung(one) is not None for one in settings)
    return min(len(settings), max(FEWEST, math.ceil(len(settings) * KEPT))) if pruned else len(settings)


def short_reason(error: BaseException) -> str:
    """Why a run failed, for a report that is published: one short line, paths of this machine cut to their last part.

    Example:
        >>> short_reason(FloatingPointError("nan in /home/me/model/layer.py"))
        'FloatingPointError: nan in layer.py'
    """
    words = re.sub(PLACE, lambda place: re.split(r"[/\\]", place[0].rstrip("/\\"))[-1], str(error))
    line = f"{type(error).__name__}: {printable(' '.join(words.split()))}"
    return line if len(line) <= MOST_TOLD else f"{line[: MOST_TOLD - 4]} ..."


def _content(folder: str) -> tuple[str, str]:
    """Hashes of a folder's weights and of its configuration; empty where there are none."""
    config = Path(folder, "config.json")
    return weights_hash(folder), file_hash(config) if config.is_file() else ""


def _chosen(record: RecordedRun, among: Sequence[RecordedRun]) -> AttackRun:
    """A run marked as chosen, with what it owes to having been the best among several."""
    luck = optimism([r.hits for r in among if r.hits is not None])
    return dataclasses.replace(record.run, chosen=True, optimism=luck)


def _with_rung(record: RecordedRun, reached: Scores | None) -> RecordedRun:
    """A whole run with what its settings reached in the short one, where there was one and it did not fail."""
    return dataclasses.replace(record, run=dataclasses.replace(record.run, rung=reached.value)) if reached else record


def _merit(run: AttackRun) -> tuple[float, float]:
    """What still equals goes by the order in the space, the likelier first."""
    return run.selection.merit if run.selection else (-math.inf, -math.inf)


def _key(settings: dict[str, Any], seed: int, until: int | None, before: AttackRun | None = None) -> str:
    short = [] if until is None else ["short run", until]
    content = [settings, seed, *short, *([] if before is None else ["refit"])]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
