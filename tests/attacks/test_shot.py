"""Adaptation to rows without labels: its parts by slow twins, which rows it reads, and that it finds more."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from toy_models import tiny_model
from transformers import ResNetConfig, ResNetForImageClassification, default_data_collator

from hf_selfdestruct.attacks import AttackData, ProbedFirst, Split, Target, Trial
from hf_selfdestruct.attacks.methods.probed_first import probed
from hf_selfdestruct.attacks.methods.shot import Shot, nearest_centroid, uncertainty
from hf_selfdestruct.attacks.methods.tamper import NotApplicable
from hf_selfdestruct.tasks.blocked_task import BlockedTask

CLASSES = 4
SHORT = {"learning_rates": (3e-3,), "steps": (8,), "looks": 2}


def pictures(count, seed):
    """Noise with one of four faint patterns."""
    patterns = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % CLASSES
    pixels = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) + 1.2 * patterns[labels]
    return Dataset.from_dict({"pixel_values": pixels.tolist(), "label": labels.tolist()})


@pytest.fixture(scope="module")
def data():
    task = BlockedTask("patterns", train=pictures(40, 1), attack=pictures(600, 2), test=pictures(300, 3))
    return AttackData.of(task, ("pixel_values",), default_data_collator)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        config.downsample_in_first_stage = False
        ResNetForImageClassification(config).save_pretrained(folder)
    return Target("hardened", str(folder))


def run(attack, target, data, *, examples=16, seed=0):
    return attack.run(Trial(target, data, examples, seed, attack.space()[0]))


# Its parts


def test_uncertainty_is_the_formula_row_by_row():
    logits = 3 * torch.randn(7, 5, dtype=torch.float64)
    rows = [[math.exp(z) / sum(math.exp(other) for other in row) for z in row] for row in logits.tolist()]
    certain = sum(-p * math.log(p) for row in rows for p in row) / len(rows)
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    spread = sum(-p * math.log(p) for p in mean)
    assert uncertainty(logits).item() == pytest.approx(certain - spread)


def test_uncertainty_is_least_where_answers_are_certain_and_classes_equally_frequent():
    """Its gradients stay finite where an answer is certain to the last digit."""
    certain = (1e4 * torch.eye(4)).requires_grad_()
    value = uncertainty(certain)
    value.backward()
    assert value.item() == pytest.approx(-math.log(4))
    assert certain.grad.isfinite().all()
    one_class = torch.tensor([[1e4, 0.0, 0.0]] * 5, requires_grad=True)
    uncertainty(one_class).backward()
    assert one_class.grad.isfinite().all()
    assert uncertainty(one_class).item() == pytest.approx(0, abs=1e-6)
    assert uncertainty(torch.zeros(5, 3)).item() == pytest.approx(0, abs=1e-6)


def cosine(one, other):
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def slow_labels(features, answers):
    """Two rounds, row by row and class by class, with centroids that are means."""
    classes = answers.shape[1]
    centroids = {
        k: sum(p[k] * row for row, p in zip(features, answers, strict=True)) / answers[:, k].sum()
        for k in range(classes)
    }
    for _ in range(2):
        labels = [max(centroids, key=lambda k: cosine(row, centroids[k])) for row in features]
        members = {k: [row for row, label in zip(features, labels, strict=True) if label == k] for k in range(classes)}
        centroids = {k: sum(rows) / len(rows) for k, rows in members.items() if rows}
    return labels


@pytest.mark.parametrize("draw", range(6))
def test_pseudo_labels_are_those_of_the_nearest_centroids(draw):
    generator = np.random.default_rng(draw)
    features = generator.normal(size=(30, 3)) + generator.normal(size=3)
    answers = generator.dirichlet([0.3] * 6, size=30)
    assert nearest_centroid(features, answers).tolist() == slow_labels(features, answers)


def test_a_class_without_a_row_is_given_to_none():
    """Nothing has the third class, of which the centroid is a zero; the last row is opposite to both others."""
    features = np.asarray([[1.0, 0.1], [1.0, -0.1]] * 5 + [[-1.0, 0.0]])
    answers = np.eye(3)[[0, 1] * 5 + [0]]
    assert {*nearest_centroid(features, answers).tolist()} == {0, 1}


# Which rows it reads


def relabelled(split, rows):
    """The split with other labels in these rows."""
    labels = split.labels.copy()
    labels[rows] = (labels[rows] + 1) % CLASSES
    features = [{**row, "labels": int(label)} for row, label in zip(split.features, labels, strict=True)]
    return Split(features, labels)


def test_labels_of_the_other_rows_are_not_read_and_their_pixels_are(network, data):
    attack = Shot(**SHORT)
    usual = run(attack, network, data)
    few = data.few(16, 0)
    others = [row for row in range(len(data.train.labels)) if row not in few]
    hidden = dataclasses.replace(data, train=relabelled(data.train, others), memory={})
    assert np.array_equal(run(attack, network, hidden).probabilities, usual.probabilities)
    known = dataclasses.replace(data, train=relabelled(data.train, few), memory={})
    assert not np.array_equal(run(attack, network, known).probabilities, usual.probabilities)
    features = list(data.train.features)
    for row in others:
        features[row] = {**features[row], "pixel_values": (-np.asarray(features[row]["pixel_values"])).tolist()}
    negated = dataclasses.replace(data, train=Split(features, data.train.labels), memory={})
    assert not np.array_equal(run(attack, network, negated).probabilities, usual.probabilities)


def test_no_test_row_is_adapted_to(network, data):
    attack = Shot(**SHORT)
    fewer = dataclasses.replace(data, test=data.test.take(range(20)), memory={})
    whole, part = (run(attack, network, one) for one in (data, fewer))
    assert np.array_equal(whole.selected, part.selected)
    np.testing.assert_allclose(whole.probabilities[:20], part.probabilities, atol=1e-3)


def test_where_every_row_is_labelled_there_is_nothing_to_adapt_to(network, data):
    with pytest.raises(NotApplicable, match="all 420 training rows have labels; none is left"):
        run(Shot(**SHORT), network, data, examples=420)
    with pytest.raises(ValueError, match="adapting must lie between 0 and 1; got 1"):
        Shot(adapting=1.0)
    assert Shot().assumes.endswith("labelled examples of the blocked task and further rows without labels")


# What it trains


def test_a_step_that_adapts_counts_twice(network, data):
    plain, adapted = (run(of(**SHORT), network, data) for of in (ProbedFirst, Shot))
    assert (plain.steps, adapted.steps) == (8, 8)
    assert adapted.flops == pytest.approx(1.5 * plain.flops)


def test_the_head_is_trained_first_and_the_trunk_alone_adapts(network, data):
    attack = Shot(**SHORT, adapting=0.25)
    trial = Trial(network, data, 16, 0, attack.space()[0])
    few = trial.rows()
    model, _ = probed(network.load(CLASSES, 0), few, trial)
    trained = []
    for loss in attack.losses(model, few, trial, None):
        model.zero_grad()
        loss().backward()
        head = [weight.grad is not None for weight in (model.head_weight, model.head_bias)]
        trunk = [weight.grad is not None for weight in model.base_model.parameters()]
        assert all(trunk)
        trained.append({*head})
    assert trained == [{True}] * 6 + [{False}] * 2


@pytest.mark.parametrize("architecture", ["vit", "bert"])
def test_it_adapts_transformers_too(architecture, data, readable, tmp_path):
    tiny_model(architecture).float().save_pretrained(tmp_path)
    attack = Shot(**SHORT, average=0.9)
    rows = data if architecture == "vit" else _few_words(readable)
    if architecture == "vit":
        rows = dataclasses.replace(data, collate=_larger, memory={})
    once, again = (run(attack, Target("hardened", str(tmp_path)), rows) for _ in range(2))
    assert once.steps == 8
    assert np.array_equal(once.probabilities, again.probabilities)


def _larger(rows):
    batch = default_data_collator(rows)
    return {**batch, "pixel_values": batch["pixel_values"].repeat(1, 1, 2, 2)}


def _few_words(data):
    def small(split):
        return Split([{**row, "input_ids": [word % 30 for word in row["input_ids"]]} for row in split.features],
                     split.labels)  # fmt: skip

    parts = {name: small(getattr(data, name)) for name in ("train", "selection", "test")}
    return dataclasses.replace(data, **parts, memory={})


def test_rows_without_labels_help(network, data):
    """Sixteen labelled pictures of four classes and 404 others: the same steps with labels alone find less."""
    common = {"learning_rates": (3e-3,), "steps": (60,), "looks": 3, "batch_size": 32}
    plain, adapted = (
        [run(of(**common), network, data, seed=seed).test.accuracy for seed in range(2)] for of in (ProbedFirst, Shot)
    )
    assert np.mean(adapted) > np.mean(plain) + 0.05, (plain, adapted)
