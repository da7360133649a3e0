"""Probes read what is there, on every layer, of texts and pictures; references stand for what needs no weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset
from planted import image_task
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from toy_models import tiny_model
from transformers import default_data_collator

from hf_selfdestruct.attacks import AttackData, AttackSuite, Entry, FullFineTuning, HeadOnly, Target, Trial, Tuning
from hf_selfdestruct.attacks.methods.features import WORDS, features_of
from hf_selfdestruct.attacks.methods.probes import CLASSIFIERS
from hf_selfdestruct.attacks.methods.references import RAW_CLASSIFIERS, RawInput, raw_input
from hf_selfdestruct.attacks.methods.tamper import Recalibrate, Rescale
from hf_selfdestruct.attacks.metrics import scores
from hf_selfdestruct.report.packing import rounded
from hf_selfdestruct.tasks.blocked_task import BlockedTask

STRENGTHS = {"neighbours": 5, "boosted trees": 30}


def probe(target, data, **fields):
    attack = HeadOnly(**{"strengths": (1.0,), "every_layer": True, **fields})
    return attack.run(Trial(target, data, examples=len(data.train.labels), seed=0, settings=attack.space()[0]))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_every_classifier_reads_what_is_there(target, readable, noise, classifier):
    strengths = (STRENGTHS.get(classifier, 1.0),)
    found = probe(target, readable, classifier=classifier, strengths=strengths)
    assert found.test.accuracy > 0.8
    assert found.desired_drop == 0.0
    assert found.flops > 0
    chance = probe(target, noise, classifier=classifier, strengths=strengths)
    assert abs(chance.test.accuracy - 0.5) < 4 * 0.5 / 200**0.5


def test_a_published_head_does_not_make_a_probe_dearer(target, readable):
    scratch = Target("scratch", target.folder, random=True)
    assert target.published() is not None
    assert probe(target, readable).flops == probe(scratch, readable).flops > 0


def test_unknown_classifier_and_no_strength_are_refused():
    with pytest.raises(ValueError, match=r"linear.*'forest'"):
        HeadOnly("forest")
    with pytest.raises(ValueError, match="strengths is empty"):
        HeadOnly(strengths=())


def test_cells_are_layers_poolings_and_the_published_head(target, readable):
    features = features_of(target, readable, 0)
    names = {(layer, pooling) for layer in (0, 1) for pooling in ("mean", "first")} | {(-1, "logits")}
    further = {(layer, pooling) for layer in (0, 1) for pooling in ("max", "min", "deviation")}
    assert set(features.cells["train"]) == names | further | {WORDS}
    assert {*features.usable()} == names
    with torch.no_grad():
        model = target.published().eval()
        row = torch.tensor([readable.test.features[3]["input_ids"]])
        alone = model(input_ids=row, output_hidden_states=True)
    assert np.allclose(features.cells["test"][-1, "logits"][3], alone.logits[0], atol=1e-4)
    rows = model.get_input_embeddings().weight.detach()[row[0]]
    assert np.allclose(features.cells["test"][WORDS][3], rows.mean(0), atol=1e-4)
    assert {*features.usable(words=True)} == names | {WORDS}
    states = alone.hidden_states[1][0]
    assert np.allclose(features.cells["test"][1, "first"][3], states[0], atol=1e-4)
    by_hand = {"max": states.amax(0), "min": states.amin(0), "deviation": states.std(0, correction=0)}
    for pooling, value in by_hand.items():
        assert np.allclose(features.cells["test"][1, pooling][3], value, atol=1e-4), "padding has no part in it"
    assert features_of(target, readable, 7) is features, "frozen weights do not depend on the seed"


def test_tampered_features_are_of_tampered_weights(target, readable):
    plain, tampered = features_of(target, readable, 0), features_of(target, readable, 0, Rescale(1.01))
    assert not np.allclose(plain.cells["test"][1, "mean"], tampered.cells["test"][1, "mean"])
    assert (-1, "logits") not in tampered.cells["test"]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_causal_models_are_probed_at_the_last_token(architecture, readable, tmp_path):
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path)
    features = features_of(Target("hardened", str(tmp_path)), _short(readable), 0)
    layers = {layer for layer, _ in features.cells["train"]}
    assert {pooling for layer, pooling in features.usable() if layer >= 0} == {"mean", "last"}
    trunk = model.base_model.eval()
    row = torch.tensor([_short(readable).test.features[2]["input_ids"]])
    with torch.no_grad():
        hidden = trunk(input_ids=row, output_hidden_states=True).hidden_states
    assert len(layers - {-1, -2}) == len(hidden)
    assert np.allclose(features.cells["test"][1, "last"][2], hidden[1][0, -1], atol=1e-3)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_causal_models_are_fine_tuned(architecture, readable, tmp_path):
    tiny_model(architecture).save_pretrained(tmp_path)
    target, data = Target("hardened", str(tmp_path)), _short(readable)
    for fields in ({}, {"trainable": "lora"}, {"trainable": "last_1"}, {"tamper": Rescale(1.01)}):
        attack = Tuning("it", learning_rates=(1e-2,), steps=(20,), **fields)
        found = attack.run(Trial(target, data, examples=20, seed=0, settings=attack.space()[0]))
        assert found.curve[-1][0] == 20
        assert found.flops > 0


def _short(data):
    """The toy rows with token numbers that every tiny model knows."""

    def small(split):
        rows = [{**row, "input_ids": [token % 30 for token in row["input_ids"]]} for row in split.features[:20]]
        return type(split)(rows, split.labels[:20])

    return AttackData(data.task, 2, small(data.train), small(data.selection), small(data.test), data.collate)


# Pictures


@pytest.fixture(scope="module")
def pictures():
    return AttackData.of(image_task(), ("pixel_values",), default_data_collator)


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_image_models_are_attacked_by_every_kind(architecture, tmp_path):
    """A bright left half is easy: every attack finds it."""
    generator = torch.Generator().manual_seed(0)

    def split(count):
        pixels, labels = (
            torch.randn(count, 3, 16, 16, generator=generator),
            torch.randint(2, (count,), generator=generator),
        )
        pixels[..., :8] += 1.5 * labels[:, None, None, None]
        return Dataset.from_dict({"pixel_values": pixels.tolist(), "label": labels.tolist()})

    task = BlockedTask("side", train=split(10), attack=split(100), test=split(60))
    tiny_model(architecture).float().save_pretrained(tmp_path)
    attacks = (
        HeadOnly(),
        HeadOnly(every_layer=True),
        FullFineTuning(learning_rates=(1e-2,), steps=(40,)),
        Tuning("LoRA", trainable="lora", learning_rates=(3e-2,), steps=(40,)),
    )
    suite = AttackSuite("images", 1, tuple(Entry(a, (None,)) for a in attacks), seeds=2, more=None)
    report = suite.run(
        [Target("hardened", str(tmp_path)), Target("scratch", str(tmp_path), random=True)],
        [task],
        columns=("pixel_values",),
        collate=default_data_collator,
        progress=False,
    )
    assert {run.status for run in report.runs} == {"ok"}
    found = {s.attack: s.mean for s in report.summaries("side") if s.role == "hardened"}
    assert set(found) == {attack.name for attack in attacks}
    assert min(found.values()) > 0.8, found
    (raw,) = [s for s in report.summaries("side") if s.role == "raw"]
    assert raw.mean > 0.8


def test_a_convolution_has_one_pooling(pictures, tmp_path):
    tiny_model("resnet").float().save_pretrained(tmp_path)
    cells = features_of(Target("hardened", str(tmp_path)), pictures, 0).cells["train"]
    assert {pooling for layer, pooling in cells if layer >= 0} == {"mean"}
    assert len({values.shape[1] for values in cells.values()}) > 1, "layers of different width"


# References


@pytest.mark.parametrize("classifier", RAW_CLASSIFIERS)
def test_raw_input_reads_words(readable, noise, classifier):
    attack, settings = RawInput(), {"classifier": classifier, "strength": 10.0}
    target = Target("raw", "")
    found = attack.run(Trial(target, readable, examples=140, seed=0, settings=settings))
    assert found.test.accuracy > 0.8
    chance = attack.run(Trial(target, noise, examples=140, seed=0, settings=settings))
    assert abs(chance.test.accuracy - 0.5) < 4 * 0.5 / 200**0.5
    assert settings in attack.space()


def test_raw_input_of_pictures_is_their_pixels(pictures):
    assert raw_input(pictures.selection).shape == (60, 3 * 16 * 16)


def test_references_stand_in_the_report(folder, task_of, collate):
    suite = AttackSuite(
        "mine",
        1,
        (Entry(HeadOnly(), (10, None)),),
        few_seeds=4,
        more=FullFineTuning("more", learning_rates=(3e-3,), steps=(20,)),
    )
    report = suite.run(
        [Target("hardened", folder), Target("scratch", folder, random=True)],
        [task_of(rows=60)],
        columns=("input_ids", "attention_mask"),
        collate=collate,
        progress=False,
    )
    by_role = {role: [r for r in report.runs if r.role == role] for role in ("raw", "more", "null")}
    assert {run.examples for run in by_role["more"]} == {42 + 60}, "the rows of `train` too"
    assert {run.examples for run in by_role["raw"]} == {10, 42}
    # Scratch again: other seeds, as many, the settings that were chosen on scratch.
    for examples, seeds in ((10, 4), (42, 3)):
        again = [r for r in by_role["null"] if r.examples == examples]
        scratch = report.strongest_runs("toy", examples, "scratch")
        assert len(again) == seeds == len(scratch)
        assert {r.seed for r in again}.isdisjoint(r.seed for r in scratch)
        assert all(r.settings == scratch[0].settings for r in again)
    assert report.budgets("toy") == [10, 42]


def test_of_cells_of_one_accuracy_the_one_that_ranks_best_is_probed(target, noise):
    """Regularised so strongly, every probe of noise gives the commonest label."""
    rows = noise.train.labels
    features, wanted = features_of(target, noise, 0), {}
    for cell in features.usable():
        made = make_pipeline(StandardScaler(), CLASSIFIERS["linear"](1e-4, len(rows)))
        made.fit(features.cells["train"][cell].astype(np.float64), rows)
        wanted[cell] = scores(noise.selection.labels, rounded(made.predict_proba(features.cells["selection"][cell])))
    assert len({found.accuracy for found in wanted.values()}) == 1
    found = probe(target, noise, strengths=(1e-4,))
    best = max(wanted, key=lambda cell: wanted[cell].auc)
    assert best != next(iter(wanted))
    assert (found.found["layer"], found.found["pooling"]) == best
    assert found.selection.auc == pytest.approx(wanted[best].auc)


def test_a_tamper_is_of_its_own_seed_whichever_seed_came_first(pictures, tmp_path):
    """Batch statistics are taken again from rows in an order that the seed decides."""
    tiny_model("resnet", num_labels=2).save_pretrained(tmp_path)
    target = Target("hardened", str(tmp_path))

    def second(*, first):
        data = dataclasses.replace(pictures, memory={})
        for seed in first:
            features_of(target, data, seed, Recalibrate())
        return features_of(target, data, 1, Recalibrate()).cells["test"]

    alone, after = second(first=()), second(first=(0,))
    other = features_of(target, dataclasses.replace(pictures, memory={}), 0, Recalibrate()).cells["test"]
    assert any(not np.array_equal(alone[cell], other[cell]) for cell in alone), "seeds should differ"
    assert all(np.array_equal(alone[cell], after[cell]) for cell in alone)
