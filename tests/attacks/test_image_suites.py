"""The suites of classifiers of pictures: they find layers of convolutional networks, run on them, and stay small."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from picture_cases import pictures_of
from toy_models import tiny_model
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    EfficientNetConfig,
    MobileNetV1Config,
    MobileNetV2Config,
    ResNetConfig,
)

from hf_selfdestruct.attacks import AnyOf, Target, Trial, Tuning, named_suite
from hf_selfdestruct.attacks.methods.tamper import NotApplicable, ReinitialiseLast, Rescale, layers_of
from hf_selfdestruct.attacks.suites.papers import RATES_OF, WAYS
from hf_selfdestruct.attacks.suites.search import Search

NETWORKS = {
    "resnet": ResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 16], depths=[1, 1, 1], layer_type="basic"),
    "mobilenet_v1": MobileNetV1Config(depth_multiplier=0.1, min_depth=4),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.1, min_depth=4, depth_divisible_by=4),
    "convnext": ConvNextConfig(hidden_sizes=[4, 8, 16], depths=[1, 1, 2], num_stages=3),
}
LAYERS = {"resnet": 3, "mobilenet_v1": 26, "mobilenet_v2": 16, "convnext": 3}


def attacks_of(name):
    found = [entry.attack for entry in named_suite(name).entries]
    return [one for attack in found for one in (attack.of if isinstance(attack, AnyOf) else (attack,))]


@pytest.mark.parametrize("tamper", [ReinitialiseLast(1), Rescale()], ids=lambda one: type(one).__name__)
def test_normalisations_that_transformers_draws_at_random_silence_no_model(tamper):
    """EfficientNet's scales start near 0 there; given such scales, a trained model answers everything alike."""
    config = EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320, hidden_act="relu6", initializer_range=0.02
    )
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()
    pictures = torch.randn(8, 3, 32, 32)

    def differs():
        with torch.no_grad():
            return model.base_model(pictures).pooler_output.std(0).mean().item()

    before = differs()
    tamper.apply(model, 0)
    assert differs() > before / 3 > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_of_a_convolutional_network_are_its_stages_or_blocks_and_the_last_can_be_fresh(name):
    model = AutoModelForImageClassification.from_config(NETWORKS[name])
    layers = layers_of(model)
    assert len(layers) == LAYERS[name]
    before = copy.deepcopy(model.state_dict())
    ReinitialiseLast(2).apply(model, 1)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith(tuple(f"{layer}." for layer in layers[-2:])) for key in changed)


# Attacks on tiny models


@pytest.fixture(scope="module")
def pictures():
    return pictures_of(60)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folders of a network with batch normalisation and of one without, by architecture."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("resnet", "vit")}
    for name, folder in folders.items():
        tiny_model(name).float().save_pretrained(folder)
    return {name: Target("hardened", str(folder)) for name, folder in folders.items()}


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
@pytest.mark.parametrize("name", ["images", "sophon"])
def test_every_attack_runs_shortened_or_says_what_the_model_lacks(name, architecture, published, pictures):
    shorter = {"steps": 2, "looks": 1, "prelude": 1, "batch_size": 8}
    made = []
    for attack in attacks_of(name):
        settings = {key: shorter.get(key, value) for key, value in attack.space()[-1].items()}
        if settings in made:  # two batch sizes are one now
            continue
        made.append(settings)
        trial = Trial(published[architecture], pictures, 30, 0, settings)
        if architecture == "vit" and settings.get("batch_norm") == "stored":
            with pytest.raises(NotApplicable, match="no batch normalisation"):
                attack.run(trial)
            continue
        found = attack.run(trial)
        assert math.isfinite(found.test.accuracy), attack.name
        assert found.steps == (2 + ("prelude" in settings) if isinstance(attack, Tuning) else 0), attack.name


def test_the_suite_of_pictures_turns_what_attackers_of_pictures_turn():
    tried = [settings for attack in attacks_of("images") for settings in attack.space() if "optimizer" in settings]
    rates = {settings["learning_rate"] for settings in tried if settings["optimizer"] == "adamw"}
    assert (min(rates), max(rates)) == (1e-4, 3e-3)
    assert {settings["optimizer"] for settings in tried} == {"adamw", "sgd"}
    assert {(s.get("batch_norm", "batch"), s.get("crops", 0) > 0) for s in tried} == {
        ("batch", False), ("batch", True), ("stored", False), ("stored", True),
    }  # fmt: skip


def test_the_suite_of_pictures_fits_one_core(published, pictures):
    """At 0.15 seconds a step, four models in one and a half hours."""
    suite = named_suite("images")
    steps = {}
    for attack, examples in suite.plan(1400):
        search = Search(attack, published["resnet"], pictures, examples, suite.repeats(examples), "study")
        steps[examples] = steps.get(examples, 0) + search.cost()
    assert {*steps} == {20, 100, 1400}
    assert steps[20] == 0 < steps[100] < steps[1400] <= suite.seeds * 2500
    assert 4 * 0.15 * sum(steps.values()) <= 90 * 60


def test_the_protocol_of_sophon_is_a_whole_grid_that_is_run_to_the_end():
    """Three ways, five optimizers, five rates each, two batch sizes; nothing is given up."""
    suite = named_suite("sophon")
    assert suite.select_on_test
    points = [settings for entry in suite.entries for settings in entry.attack.space()]
    assert all(entry.attack.rung(one) is None for entry in suite.entries for one in entry.attack.space())
    found = {(s["trainable"], s["optimizer"], s["learning_rate"], s["batch_size"]) for s in points}
    assert {part for part, *_ in found} == {*WAYS.values()} == {"all", "last_1", "head"}
    assert [len(rates) for rates in RATES_OF.values()] == [5] * 5
    assert len(found) == len(points) == 3 * 5 * 5 * 2
