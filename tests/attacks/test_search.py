"""The search: every run on record, none repeated, none forgotten, the choice by selection alone."""

import dataclasses

import numpy as np
import pytest
import torch
from ledger_attacks import Counting, Crash

from hf_selfdestruct.attacks import Trial
from hf_selfdestruct.attacks.attack import Outcome
from hf_selfdestruct.attacks.data import DesiredData
from hf_selfdestruct.attacks.methods.fine_tuning import FullFineTuning
from hf_selfdestruct.attacks.suites.ledger import Ledger
from hf_selfdestruct.attacks.suites.optimism import optimism
from hf_selfdestruct.attacks.suites.search import Search
from hf_selfdestruct.report.attack_run import Scores, summarise


def run_search(attack, target, data, ledger, **options):
    done = []
    seeds = tuple(range(options.get("seeds", 3)))
    search = Search(attack, target, data, 20, seeds, options.get("study", "study"))
    search.work(ledger, done.append)
    runs = search.recall(ledger)
    assert len(done) >= len(runs) == search.runs()
    return runs


def timeless(runs):
    return [dataclasses.replace(run, seconds=0.0) for run in runs]


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


def at_chance(**aucs):
    """All settings predict the commonest label; whoever has learned something ranks better, and may lose more."""
    return {name: Outcome(*[Scores(0.5, auc, 0.5, loss=auc)] * 2, steps=7) for name, auc in aucs.items()}


def test_settings_of_one_accuracy_are_told_apart_by_auc(target, readable):
    space = at_chance(a=0.5, b=0.56, c=0.54) | {"wrong": Outcome(*[Scores(0.4, 0.9, 0.4, 0.1)] * 2, steps=7)}
    runs = run_search(Counting(space), target, readable, Ledger())
    assert {r.settings["choice"] for r in runs if r.chosen} == {"b"}


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


@pytest.mark.parametrize("error", [FloatingPointError("loss is nan"), Crash("singular")])
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


def test_a_lack_of_memory_is_not_put_on_record(target, readable, storage):
    with pytest.raises(torch.OutOfMemoryError):
        run_search(Counting({"a": 0.5, "b": torch.OutOfMemoryError("x")}), target, readable, Ledger(storage))
    again = Counting({"a": 0.5, "b": 0.7})
    runs = run_search(again, target, readable, Ledger(storage))
    assert [choice for choice, *_ in again.calls] == ["b", "b", "b"], "a is on record, b is not"
    assert all(run.status == "ok" for run in runs)


def test_all_failed_is_all_failed(target, readable):
    runs = run_search(
        Counting({"a": FloatingPointError("x"), "b": FloatingPointError("y")}), target, readable, Ledger()
    )
    assert {r.status for r in runs} == {"failed"}
    assert [r.chosen for r in runs] == [True, False, True, True]


def test_mistakes_of_the_attack_are_not_failures_of_the_model(target, readable):
    with pytest.raises(ZeroDivisionError):
        run_search(Counting({"a": ZeroDivisionError("bug")}), target, readable, Ledger())


# Rungs


class Racing(Counting):
    """Reaches half of what it will reach at a rung, in the order given by ``early``."""

    def __init__(self, space, early):
        super().__init__(space)
        self.early, self.stopped = early, []

    def rung(self, settings):
        return 3

    def cost(self, settings):
        return 9

    def run(self, trial):
        if trial.until is None:
            return super().run(trial)
        self.stopped.append((trial.settings["choice"], trial.seed, trial.until))
        return dataclasses.replace(Counting(self.early).run(trial), test=None, steps=trial.until)


def test_worse_settings_are_given_up_at_the_rung(target, readable):
    """Also one that would have been best in the end; that is the price."""
    names = "abcdefgh"
    early = dict(zip(names, (0.5, 0.6, 0.4, 0.7, 0.55, 0.1, 0.2, 0.3), strict=True))
    late = {**dict.fromkeys(names, 0.5), "c": 0.9, "b": 0.8, "d": 0.6}
    attack = Racing(late, early)
    runs = run_search(attack, target, readable, Ledger())
    assert attack.stopped == [(name, 0, 3) for name in names]
    assert [call[:2] for call in attack.calls] == [("b", 0), ("d", 0), ("b", 1), ("b", 2)]
    assert {r.settings["choice"] for r in runs if r.status == "pruned"} == set("acefgh")
    assert all(r.test is None and r.steps == 3 and not r.chosen for r in runs if r.status == "pruned")
    search = Search(attack, target, readable, 20, (0, 1, 2), "s")
    assert (search.runs(), search.cost()) == (10, 8 * 3 + 4 * 9)


def test_rung_where_all_are_at_chance_keeps_those_that_rank_best(target, readable):
    early = at_chance(a=0.5, b=0.51, c=0.5, d=0.53, e=0.5, f=0.5, g=0.5, h=0.5)
    attack = Racing(dict.fromkeys(early, 0.5), early)
    run_search(attack, target, readable, Ledger())
    assert [call[:2] for call in attack.calls] == [("b", 0), ("d", 0), ("b", 1), ("b", 2)]


@pytest.mark.parametrize("dies_at", range(4))
def test_race_killed_and_run_again_is_the_same(target, readable, storage, dies_at):
    late, early = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8, "e": 0.1}, {"a": 0.9, "b": 0.1, "c": 0.8, "d": 0.2, "e": 0.3}
    whole = run_search(Racing(late, early), target, readable, Ledger())
    dying = Racing(late, early)
    dying.dies_at = dies_at
    with pytest.raises(KeyboardInterrupt):
        run_search(dying, target, readable, Ledger(storage))
    rest = Racing(late, early)
    assert timeless(run_search(rest, target, readable, Ledger(storage))) == timeless(whole)
    assert rest.stopped == []


