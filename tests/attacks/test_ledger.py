"""The ledger is shared: a claim has one holder, a dead holder none, and a record reads as it was written."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from ledger_attacks import held_elsewhere
from made_reports import made_run

from hf_selfdestruct.attacks.suites.ledger import Ledger, RecordedRun, storage_at


@pytest.mark.parametrize("where", ["memory", "file"])
def test_record_reads_as_it_was_written(where, storage):
    ledger = Ledger(storage if where == "file" else None)
    hits = np.random.default_rng(0).random((3, 21)) < 0.5
    run = made_run(curve=((3.0, 0.5), (6.0, 0.75)), predictions="AAA=", found={"layer": 2}, desired_drop=0.1)
    ledger.record("study", "key", RecordedRun(run, hits))
    ledger.record("study", "other", RecordedRun(made_run(failed=True), None))
    found = (Ledger(storage) if where == "file" else ledger).recall("study", "key")
    assert found.run == run
    assert np.array_equal(found.hits, hits)
    assert ledger.recall("study", "other").run.status == "failed"
    assert ledger.recall("study", "nothing") is None
    assert ledger.recall("another study", "key") is None


@pytest.mark.parametrize("name", ["a%20b?c=d#e", "a.b {x} ü@:"])
def test_a_ledger_stands_where_its_path_says(tmp_path, name):
    (tmp_path / name).mkdir()
    Ledger(storage_at(tmp_path / name / "attacks.db")).record("study", "key", RecordedRun(made_run(), None))
    assert (tmp_path / name / "attacks.db").stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_claim_has_one_holder(storage):
    one, other = Ledger(storage), Ledger(storage)
    with one.claim("study") as first, other.claim("study") as second, other.claim("another") as elsewhere:
        assert (first, second, elsewhere) == (True, False, True)
    with other.claim("study") as again:
        assert again


def test_claim_ends_with_an_error(storage):
    def interrupted():
        with Ledger(storage).claim("study") as ours:
            assert ours
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Ledger(storage).claim("study") as again:
        assert again


def test_claim_of_a_living_process_is_respected(storage):
    """Its heartbeat tells, longer than the time after which silence would count as death."""
    ledger = Ledger(storage, grace=1.5)
    with held_elsewhere(storage, 1.5):
        for _ in range(4):
            with ledger.claim("study") as ours:
                assert not ours
            time.sleep(0.8)


def test_claim_of_a_killed_process_is_void_at_once(storage):
    with held_elsewhere(storage, 60) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Ledger(storage, grace=60).claim("study") as ours:
            assert ours


def test_claim_from_another_machine_is_void_after_silence(storage, monkeypatch):
    """Whether its process lives cannot be asked there; only that its heartbeat stands still can be seen."""
    ledger = Ledger(storage, grace=1.0)
    with held_elsewhere(storage, 600) as process:  # beats too rarely to be seen
        monkeypatch.setattr("hf_selfdestruct.attacks.suites.ledger._holder", lambda: f"elsewhere:{process.pid}")
        with ledger.claim("study") as ours:
            assert not ours
        time.sleep(1.2)
        with ledger.claim("study") as ours:
            assert ours
