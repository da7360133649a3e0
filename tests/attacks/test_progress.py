"""The bar of a job: its time left starts from the guess, follows what is seen, and runs down between two results."""

import io
import re
import time

import pytest
from ledger_attacks import Counting
from rich.console import Console

from hf_selfdestruct.attacks import FullFineTuning, HeadOnly, Target
from hf_selfdestruct.attacks.suites.progress import Bar, lasting, progress_on, weights
from hf_selfdestruct.attacks.suites.search import Search


@pytest.fixture
def bar_of(target, readable):
    """A bar of two searches of weight 1, its searches, and what it shows."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    searches = [Search(Counting({"a": 0.5}), target, readable, 20, (0,), study) for study in ("one", "other")]

    def shown():
        console.file.truncate(0)
        progress.refresh()
        found = re.findall(r"(\d+):(\d\d) left", console.file.getvalue())
        return 60 * int(found[-1][0]) + int(found[-1][1])

    with progress_on(console) as progress:
        yield lambda seconds: (Bar("mine", {"one": 1.0, "other": 1.0}, 0.0, seconds, progress), searches, shown)


def test_time_left_starts_from_the_guess_and_runs_down(bar_of):
    _, _, shown = bar_of(300.0)
    assert shown() in (599, 600)
    time.sleep(1.1)
    assert shown() in (598, 599)


def test_time_left_follows_what_is_seen(bar_of):
    bar, (one, other), shown = bar_of(300.0)
    bar.advance(one, 1.0, "one")
    assert 40 < shown() < 60, "the guess was for 300 seconds: it counts as a tenth of all work"
    bar.advance(other, 0.5, "other")
    assert shown() < 30
    bar.advance(other, 1.0, "other")
    assert shown() == 0


def test_what_was_on_record_counts_neither_as_work_nor_as_speed(bar_of, target, readable):
    bar, _, shown = bar_of(300.0)
    bar.advance(Search(Counting({"a": 0.5}), target, readable, 20, (0,), "before"), 1.0, "before")
    assert shown() in (599, 600)


def test_rows_are_encoded_once_for_each_model_and_each_seed_of_random_weights(folder, readable):
    def weighed(random, *studies):
        target = Target("scratch" if random else "base", folder, random=random)
        found = weights(Search(HeadOnly(), target, readable, 20, (0, 1, 2), study) for study in studies)
        return [found[study] for study in studies]

    first, *others = weighed(False, "a", "b", "c")
    again, *_ = weighed(True, "a", "b")
    fits = others[0]
    assert first > fits == others[1]
    assert (again - fits) / (first - fits) == pytest.approx(3 / 2), "three seeds; once more with the published head"


def test_more_steps_and_looks_weigh_more(target, readable):
    def weighed(**options):
        attack = FullFineTuning(**{"learning_rates": (1e-3,), "steps": (40,), "looks": 1, **options})
        return weights([Search(attack, target, readable, 20, (0, 1), "study")])["study"]

    assert weighed() > 2 * 40
    assert weighed(looks=4) > weighed()
    assert weighed(steps=(80,)) - weighed() == 2 * 40
    rates = (1e-2, 1e-3, 1e-4, 1e-5)
    pruned = weighed(looks=4, learning_rates=rates, prune=True)
    assert weighed(looks=4, learning_rates=rates[:2]) < pruned < weighed(looks=4, learning_rates=rates)


def test_times_are_told_in_seconds_or_minutes():
    assert (lasting(40.2), lasting(99.0), lasting(300.0)) == ("40 seconds", "99 seconds", "5 minutes")
