"""The suites of language models: chosen by the kind of task, refused on others, and wide enough."""

from __future__ import annotations

import math
import re

import pytest
from toy_language import DESIRED, language_model, language_rows, language_task
from toy_models import toy_task
from toy_regression import sized_task
from transformers import default_data_collator

from hf_selfdestruct.attacks import AnyOf, AttackData, Target, Trial, named_suite
from hf_selfdestruct.attacks.methods.general import desired_texts
from hf_selfdestruct.attacks.suites.language import OF_TEXTS, RATES
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.tasks.classification import CLASSIFICATION
from hf_selfdestruct.tasks.language_modeling import LANGUAGE_MODELING, LanguageModeling

COLUMNS = ["input_ids", "attention_mask"]
THEIRS = [name for name, suite in SUITES.items() if suite.kind]


def attacks_of(name):
    found = [entry.attack for entry in SUITES[name].entries]
    return [one for attack in found for one in (attack.of if isinstance(attack, AnyOf) else (attack,))]


EVERY = [*{str(one): one for name in THEIRS for one in attacks_of(name)}.values()]


@pytest.mark.parametrize("name", SUITES)
def test_four_suites_are_chosen_by_the_kind_of_task(name):
    chosen = {"default": "language", **{n: f"language_{n}" for n in ("glance", "quick", "durability", "adaptive")}}
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


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A hardened model with its sibling, and what the attacker has."""
    folder = tmp_path_factory.mktemp("attacked")
    for seed, name in enumerate(("hardened", "undefended")):
        language_model(seed=seed).save_pretrained(folder / name)
    desired = desired_texts(language_rows(20, 8, DESIRED), language_rows(10, 9, DESIRED), COLUMNS)
    target = Target("hardened", str(folder / "hardened"), sibling=str(folder / "undefended"))
    return target, AttackData.of(language_task(), COLUMNS, default_data_collator, desired=desired)


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.name)
def test_every_attack_of_theirs_runs_on_a_language_model(attacked, attack):
    """Shortened to two steps, and as far as a model of two layers goes: it trains, and is measured before and after."""
    target, data = attacked
    shorter = {"steps": 2, "looks": 1, "prelude": 1, "distil_steps": 1, "batch_size": 4}
    settings = {name: shorter.get(name, value) for name, value in attack.space()[-1].items()}
    found = attack.run(Trial(target, data, 42, 0, settings))
    assert found.steps == 2 + ("prelude" in settings) + ("distil_steps" in settings)
    assert math.isfinite(found.test.score)
    assert len(found.general) == len(found.gibberish) == 2


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
