"""The ledger: attack runs on record in an Optuna storage, and claims by which several workers share the work."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState, create_trial

from ..runs import AttackRun, Scores

GRACE = 60.0


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """A run, and the selection rows it labelled right at every look, shape ``(looks, rows)``."""

    run: AttackRun
    hits: np.ndarray | None


class Ledger:
    """Attack runs on record in an Optuna storage; one study is one search.

    Runs are completed trials. A trial still running is a claim on its study: the lowest number holds it, and shows by
    a changing attribute that it lives. A claim whose process is gone, or that stood still for so long, is void.

    Args:
        storage: Optuna storage URL, such as ``sqlite:///attacks.db``; ``None`` keeps it in memory.
        grace: Seconds.
    """

    def __init__(self, storage: str | None = None, *, grace: float = GRACE) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage, self._grace = _opened(storage), grace
        self._seen: dict[tuple[str, int], tuple[Any, float]] = {}
        self._studies: dict[str, optuna.Study] = {}

    def recall(self, study: str, key: str) -> Record | None:
        """The run on record under this study and key, if there is one."""
        for trial in self._study(study).get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
            if trial.user_attrs.get("key") == key:
                return _record_of(trial.user_attrs)
        return None

    def record(self, study: str, key: str, record: Record) -> None:
        """Put a run on record; its settings are an attribute, so that suites with other spaces can share it."""
        run, hits = record.run, record.hits
        attributes: dict[str, Any] = {"key": key, "run": json.dumps(dataclasses.asdict(run))}
        if hits is not None:
            attributes |= {
                "hits": base64.b64encode(np.packbits(hits, axis=1).tobytes()).decode(),
                "width": hits.shape[1],
            }
        self._study(study).add_trial(
            create_trial(
                value=run.selection.accuracy if run.selection else None,
                state=TrialState.COMPLETE if run.selection else TrialState.FAIL,
                user_attrs=attributes,
            )
        )

    @contextlib.contextmanager
    def claim(self, study: str) -> Iterator[bool]:
        """Claim a study for this process; the value says whether it is ours now.

        Args:
            study: The study.
        """
        held = self._study(study)
        mine = held.ask()
        mine.set_user_attr("holder", _holder())
        ours = not any(
            self._alive(study, trial)
            for trial in held.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if trial.number < mine.number
        )
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(mine, ended), daemon=True)
        if ours:
            beat.start()
        try:
            yield ours
        finally:
            ended.set()
            if ours:
                beat.join()
            held.tell(mine, state=TrialState.PRUNED)

    def _beat(self, mine: optuna.Trial, ended: threading.Event) -> None:
        count = 0
        while not ended.wait(self._grace / 6):
            count += 1
            mine.set_user_attr("beat", count)

    def _alive(self, study: str, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether a claim's process still works, as far as can be told from here."""
        host, _, process = str(trial.user_attrs.get("holder", ":")).rpartition(":")
        here = _holder().rpartition(":")[0]
        if host == here and process.isdigit() and not _runs(int(process)):
            return False
        place, beat, now = (study, trial.number), trial.user_attrs.get("beat"), time.monotonic()
        before, since = self._seen.get(place, (None, now))
        if place not in self._seen or beat != before:
            self._seen[place] = (beat, now)
            return True
        return now - since < self._grace

    def _study(self, name: str) -> optuna.Study:
        if name not in self._studies:
            self._studies[name] = optuna.create_study(
                study_name=name, storage=self._storage, direction="maximize", load_if_exists=True
            )
        return self._studies[name]


def _opened(storage: str | None) -> BaseStorage:
    if storage is None or not storage.startswith("sqlite"):
        return optuna.storages.get_storage(storage)
    # Other workers write too: wait for them instead of failing at once.
    return RDBStorage(storage, engine_kwargs={"connect_args": {"timeout": 120}})


def _record_of(attributes: dict[str, Any]) -> Record:
    raw = json.loads(attributes["run"])
    for split in ("selection", "test"):
        raw[split] = Scores(**raw[split]) if raw[split] else None
    raw["curve"] = tuple(tuple(point) for point in raw["curve"])
    hits = None
    if "hits" in attributes:
        width = attributes["width"]
        packed = np.frombuffer(base64.b64decode(attributes["hits"]), dtype=np.uint8).reshape(-1, -(-width // 8))
        hits = np.unpackbits(packed, axis=1)[:, :width].astype(bool)
    return Record(AttackRun(**raw), hits)


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
