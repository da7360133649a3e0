"""Many workers, killed workers, one report: whoever does the work, the numbers are the same."""

from __future__ import annotations

import collections
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import forked
import pytest
from ledger_attacks import Counting, Meeting, held_elsewhere
from transformers import default_data_collator

from hf_selfdestruct.attacks import AttackSuite, Entry, Target
from hf_selfdestruct.attacks.suites.ledger import Ledger
from hf_selfdestruct.attacks.suites.runner import work
from hf_selfdestruct.attacks.suites.search import Search

WORKER = Path(__file__).with_name("working.py")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(model, storage, report, *words):
    words = [model, storage, str(report), *words]
    output = report.with_suffix(".output")
    output.mkdir()
    process = forked.start(
        *(forked.run_script, str(WORKER), words), output=output, folder=report.parent, variables=ONE_THREAD
    )
    process.errors = output / "stderr"
    return process


def finish(*processes):
    for process in processes:
        process.join(1200)
        assert process.exitcode == 0, process.errors.read_text()[-2000:]


def recorded(storage):
    """Number of runs on record."""
    with sqlite3.connect(storage.removeprefix("sqlite:///")) as base:
        (count,) = base.execute("select count(*) from trials where state in ('COMPLETE', 'FAIL')").fetchone()
    return count


def twice(storage):
    """Runs on record more than once."""
    with sqlite3.connect(storage.removeprefix("sqlite:///")) as base:
        keys = base.execute(
            "select study_id, value_json from trial_user_attributes join trials using(trial_id) where key = 'key'"
        ).fetchall()
    return [key for key, count in collections.Counter(keys).items() if count > 1]


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """The report of one undisturbed worker."""
    place = tmp_path_factory.mktemp("alone")
    finish(start(folder, f"sqlite:///{place / 'a.db'}", place / "report.json"))
    return (place / "report.json").read_text()


@pytest.fixture
def storage(tmp_path):
    url = f"sqlite:///{tmp_path / 'attacks.db'}"
    Ledger(url)
    return url


def killed_in_the_middle(process, storage, runs):
    """Kill -9 as soon as so many runs are on record."""
    end = time.monotonic() + 600
    while recorded(storage) < runs:
        assert process.exitcode is None, process.errors.read_text()[-2000:]
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("runs", [1, 20])
def test_killed_and_run_again_gives_the_same_report(folder, alone, storage, tmp_path, runs):
    killed_in_the_middle(start(folder, storage, tmp_path / "no.json"), storage, runs)
    assert not (tmp_path / "no.json").exists()
    before = recorded(storage)
    finish(start(folder, storage, tmp_path / "report.json"))
    assert (tmp_path / "report.json").read_text() == alone
    assert recorded(storage) > before
    assert not twice(storage), "nothing is run again"


def test_two_workers_share_one_storage_and_one_is_killed(folder, alone, storage, tmp_path):
    one = start(folder, storage, tmp_path / "one.json")
    other = start(folder, storage, tmp_path / "other.json")
    killed_in_the_middle(one, storage, 10)
    finish(other)
    assert (tmp_path / "other.json").read_text() == alone
    assert not twice(storage)


def test_two_workers_write_the_same_report(folder, alone, storage, tmp_path):
    pair = [start(folder, storage, tmp_path / f"{name}.json") for name in ("one", "other")]
    finish(*pair)
    assert [(tmp_path / f"{name}.json").read_text() for name in ("one", "other")] == [alone, alone]
    assert not twice(storage)


def test_workers_of_one_command_share_the_work(folder, alone, storage, tmp_path):
    finish(start(folder, storage, tmp_path / "report.json", "2"))
    assert (tmp_path / "report.json").read_text() == alone
    with sqlite3.connect(storage.removeprefix("sqlite:///")) as base:
        names = [name for (name,) in base.execute("select study_name from studies")]
    assert not twice(storage)
    assert len({name.rpartition("/")[0] for name in names}) == len(names), "both name the same search alike"


def test_workers_of_one_command_work_at_the_same_time(folder, storage, task_of, tmp_path):
    met = tmp_path / "met"
    met.mkdir()
    suite = AttackSuite("met", 1, (Entry(Meeting(met), (None,)),), seeds=1, few_seeds=0, more=None, null=False)
    report = suite.run(
        [Target("base", folder), Target("hardened", folder)],
        [task_of(rows=40)],
        columns=("input_ids", "attention_mask"),
        collate=default_data_collator,
        storage=storage,
        workers=2,
        progress=False,
    )
    assert [run.status for run in report.runs if run.attack == "meeting"] == ["ok", "ok"]
    assert len([*met.iterdir()]) == 2


def test_work_whose_holder_dies_later_is_taken_over(target, readable, storage):
    """It was asked for while the holder still lived."""
    search = Search(Counting({"a": 0.5}), target, readable, 20, (0, 1), "study")
    with held_elsewhere(storage, 60) as process:
        worker = threading.Thread(target=work, args=([search], Ledger(storage)), daemon=True)
        worker.start()
        time.sleep(1.5)
        assert worker.is_alive()
        assert search.attack.calls == []
        process.kill()
        process.wait()
        worker.join(timeout=30)
        assert not worker.is_alive()
    assert len(search.recall(Ledger(storage))) == 2


def test_workers_without_a_storage_are_refused(folder, task_of, collate):
    suite = AttackSuite("mine", 1, (Entry(Counting({"a": 0.5}), (None,)),), more=None)
    for workers, storage in ((2, None), (0, None)):
        with pytest.raises(ValueError, match="need a storage"):
            suite.run(
                [Target("hardened", folder)],
                [task_of(rows=40)],
                columns=("input_ids", "attention_mask"),
                collate=collate,
                storage=storage,
                workers=workers,
                progress=False,
            )