@pytest.mark.parametrize("more", [{}, {"unfreezing": 0.5, "average": 0.5}, {"schedule": "cosine", "prelude": 3}])
def test_short_run_is_a_whole_run_of_so_many_steps(target, readable, more):
    """With dropout, on the same rows in the same order; its rate has fallen to 0 at its end."""
    data = dataclasses.replace(readable, desired=DesiredData(readable.train, readable.test))
    long = FullFineTuning(learning_rates=(3e-3,), steps=(20,), looks=4, prune=True, **more)
    twin = dataclasses.replace(long, steps=(5,), looks=1)
    (settings,), (same,) = long.space(), twin.space()
    short = long.run(Trial(target, data, examples=60, seed=0, settings=settings, until=long.rung(settings)))
    whole = twin.run(Trial(target, data, examples=60, seed=0, settings=same))
    assert short.test is None
    assert long.rung(settings) == 5
    assert (short.steps, short.curve, short.selection) == (whole.steps, whole.curve, whole.selection)
    assert np.array_equal(short.hits, whole.hits)


def test_what_was_kept_says_how_far_it_came_in_its_short_run(target, readable):
    early, late = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8, "e": 0.1}, {"a": 0.9, "b": 0.1, "c": 0.8, "d": 0.2, "e": 0.3}
    runs = run_search(Racing(late, early), target, readable, Ledger())
    first = {run.settings["choice"]: run for run in runs if run.seed == 0}
    assert {name: run.rung for name, run in first.items()} == {"c": 0.7, "d": 0.8, "a": None, "b": None, "e": None}
    assert all(run.rung is None for run in runs if run.seed)
    assert all(run.rung is None for run in run_search(Counting(late), target, readable, Ledger()))


def test_of_looks_of_one_accuracy_the_one_that_ranks_best_counts(target, noise):
    """At a rate that hardly moves the model, every look labels the rows alike; the twin stops at each."""
    common = {"learning_rates": (1e-7,), "schedule": "constant", "warmup": 0.0}

    def outcome(steps, looks):
        attack = FullFineTuning(steps=(steps,), looks=looks, **common)
        return attack.run(Trial(target, noise, examples=60, seed=0, settings=attack.space()[0]))

    merits = [outcome(steps, 1).selection.merit for steps in (4, 8, 12)]
    assert len({accuracy for accuracy, _ in merits}) == 1
    assert merits[0] < max(merits)
    assert outcome(12, 3).selection.merit == max(merits)


# Optimism


def test_optimism_is_what_the_best_of_many_equals_owes_to_luck():
    """Settings that are all equally good: the best one's surplus is all luck, and is taken away."""
    generator = np.random.default_rng(0)
    surplus, left = [], []
    for _ in range(60):
        hits = generator.random((30, 300)) < 0.6
        best = hits.mean(axis=1).max()
        surplus.append(best - 0.6)
        left.append(best - optimism([hits[:10], hits[10:]]) - 0.6)
    assert np.mean(surplus) > 0.05
    assert abs(np.mean(left)) < 0.01


def test_one_setting_has_no_optimism_and_a_clear_winner_little():
    generator = np.random.default_rng(0)
    assert optimism([generator.random((1, 300)) < 0.6]) == 0.0
    assert optimism([]) == 0.0
    clear = np.concatenate([generator.random((1, 300)) < 0.9, generator.random((9, 300)) < 0.5])
    assert optimism([clear]) < 0.01


def test_seeds_that_were_not_searched_owe_nothing_to_the_search(target, readable):
    """The first seed's is the best of four settings, each later one's the best of its own two looks."""
    generator = np.random.default_rng(0)
    seen = {name: generator.random((2, 100)) < 0.6 for name in "abcd"}
    outcomes = {
        name: Outcome(*[Scores(hits.mean(axis=1).max(), 0.5, 0.5, 0.5)] * 2, steps=1, hits=hits)
        for name, hits in seen.items()
    }
    runs = run_search(Counting(outcomes), target, readable, Ledger())
    first, *later = [run for run in runs if run.chosen]
    assert first.optimism == optimism([*seen.values()]) > 0
    assert {run.optimism for run in later} == {optimism([seen[first.settings["choice"]]])}
    assert later[0].optimism < first.optimism
    left = first.selection.accuracy - (first.optimism + 2 * later[0].optimism) / 3
    assert summarise([first, *later]).selection == pytest.approx(left)


def test_cost_is_the_steps_that_are_made(target, data_of, save_model, monkeypatch, tmp_path):
    """Benign steps before the first one are made in a short run too."""
    made = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *given: made.append(0) or step(self, *given))
    benign = data_of("readable")
    data = dataclasses.replace(benign, desired=DesiredData(benign.train, benign.test))
    for prelude in (0, 3):
        attack = FullFineTuning(
            learning_rates=(1e-4, 1e-3, 1e-5, 3e-4), steps=(8,), looks=4, prune=True, prelude=prelude
        )
        made.clear()
        search = Search(attack, target, data, 60, (0, 1), "study")
        search.work(Ledger(), lambda run: None)
        assert len(made) == search.cost() == 4 * (2 + prelude) + 3 * (8 + prelude)
