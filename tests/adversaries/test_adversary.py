"""The adversary: its fields are checked, and fine-tunings are drawn from it by key."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from peft import LoraConfig
from scipy.stats import ks_2samp

from hf_selfdestruct.adversaries.adversary import Adversary, FineTuning
from hf_selfdestruct.adversaries.optimizers import SGD, Adam, AdamW
from hf_selfdestruct.adversaries.ranges import BetaShare, Range, Schedule

WIDE = Adversary(
    optimizer=(SGD(momentum=0.9), AdamW()),
    learning_rate=Range(1e-5, 1e-2),
    steps=Range(2, 9),
    batch_size=(4, 8, 16),
    examples=Range(10, 1000),
    head=("learned", "random"),
    trainable=("all", "head", "last_2", "lora", LoraConfig(r=2)),
    dropout=True,
)


def drawn(adversary: Adversary, count: int, *key) -> list[FineTuning]:
    return [adversary.draw(0, "gender", *key, i) for i in range(count)]


# Drawing


def test_plain_fields_are_drawn_as_they_are() -> None:
    adversary = Adversary(SGD(), 2e-4, True, 3, 5, 7, "random", "all", 4, True)
    for step in (0, 500):
        fine_tuning = adversary.draw(step, "any", step)
        for item in dataclasses.fields(FineTuning):
            assert getattr(fine_tuning, item.name) == getattr(adversary, item.name), item.name


def test_the_key_alone_decides() -> None:
    torch.manual_seed(1)
    first, state = drawn(WIDE, 50), torch.random.get_rng_state()
    torch.manual_seed(2)
    assert drawn(WIDE, 50) == first
    assert [WIDE.draw(1000, "gender", i) for i in range(50)] == first  # nor does the outer step
    assert drawn(dataclasses.replace(WIDE, weight=3.0), 50) == first
    assert WIDE.draw(0, "age", 0) != first[0]
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_fields_values_do_not_depend_on_another_field() -> None:
    other = dataclasses.replace(WIDE, optimizer=Adam(), steps=4)
    for one, two in zip(drawn(WIDE, 20), drawn(other, 20), strict=True):
        assert dataclasses.replace(one, optimizer=Adam(), steps=4) == two


def test_rates_are_log_uniform() -> None:
    rates = sorted(fine_tuning.learning_rate for fine_tuning in drawn(WIDE, 4000))
    assert len({*rates}) == len(rates)
    assert rates[0] >= 1e-5
    assert rates[-1] <= 1e-2
    places = [(math.log10(rate) + 5) / 3 for rate in rates]
    distance = max(abs(place - (i + 0.5) / len(places)) for i, place in enumerate(places))
    assert distance < 1.63 / len(places) ** 0.5  # Kolmogorov and Smirnov, at one in a hundred


def test_whole_numbers_have_both_ends_in_full_and_grow_rarer() -> None:
    counts = Counter(fine_tuning.steps for fine_tuning in drawn(WIDE, 4000))
    assert {*counts} == {2, 3, 4, 5, 6, 7, 8, 9}
    assert all(type(steps) is int for steps in counts)
    for steps in range(2, 10):
        expected = math.log((steps + 0.5) / (steps - 0.5)) / math.log(9.5 / 1.5)
        assert counts[steps] / 4000 == pytest.approx(expected, abs=0.03), steps


@pytest.mark.parametrize("span", [Range(1, 2), Range(3, 40), Range(1e-5, 1e-2), Range(5, 5), Range(0.3, 0.3)])
def test_a_range_never_leaves_its_ends(span) -> None:
    ends = span.draw(0.0), span.draw(math.nextafter(1.0, 0.0))
    assert ends == pytest.approx((span.low, span.high), rel=1e-12)
    values = [span.draw(i / 100) for i in range(101)]
    assert values == sorted(values)
    assert all(span.low <= value <= span.high for value in values)


def test_sets_are_uniform_and_independent_of_each_other() -> None:
    fine_tunings = drawn(WIDE, 6000)
    for name, size in (("optimizer", 2), ("batch_size", 3), ("head", 2)):
        counts = Counter(repr(getattr(fine_tuning, name)) for fine_tuning in fine_tunings)
        assert len(counts) == size
        assert all(n / 6000 == pytest.approx(1 / size, abs=0.03) for n in counts.values()), name
    adapted = sum(isinstance(one.trainable, LoraConfig) for one in fine_tunings)
    assert adapted / 6000 == pytest.approx(0.2, 0.1)
    pairs = Counter((fine_tuning.batch_size, fine_tuning.head) for fine_tuning in fine_tunings)
    assert len(pairs) == 6
    assert all(n / 6000 == pytest.approx(1 / 6, abs=0.03) for n in pairs.values())


def test_a_schedule_steps_with_the_outer_step() -> None:
    adversary = Adversary(steps=Schedule(1, 4, every=10), prelude=Schedule(0, 2))
    steps = [adversary.draw(step, "key").steps for step in range(60)]
    assert steps == [1] * 10 + [2] * 10 + [3] * 10 + [4] * 30
    assert [adversary.draw(step, step).prelude for step in (0, 99, 100, 199, 200, 9999)] == [0, 0, 1, 1, 2, 2]


def test_a_share_of_the_steps_is_benign() -> None:
    """As many as a generator of Beta(6, 3) draws, rounded down; the rest of the K steps is blocked."""
    adversary = Adversary(steps=64, prelude=BetaShare(6, 3))
    found = [one.prelude for one in drawn(adversary, 3000)]
    assert {one.prelude + one.steps for one in drawn(adversary, 200)} == {64}
    expected = np.floor(np.random.default_rng(0).beta(6, 3, 3000) * 64)
    assert ks_2samp(found, expected).pvalue > 0.01
    assert {adversary.draw(0, i, healed=True).steps for i in range(20)} == {64}
    mixed = dataclasses.replace(adversary, prelude=(0, 0, BetaShare(6, 3)))
    assert sum(one.prelude > 0 for one in drawn(mixed, 3000)) / 3000 == pytest.approx(1 / 3, abs=0.03)
    assert (BetaShare(6, 3).of(0, 0.5), BetaShare(6, 3).of(1, 0.5), BetaShare(6, 3).of(8, 1.0)) == (0, 0, 7)


def test_options_are_all_that_can_be_met() -> None:
    assert WIDE.options("batch_size") == (4, 8, 16)
    assert WIDE.options("steps") == (2, 9)
    assert Adversary(steps=Schedule(1, 4)).options("steps") == (1, 4)
    assert Adversary(trainable="head").options("trainable") == ("head",)


# Mistakes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "new"}, "head must be one of learned, random, keep, probe; got 'new'"),
        ({"head": ("learned", "new")}, "head must .* got 'new'"),
        ({"head": ["learned"]}, r"head must .* got \['learned'\]"),
        ({"trainable": "adapters"}, "trainable must be all, head, last_n, lora or a peft.LoraConfig; got 'adapters'"),
        ({"trainable": "last_0"}, "trainable must .* got 'last_0'"),
        ({"trainable": ("all", None)}, "trainable must .* got None"),
        ({"steps": -1}, "steps must be a whole number of at least 0; got -1"),
        ({"steps": None}, "steps must .* got None"),
        ({"steps": True}, "steps must .* got True"),
        ({"steps": "many"}, "steps must .* got 'many'"),
        ({"steps": math.nan}, "steps must .* got nan"),
        ({"steps": 4.0}, "steps must .* got 4.0"),
        ({"steps": (2, 2.5)}, "steps must .* got 2.5"),
        ({"steps": [2, 3]}, r"steps must .* got \[2, 3\]"),
        ({"steps": Range(1.0, 8.0)}, "steps must .* got 1.0"),  # else 3.7 steps are drawn from it
        ({"steps": Range(1, 8.5)}, "steps must .* got 8.5"),
        ({"prelude": -2}, "prelude must be a whole number of at least 0"),
        ({"prelude": 2, "trainable": "head"}, "prelude trains all weights.* got trainable='head'"),
        ({"prelude": (0, 2), "trainable": ("all", "lora")}, "prelude trains all weights.* got trainable='lora'"),
        ({"prelude": 1, "trainable": LoraConfig()}, "prelude trains all weights.* got trainable='LoRA"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": Schedule(0, 4)}, "batch_size must .* got 0"),
        ({"examples": 0}, "examples must be a whole number of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate and weight must be positive numbers; got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate .* got nan"),
        ({"learning_rate": math.inf}, "learning_rate .* got inf"),
        ({"learning_rate": "3e-4"}, "learning_rate .* got '3e-4'"),
        ({"learning_rate": (1e-3, -1e-3)}, "learning_rate .* got -0.001"),
        ({"weight": 0.0}, "weight must be positive numbers; got 0.0"),
        ({"optimizer": "adam"}, "optimizer must be an InnerOptimizer, such as Adam.*; got 'adam'"),
        ({"optimizer": (Adam(), torch.optim.Adam)}, "optimizer must .* got <class 'torch.optim"),
        ({"learning_rate": Range(1e-4, 1e-3), "learns_rate": True}, "learned rate .* got learning_rate=Range"),
        ({"learning_rate": (1e-4, 1e-3), "learns_rate": True}, "learned rate .* got learning_rate="),
        ({"optimizer": ()}, "optimizer is empty"),
        ({"steps": ()}, "steps is empty"),
    ],
)
def test_mistakes(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        Adversary(**fields)


@pytest.mark.parametrize("ends", [(0, 1), (-1.0, 1.0), (2, 1), (1.0, math.inf), (math.nan, 1.0), (1.0, math.nan)])
def test_mistaken_ranges(ends) -> None:
    with pytest.raises(ValueError, match="a Range needs 0 < low <= high; got"):
        Range(*ends)


@pytest.mark.parametrize("fields", [(-1, 3), (3, 2), (1, 3, 0)])
def test_mistaken_schedules(fields) -> None:
    with pytest.raises(ValueError, match="a Schedule needs 0 <= first <= last and every >= 1; got"):
        Schedule(*fields)


@pytest.mark.parametrize("field", [{"examples": None}, {"examples": (None, 8)}, {"trainable": "last_12"}, {"steps": 0}])
def test_the_edges_of_what_is_allowed(field) -> None:
    (name, value), fine_tuning = next(iter(field.items())), Adversary(**field).draw(0, "x")
    assert getattr(fine_tuning, name) in (value if isinstance(value, tuple) else (value,))


# What the report says of it


def test_config_of_the_default() -> None:
    found = Adversary(learning_rate=1e-3, steps=4).config()
    assert found.pop("optimizer").startswith("Adam(")
    assert found == {"learning_rate": 1e-3, "steps": 4, "batch_size": 16, "head": "learned", "trainable": "all"}


def test_config_is_plain_and_complete() -> None:
    adversary = dataclasses.replace(WIDE, weight=2.0, steps=Schedule(1, 4))
    found = adversary.config()
    assert json.loads(json.dumps(found)) == found
    unchanged = {"learns_rate", "prelude", "pairs", "reads", "batch_norm", "schedule"}
    assert {*found} == {item.name for item in dataclasses.fields(adversary)} - unchanged
    assert found["optimizer"][0] == "SGD(weight_decay=0.0, momentum=0.9, nesterov=False)"
    assert found["learning_rate"] == "Range(low=1e-05, high=0.01)"
    assert found["steps"] == "Schedule(first=1, last=4, every=100)"
    assert found["trainable"] == ["all", "head", "last_2", "lora", "LoRA(r=2, alpha=8, targets=default)"]


@pytest.mark.parametrize("item", dataclasses.fields(Adversary), ids=lambda item: item.name)
def test_whatever_is_changed_shows(item) -> None:
    changed = {
        "optimizer": SGD(),
        "learning_rate": 1.0,
        "learns_rate": True,
        "steps": 3,
        "batch_size": 3,
        "examples": 3,
        "head": "keep",
        "trainable": "head",
        "prelude": 3,
        "dropout": True,
        "weight": 3.0,
        "pairs": "apart",
        "reads": "all_layers",
        "batch_norm": "stored",
        "schedule": "linear",
    }
    usual = Adversary(head="random")
    assert dataclasses.replace(usual, **{item.name: changed[item.name]}).config() != usual.config()


def test_a_fine_tuning_is_plain_and_complete() -> None:
    targets = LoraConfig(r=2, lora_alpha=4, target_modules=["value", "key", "query", "dense"])
    for trainable in ("all", targets):
        found = Adversary(trainable=trainable).draw(0, "x").config()
        assert json.loads(json.dumps(found)) == found
        assert {*found} == {item.name for item in dataclasses.fields(FineTuning)}
    # PEFT keeps targets in a set, whose order differs from one process to the next.
    assert found["trainable"] == "LoRA(r=2, alpha=4, targets=dense, key, query, value)"
    by_pattern = Adversary(trainable=LoraConfig(target_modules=".*dense")).config()
    assert by_pattern["trainable"] == "LoRA(r=8, alpha=8, targets=.*dense)"
