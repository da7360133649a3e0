"""The ledger: attack runs on record in an Optuna storage, and claims by which several workers share the work."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import optuna
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ...files import printable, reason
from ...report.attack_run import AttackRun
from ...untrusted_json import checked, parse_json

GRACE = 60.0
SECRET = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)
# What Optuna, SQLAlchemy and the records themselves raise where a storage is damaged, of another kind or out of reach.
BROKEN = (
    *(SQLAlchemyError, OptunaError, ImportError, RuntimeError, LookupError, ValueError, TypeError),
    *(AssertionError, AttributeError),
)


class Damaged(ValueError):
    """A ledger cannot be read or written."""


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run, and the selection rows it labelled right at every look, shape ``(looks, rows)``.

    Of another kind of task than a classification: what each row added to the score.
    """

    run: AttackRun
    hits: np.ndarray | None


class Ledger:
    """Attack runs on record in an Optuna storage; one study is one search.

    Runs are completed trials. A trial still running is a claim on its study: the lowest number holds it, and shows by
    a changing attribute that it lives. A claim whose process is gone, or that stood still for so long, is void.

    Args:
        storage: Optuna storage URL, such as ``sqlite:///attacks.db``; ``None`` keeps it in memory.
        grace: Seconds.

    Raises:
        Damaged: It cannot be read or written; any other method may find that out too.
    """

    def __init__(self, storage: str | None = None, *, grace: float = GRACE) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._url, self._grace = storage, grace
        with self._told():
            self._storage = _opened(storage)
        self._seen: dict[tuple[str, int], tuple[Any, float]] = {}
        self._studies: dict[str, optuna.Study] = {}

    def recall(self, study: str, key: str) -> RecordedRun | None:
        """The run on record under this study and key, if there is one."""
        with self._told():
            for trial in self._study(study).get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
                if trial.user_attrs.get("key") == key:
                    return _record_of(trial.user_attrs)
        return None

    def record(self, study: str, key: str, record: RecordedRun) -> None:
        """Put a run on record; its settings are an attribute, so that suites with other spaces can share it."""
        run, hits = record.run, record.hits
        attributes: dict[str, Any] = {"key": key, "run": json.dumps(dataclasses.asdict(run))}
        if hits is not None:
            quantities = hits.dtype != bool
            stored = hits.astype("<f8") if quantities else np.packbits(hits, axis=1)
            attributes |= {"hits": base64.b64encode(stored.tobytes()).decode(), "width": hits.shape[1]}
            attributes |= {"quantities": True} if quantities else {}
        with self._told():
            self._study(study).add_trial(
                create_trial(
                    value=run.selection.value if run.selection else None,
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
        with self._told():
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
            with self._told():
                held.tell(mine, state=TrialState.PRUNED)

    def _beat(self, mine: optuna.Trial, ended: threading.Event) -> None:
        count = 0
        with contextlib.suppress(*BROKEN):  # whoever records the run finds the same, and says so
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

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say on one line, without its password, which storage could not be used."""
        try:
            yield
        except Damaged:
            raise
        except BROKEN as error:
            name = "in memory" if self._url is None else shown_storage(self._url)
            why = _why(error, self._url or "")
            raise Damaged(
                f"the ledger {name} cannot be used ({why}): make it readable and writable, or move it away, and its "
                "runs are made again, or name another storage."
            ) from None


def storage_at(file: str | Path) -> str:
    """The storage URL of a file, whatever characters its path has.

    Example:
        >>> storage_at("attacks.db")
        'sqlite:///attacks.db'
    """
    return URL.create("sqlite", database=str(file)).render_as_string()


def shown_storage(storage: str) -> str:
    """A storage URL as it may be shown: without password and options.

    Example:
        >>> shown_storage("postgresql://user:secret@host/db?sslpassword=secret")
        'postgresql://user:***@host/db'
    """
    url = _parsed(storage)
    if url is None:
        return printable(re.sub(r"^.*@", "***@", storage.partition("?")[0], flags=re.DOTALL))
    return printable(url.set(query={}).render_as_string(hide_password=True))


def _parsed(storage: str) -> URL | None:
    try:
        return make_url(storage)
    except (ArgumentError, ValueError):
        return None


def _why(error: BaseException, storage: str) -> str:
    """What the database said, without the statement and without secrets."""
    error = error.__cause__ if isinstance(error, OptunaError) and error.__cause__ else error
    text, url = reason(getattr(error, "orig", None) or error), _parsed(storage)
    secrets = [] if url is None else [url.password, *(str(v) for n, v in url.query.items() if SECRET.search(n))]
    for secret in filter(None, secrets):
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, "***")
    return (text.replace(storage, shown_storage(storage)) if storage else text).rstrip(".")


def _opened(storage: str | None) -> BaseStorage:
    if storage is None or not storage.startswith("sqlite"):
        return optuna.storages.get_storage(storage)
    # Other workers write too: wait for them instead of failing at once.
    return RDBStorage(storage, engine_kwargs={"connect_args": {"timeout": 120}})


def _record_of(attributes: dict[str, Any]) -> RecordedRun:
    run = checked(AttackRun, parse_json(attributes["run"]), "a run on record")
    hits = None
    if "hits" in attributes:
        width, content = attributes["width"], base64.b64decode(attributes["hits"], validate=True)
        if attributes.get("quantities"):
            hits = np.frombuffer(content, dtype="<f8").reshape(-1, width)
        else:
            hits = np.unpackbits(np.frombuffer(content, dtype=np.uint8).reshape(-1, -(-width // 8)), axis=1)
            hits = hits[:, :width].astype(bool)
    return RecordedRun(run, hits)


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
