"""The search: every run on record, none repeated, none forgotten, the choice by selection alone."""

import dataclasses

import pytest
from ledger_attacks import Counting, Crash

from hf_selfdestruct.attacks.search import Ledger, search


def run_search(attack, target, data, ledger, **options):
    done = []
    usual = {"examples": 20, "seeds": 3, "study": "study", "ledger": ledger, "done": done.append}
    runs = search(attack, target, data, **{**usual, **options})
    assert len(done) == len(runs)
    return runs


def timeless(runs):
    return [dataclasses.replace(run, seconds=0.0) for run in runs]


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'attacks.db'}"


def test_every_setting_once_then_the_best_again(target, readable):
    attack = Counting({"a": 0.5, "b": 0.7, "c": 0.6})
    runs = run_search(attack, target, readable, Ledger())
    expected = [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("b", 2)]
    assert attack.calls == [(s, seed, 20, "hardened") for s, seed in expected]
    assert [(r.settings["choice"], r.seed) for r in runs] == expected
    assert [r.chosen for r in runs] == [False, True, False, True, True]
    assert {(r.task, r.attack, r.role, r.examples, r.status) for r in runs} == {
        ("toy", "counting", "hardened", 20, "ok")
    }


def test_choice_is_by_selection_and_not_by_test(target, readable):
    attack = Counting({"a": 0.7, "b": 0.5}, test={"a": 0.5, "b": 0.9})
    runs = run_search(attack, target, readable, Ledger())
    assert {r.settings["choice"] for r in runs if r.chosen} == {"a"}
    assert all(r.test.accuracy == 0.5 for r in runs if r.chosen)


def test_first_of_equals_is_chosen(target, readable):
    runs = run_search(Counting({"likely": 0.6, "unlikely": 0.6}), target, readable, Ledger())
    assert {r.settings["choice"] for r in runs if r.chosen} == {"likely"}


def test_runs_on_record_are_not_run_again(target, readable, storage):
    first = Counting({"a": 0.5, "b": 0.7})
    runs = run_search(first, target, readable, Ledger(storage))
    again = Counting({"a": 0.5, "b": 0.7})
    assert run_search(again, target, readable, Ledger(storage)) == runs
    assert (len(first.calls), again.calls) == (4, [])


def test_other_studies_are_not_on_record(target, readable, storage):
    run_search(Counting({"a": 0.5}), target, readable, Ledger(storage))
    other = Counting({"a": 0.5})
    run_search(other, target, readable, Ledger(storage), study="other")
    assert len(other.calls) == 3


def test_more_seeds_run_only_what_is_new(target, readable, storage):
    run_search(Counting({"a": 0.5, "b": 0.7}), target, readable, Ledger(storage), seeds=2)
    more = Counting({"a": 0.5, "b": 0.7})
    runs = run_search(more, target, readable, Ledger(storage), seeds=4)
    assert [call[:2] for call in more.calls] == [("b", 2), ("b", 3)]
    assert len(runs) == 5


def test_wider_space_runs_only_what_is_new(target, readable, storage):
    """A suite that searches one more setting takes the runs of the narrower one over."""
    run_search(Counting({"a": 0.5, "b": 0.7}), target, readable, Ledger(storage))
    wider = Counting({"a": 0.5, "b": 0.7, "c": 0.6})
    runs = run_search(wider, target, readable, Ledger(storage))
    assert [call[:2] for call in wider.calls] == [("c", 0)]
    assert len(runs) == 5


@pytest.mark.parametrize("dies_at", range(4))
def test_killed_search_goes_on_where_it_stopped(target, readable, storage, dies_at):
    space = {"a": 0.5, "b": 0.7}
    whole = run_search(Counting(space), target, readable, Ledger())
    with pytest.raises(KeyboardInterrupt):
        run_search(Counting(space, dies_at=dies_at), target, readable, Ledger(storage))
    rest = Counting(space)
    resumed = run_search(rest, target, readable, Ledger(storage))
    assert timeless(resumed) == timeless(whole)
    assert len(rest.calls) == 4 - dies_at


@pytest.mark.parametrize("error", [FloatingPointError("loss is nan"), Crash("out of memory")])
def test_failed_run_is_failed_and_never_chosen(target, readable, storage, error):
    attack = Counting({"a": 0.5, "bad": error, "c": 0.4})
    runs = run_search(attack, target, readable, Ledger(storage))
    (failed,) = [r for r in runs if r.status == "failed"]
    assert (failed.settings, failed.selection, failed.test, failed.chosen) == ({"choice": "bad"}, None, None, False)
    assert str(error) in failed.error
    assert {r.settings["choice"] for r in runs if r.chosen} == {"a"}
    again = Counting({"a": 0.5, "bad": error, "c": 0.4})
    assert run_search(again, target, readable, Ledger(storage)) == runs
    assert again.calls == [], "failures are on record too"


def test_all_failed_is_all_failed(target, readable):
    runs = run_search(
        Counting({"a": FloatingPointError("x"), "b": FloatingPointError("y")}), target, readable, Ledger()
    )
    assert {r.status for r in runs} == {"failed"}
    assert [r.chosen for r in runs] == [True, False, True, True]


def test_mistakes_of_the_attack_are_not_failures_of_the_model(target, readable):
    with pytest.raises(ZeroDivisionError):
        run_search(Counting({"a": ZeroDivisionError("bug")}), target, readable, Ledger())
