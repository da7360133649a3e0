"""The attacker's search: settings tried at one seed, the best repeated at the others, all on record.

An Optuna study per (task, attack, examples, model) is the ledger: what is in it is not run again, so
a killed suite goes on where it stopped, and undefended and scratch runs are shared between reports.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import optuna
import torch
from optuna.trial import TrialState, create_trial

from ..report import AttackRun, Scores
from .base import Attack, AttackData, Target


class Ledger:
    """Attack runs on record in an Optuna storage.

    Args:
        storage: Optuna storage URL, such as ``sqlite:///attacks.db``; ``None`` keeps it in memory.
    """

    def __init__(self, storage: str | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = optuna.storages.get_storage(storage)

    def recall(self, study: str, key: str) -> AttackRun | None:
        """The run on record under this study and key, if there is one."""
        for trial in self._study(study).get_trials(deepcopy=False):
            if trial.user_attrs.get("key") == key:
                raw = json.loads(trial.user_attrs["run"])
                for split in ("selection", "test"):
                    raw[split] = Scores(**raw[split]) if raw[split] else None
                return AttackRun(**raw)
        return None

    def record(self, study: str, key: str, run: AttackRun) -> None:
        """Put a run on record; its settings are an attribute, so that suites with other spaces can share it."""
        self._study(study).add_trial(
            create_trial(
                value=run.selection.accuracy if run.selection else None,
                state=TrialState.COMPLETE if run.selection else TrialState.FAIL,
                user_attrs={"key": key, "run": json.dumps(dataclasses.asdict(run))},
            )
        )

    def _study(self, name: str) -> optuna.Study:
        return optuna.create_study(study_name=name, storage=self._storage, direction="maximize", load_if_exists=True)


def search(
    attack: Attack,
    target: Target,
    data: AttackData,
    *,
    examples: int,
    seeds: int,
    study: str,
    ledger: Ledger,
    done: Callable[[AttackRun], None],
) -> list[AttackRun]:
    """Try every setting at seed 0, then repeat the one that the selection split prefers at the other seeds.

    Args:
        attack: The recipe.
        target: The model.
        data: What the attacker has.
        examples: Training rows it may use.
        seeds: How many seeds the chosen settings get.
        study: Name under which runs are on record; it must identify data, model and suite.
        ledger: Runs already made.
        done: Called after each run.

    Returns:
        All runs, those with the chosen settings marked.
    """

    def one(settings: dict[str, Any], seed: int) -> AttackRun:
        key = hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode()).hexdigest()[:16]
        run = ledger.recall(study, key)
        if run is None:
            run = _run(attack, target, data, examples=examples, seed=seed, settings=settings)
            ledger.record(study, key, run)
        done(run)
        return run

    tried = [one(settings, 0) for settings in attack.space()]
    best = max(tried, key=lambda run: run.selection.accuracy if run.selection else -1.0)
    repeated = [one(best.settings, seed) for seed in range(1, seeds)]
    return [dataclasses.replace(r, chosen=r.settings == best.settings) for r in (*tried, *repeated)]


def _run(
    attack: Attack, target: Target, data: AttackData, *, examples: int, seed: int, settings: dict[str, Any]
) -> AttackRun:
    """One run; a diverged one is recorded as failed, never as resisted."""
    start = time.perf_counter()
    outcome, error = None, ""
    try:
        outcome = attack.run(target, data, examples=examples, seed=seed, settings=settings)
    except (FloatingPointError, torch.OutOfMemoryError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return AttackRun(
        task=data.task,
        attack=attack.name,
        role=target.role,
        examples=examples,
        seed=seed,
        settings=settings,
        chosen=False,
        status="ok" if outcome else "failed",
        selection=outcome.selection if outcome else None,
        test=outcome.test if outcome else None,
        steps=outcome.steps if outcome else 0,
        seconds=round(time.perf_counter() - start, 3),
        error=error,
    )
