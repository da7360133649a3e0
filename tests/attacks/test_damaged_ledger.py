"""A ledger that cannot be used is named on one line, without its password; a failed run's reason is short."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from made_reports import made_run

from hf_selfdestruct.attacks.suites.ledger import Ledger, RecordedRun, shown_storage
from hf_selfdestruct.attacks.suites.search import MOST_TOLD, short_reason


def used(storage):
    """Everything that is done with a ledger."""
    ledger = Ledger(storage)
    found = ledger.recall("study", "key")
    with ledger.claim("study"):
        ledger.record("study", "other", RecordedRun(made_run(), None))
    return found


@pytest.fixture
def file(storage):
    Ledger(storage).record("study", "key", RecordedRun(made_run(), np.ones((1, 9), dtype=bool)))
    assert used(storage)
    return Path(storage.removeprefix("sqlite:///"))


def attribute(name, text):
    def act(file):
        with sqlite3.connect(file) as base:
            base.execute("update trial_user_attributes set value_json = ? where key = ?", (text, name))

    return act


def statement(sql):
    def act(file):
        with sqlite3.connect(file) as base:
            base.execute(sql)

    return act


def other_schema(file):
    file.unlink()
    statement("create table studies (x int)")(file)


DAMAGE = {
    "garbage": lambda file: file.write_bytes(os.urandom(4096)),
    "text": lambda file: file.write_text("not a ledger\n" * 100),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:20_000]),
    "another schema": other_schema,
    "of a later version": statement("update alembic_version set version_num = 'v9.9.9.a'"),
    "an unknown state": statement("update trials set state = 'LOST'"),
    "an attribute cut off": attribute("run", '"{'),
    "a run of another kind": attribute("run", '"[]"'),
    "a run with an unknown field": attribute("run", '"{\\"x\\": 1}"'),
    "a run nested for ever": attribute("run", '"' + "[" * 9000 + '"'),
    "hits that are none": attribute("hits", '"!"'),
    "a width that does not fit": attribute("width", "70"),
    "a width of text": attribute("width", '"\\u001b[2J"'),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_ledger_is_named_on_one_line(file, storage, kind):
    DAMAGE[kind](file)
    with pytest.raises(ValueError, match=r"cannot be used .*: make it .*, or move it away, and its runs") as found:
        used(storage)
    assert str(found.value).startswith(f"the ledger {storage} ")
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 800


def test_a_ledger_that_cannot_be_written_is_told_of(file):
    with pytest.raises(ValueError, match=r"cannot be used \(attempt to write a readonly database\): make it readable"):
        used(f"sqlite:///file:{file}?mode=ro&uri=true")


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql://user:s3cr%40t@127.0.0.1:1/db?connect_timeout=1",
        "mysql+pymysql://user:s3cr%40t@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=me&password=s3cr%40t",
        "postgresql//user:s3cr%40t@host/db",
        "postgresql://user:s3cr%40t@host:port/db",
        "redis://:s3cr%40t@host/0",
        "nonsense://user:s3cr%40t@host/db",
    ],
)
def test_a_password_is_never_shown(storage):
    assert "s3cr" not in shown_storage(storage)
    with pytest.raises(ValueError, match=r"the ledger .* cannot be used") as found:
        Ledger(storage)
    assert "s3cr" not in str(found.value)
    assert "@t" not in str(found.value)
    assert found.value.__suppress_context__


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("singular", "ValueError: singular"),
        ("no /home/me/data/rows.jsonl there", "ValueError: no rows.jsonl there"),
        ("'/home/my self/a.py', line 3", "ValueError: 'a.py', line 3"),
        ("C:\\Users\\me\\a.py and ~/b/c.txt", "ValueError: a.py and c.txt"),
        ("file:///home/me/x.db", "ValueError: file:x.db"),
        ("1/2 of a/b, 3 / 4", "ValueError: 1/2 of a/b, 3 / 4"),
        ("one\n  two\x1b[2J", "ValueError: one two\\x1b[2J"),
    ],
)
def test_a_failed_run_has_a_short_reason_without_this_machines_paths(said, told):
    assert short_reason(ValueError(said)) == told


def test_a_long_reason_is_cut():
    assert len(short_reason(ValueError("x" * 5000))) == MOST_TOLD
