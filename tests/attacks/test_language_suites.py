"""The suites of language models: chosen by the kind of task, refused on others, and wide enough."""

from __future__ import annotations

import re

import pytest
from toy_language import language_task
from toy_models import toy_task
from toy_regression import sized_task

from hf_selfdestruct.attacks import AnyOf, named_suite
from hf_selfdestruct.attacks.suites.language import OF_TEXTS, RATES
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.tasks.classification import CLASSIFICATION
from hf_selfdestruct.tasks.language_modeling import LANGUAGE_MODELING, LanguageModeling

THEIRS = [name for name, suite in SUITES.items() if suite.kind]


def attacks_of(name):
    found = [entry.attack for entry in SUITES[name].entries]
    return [one for attack in found for one in (attack.of if isinstance(attack, AnyOf) else (attack,))]


@pytest.mark.parametrize("name", SUITES)
def test_four_suites_are_chosen_by_the_kind_of_task(name):
    chosen = {"default": "language", **{n: f"language_{n}" for n in ("glance", "durability", "adaptive")}}
    assert named_suite(name).name == name
    assert named_suite(name, [CLASSIFICATION] * 2).name == name
    # Another tokenizer's bytes make no other kind.
    assert named_suite(name, [LANGUAGE_MODELING, LanguageModeling((1, 2))]).name == chosen.get(name, name)
    assert {*THEIRS} == {*chosen.values()}


@pytest.mark.parametrize("name", OF_TEXTS)
def test_tasks_of_several_kinds_are_refused(name):
    told = "these tasks are of several: next-token prediction, classification. Attack the tasks of each kind apart"
    with pytest.raises(ValueError, match=re.escape(told)):
        named_suite(name, [LANGUAGE_MODELING, CLASSIFICATION])


@pytest.mark.parametrize("name", THEIRS)
def test_they_are_for_language_models_alone(name):
    suite = named_suite(name)
    suite.check_fits([language_task()])
    for task in (toy_task(), sized_task()):
        with pytest.raises(ValueError, match=f"'{name}' cannot attack task '{task.name}', .*; pass 'default'"):
            suite.check_fits([language_task(), task])


@pytest.mark.parametrize("name", THEIRS)
def test_every_attack_of_theirs_can_be_given_what_it_needs(name):
    assert {need for attack in attacks_of(name) for need in attack.needs} <= {"desired", "sibling"}
    assert {attack.outside for attack in attacks_of(name)} >= {False}
    for attack in attacks_of(name):
        assert attack.outside == ("sibling" in attack.needs)


def test_the_default_turns_every_knob_of_fine_tuning():
    whole = [attack for attack in attacks_of("language") if attack.space()[0].get("trainable") == "all"]
    ten = {attack.schedule for attack in whole if attack.learning_rates == RATES}
    assert ten == {"constant_with_warmup", "linear", "cosine"}
    assert (len(RATES), min(RATES), max(RATES)) == (10, 1e-6, 1e-2)
    assert {attack.precision for attack in whole} == {"float32", "bf16"}
    assert {attack.rank for attack in attacks_of("language") if attack.space()[0].get("trainable") == "lora"} == {
        8, 64, 256
    }  # fmt: skip
    assert {point["steps"] for attack in attacks_of("language") for point in attack.space() if not attack.outside} == {
        500
    }
    assert len([attack for attack in attacks_of("language") if attack.outside]) == 2


def test_warm_ups_are_of_0_and_30_and_100_steps():
    found = [
        entry.attack for entry in SUITES["language_adaptive"].entries if entry.attack.name == "full, other warm-ups"
    ]
    assert {int(point["warmup"] * point["steps"]) for point in found[0].space()} == {0, 30, 100}
