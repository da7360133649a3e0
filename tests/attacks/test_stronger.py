"""Attacks against what a defence spreads, spoils or leaves as a trace: joined probes, probes first, tied words."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from made_reports import made_report
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_selfdestruct.attacks import FullFineTuning, HeadOnly, ProbedFirst, Target, TiedWords, Trial
from hf_selfdestruct.attacks.doubts import low_rank
from hf_selfdestruct.attacks.methods.features import Features, features_of
from hf_selfdestruct.attacks.methods.forensics import effective_rank, tied_words
from hf_selfdestruct.attacks.methods.probed_first import linear_map, probed
from hf_selfdestruct.attacks.methods.probes import fitted
from hf_selfdestruct.attacks.methods.references import RawInput
from hf_selfdestruct.attacks.methods.tamper import NotApplicable


def trial_of(attack, target, data, *, examples=100, seed=0):
    return Trial(target, data, examples, seed, attack.space()[0])


def changed(save_model, folder, change, **options):
    """A model whose weights were changed on disk."""
    save_model(folder, **options)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Target("hardened", str(folder))


# Joined probes


def test_joined_features_are_their_cells_side_by_side(target, readable):
    features = features_of(target, readable, 0)
    groups = features.joined()
    assert groups["mean of every layer"] == [(0, "mean"), (1, "mean")]
    assert {pooling for _, pooling in groups["every pooling of layer 0"]} == {
        "mean", "first", "max", "min", "deviation"
    }  # fmt: skip
    assert len(groups) == 4
    for cells in groups.values():
        wanted = np.hstack([features.cells["test"][cell] for cell in cells])
        np.testing.assert_array_equal(features.of("test", cells), wanted)


def test_a_joined_probe_reads_what_is_there_and_no_noise(target, readable, noise):
    attack = HeadOnly(joined=True, strengths=(0.1,))
    found = attack.run(trial_of(attack, target, readable))
    assert found.test.accuracy > 0.9
    assert attack.name == "joined probe"
    assert found.found["features"] in features_of(target, readable, 0).joined()
    assert attack.run(trial_of(attack, target, noise)).test.accuracy < 0.62


# Whitened features


def whitened_slowly(train, rows, floor):
    """One principal component after the other: the direction of most variance, which is then taken out."""
    mean, scale = train.mean(0), train.std(0)
    left, found = (train - mean) / scale, []
    for _ in range(train.shape[1]):
        values, vectors = np.linalg.eigh(np.cov(left.T, bias=True))
        found.append((max(values[-1], 0.0) ** 0.5, vectors[:, -1]))
        left = left - np.outer(left @ vectors[:, -1], vectors[:, -1])
    most = found[0][0]
    return np.stack([(rows - mean) / scale @ vector / max(size, floor * most) for size, vector in found], axis=1)


@pytest.mark.parametrize("floor", [0.5, 1e-3])
def test_whitened_features_are_components_of_unit_variance_above_the_floor(floor):
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(5, 5))
    cells = {
        split: {(0, "mean"): generator.normal(2.0, 3.0, (60, 5)) * [1, 1, 1, 1, 0.01] @ mixed}
        for split in ("train", "selection", "test")
    }
    features = Features(cells, 0, 1.0)
    wanted = whitened_slowly(cells["train"][0, "mean"], cells["test"][0, "mean"], floor)
    np.testing.assert_allclose(np.abs(features.of("test", [(0, "mean")], floor)), np.abs(wanted), rtol=1e-5, atol=1e-8)
    spread = features.of("train", [(0, "mean")], floor).std(0)
    assert spread[0] == pytest.approx(1.0)
    assert (spread < 0.1).any() == (floor == 0.5)


class OfShrunkDirection(HeadOnly):
    """A probe of features in which one direction, along no axis, reveals the label and was made small."""

    def features(self, trial):
        generator = np.random.default_rng(0)
        direction = np.linalg.qr(generator.normal(size=(20, 1)))[0][:, 0]
        cells = {}
        for split in ("train", "selection", "test"):
            labels = getattr(trial.data, split).labels
            rows = generator.normal(size=(len(labels), 20)) + np.outer(4.0 * labels, direction)
            cells[split] = {(0, "mean"): rows - (1 - 1e-4) * np.outer(rows @ direction, direction)}
        return Features(cells, 0, 1.0)


def test_a_direction_that_was_shrunk_is_read_from_whitened_features(target, readable):
    """With few labels too: the components are of all training rows."""
    attack = OfShrunkDirection(whitened=(1e-3, 1e-6))
    reached = {
        (settings.get("whitened"), settings["strength"]): attack.run(Trial(target, readable, 60, 0, settings)).test
        for settings in attack.space()
    }
    assert max(scores.accuracy for (floor, _), scores in reached.items() if floor is None) < 0.65
    assert reached[1e-6, 0.1].accuracy > 0.8
    assert attack.assumes == HeadOnly().assumes + " and further rows without labels"
    for wrong in ({"classifier": "kernel", "whitened": (0.1,)}, {"whitened": (0.0,)}):
        with pytest.raises(ValueError, match="whitened must be positive floors, with the linear classifier"):
            HeadOnly(**wrong)


# Probe first


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_as_one_linear_map_gives_its_probabilities(classes):
    generator = np.random.default_rng(0)
    features, labels = generator.normal(3.0, 5.0, (90, 4)), generator.integers(0, classes, 90)
    probe = fitted(make_pipeline(StandardScaler(), LogisticRegression(C=0.1)), features, labels)
    weight, bias = linear_map(probe, 4, classes)
    logits = torch.tensor(features @ weight.T + bias)
    np.testing.assert_allclose(logits.softmax(-1).numpy(), probe.predict_proba(features), atol=1e-9)


@pytest.mark.parametrize("labels", [(1,), (0, 2)])
def test_classes_without_examples_are_never_predicted(labels):
    features, drawn = np.random.default_rng(0).normal(size=(40, 4)), np.resize(labels, 40)
    weight, bias = linear_map(fitted(make_pipeline(StandardScaler(), LogisticRegression()), features, drawn), 4, 3)
    assert {*(features @ weight.T + bias).argmax(axis=1).tolist()} <= {*labels}


def test_fine_tuning_starts_where_the_probe_ends(target, readable):
    """The loss before any step is the probe's, and one look later it is no higher."""
    attack = ProbedFirst(learning_rates=(1e-3,), steps=(20,), looks=2)
    trial = trial_of(attack, target, readable)
    few = readable.train.take(trial.few())
    model = probed(target.load(2, 0), few, trial)[0].eval()
    batch = readable.collate([dict(row) for row in few.features])
    with torch.no_grad():
        start = model(**batch).loss.item()
    assert start < 0.6 < np.log(2), "a probe has learned something"
    assert attack.run(trial).curve[-1][1] > 0.85
    assert attack.space()[0]["head"] == "linear probe of averaged tokens"


def test_every_weight_of_the_trunk_and_the_new_head_moves(target, readable):
    trial = trial_of(attack := ProbedFirst(learning_rates=(1e-3,), steps=(2,), looks=1), target, readable)
    model, _ = probed(target.load(2, 0), readable.train.take(trial.few()), trial)
    loss = model(**readable.collate([dict(row) for row in readable.train.features[:16]])).loss
    loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    # A key's bias adds the same to every token's weight; the pooler and the old head are not read.
    still = {name for name, _ in model.named_parameters()} - moved
    assert all("key.bias" in name or "pooler" in name or name.startswith("model.classifier") for name in still)
    assert {"head_weight", "head_bias"} <= moved
    assert attack.run(trial).steps == 2


def test_a_spoiled_pooler_does_not_hide_the_task(save_model, tmp_path, readable):
    """The first token's pooler is zeroed: a head on it learns nothing, one on averaged tokens does."""

    def spoil(weights):
        weights["bert.pooler.dense.weight"].zero_()

    target = changed(save_model, tmp_path, spoil)
    common = {"learning_rates": (1e-4,), "steps": (8,), "looks": 1}
    plain, first = FullFineTuning(**common), ProbedFirst(**common)
    reached = [attack.run(trial_of(attack, target, readable)).test.accuracy for attack in (plain, first)]
    assert reached[0] < 0.65
    assert reached[1] > 0.8


# Tied words


def test_words_with_equal_rows_are_found(save_model, tmp_path):
    def merge(weights):
        table = weights["bert.embeddings.word_embeddings.weight"]
        table[[4, 5, 6]] = table[[4, 5, 6]].mean(0)
        table[20] = table[21] * (1 + 1e-4)

    target = changed(save_model, tmp_path, merge)
    assert tied_words(target, range(8, 30)) == {20, 21}
    assert tied_words(target, range(60)) == {4, 5, 6, 20, 21}


def test_no_words_are_tied_in_an_ordinary_model(target):
    assert tied_words(target, range(60)) == set()


def test_merging_the_words_that_reveal_a_task_shows_them(save_model, tmp_path, readable, target):
    """With eight examples the table's own list beats all words; an ordinary table lists none, and reveals nothing."""

    def merge(weights):
        table = weights["bert.embeddings.word_embeddings.weight"]
        table[[4, 5]] = table[[4, 5]].mean(0)

    merged, attack = changed(save_model, tmp_path, merge), TiedWords(strengths=(10.0,))

    def reached(attack, target, settings):
        return np.mean([attack.run(Trial(target, readable, 8, seed, settings)).test.accuracy for seed in range(4)])

    (settings,) = attack.space()
    words = max(reached(RawInput(), Target("raw", ""), one) for one in RawInput().space())
    assert reached(attack, merged, settings) > words + 0.02
    plain = attack.run(Trial(target, readable, 8, 0, settings))
    assert plain.found == {"tied words": 0}
    assert len({*map(tuple, plain.probabilities.tolist())}) == 1, "the same answer to every row"
    assert attack.run(Trial(merged, readable, 8, 0, settings)).found == {"tied words": 2}


# Effective ranks


def test_effective_rank_counts_directions():
    generator = np.random.default_rng(0)
    rows = generator.normal(3.0, 2.0, (50, 6)) @ generator.normal(size=(6, 6))
    sizes = np.linalg.svd((rows - rows.mean(0)) / rows.std(0), compute_uv=False)
    shares = sizes / sizes.sum()
    assert effective_rank(rows) == pytest.approx(np.prod(shares**-shares))
    assert effective_rank(rows[:, :1] @ rows[:1]) == pytest.approx(1.0)
    assert effective_rank(np.hstack([rows, np.ones((50, 2))])) == pytest.approx(effective_rank(rows))
    assert effective_rank(np.ones((4, 2))) == 0.0


def test_low_ranks_are_stated_where_a_few_directions_dominate(save_model, tmp_path, readable, target):
    def flatten(weights):
        table = weights["bert.embeddings.word_embeddings.weight"]
        table[:, 2:] = table[:, :1] + 1e-3 * table[:, 2:]

    attack, flat = TiedWords(), changed(save_model, tmp_path, flatten)
    plain, low = (attack.run(trial_of(attack, one, readable)).found for one in (target, flat))
    assert plain == {"tied words": 0}
    assert re.fullmatch(r"layer 0 \d of 32, layer 1 \d+ of 32", low["effective ranks"]), low


def test_a_low_rank_of_the_hardened_model_alone_is_doubted():
    report = made_report()
    for role in ("base", "hardened"):
        flat = [dataclasses.replace(r, found={"effective ranks": "layer 1 3 of 32"} if r.role == role else {})
                for r in report.runs]  # fmt: skip
        found = [*low_rank(dataclasses.replace(report, runs=tuple(flat)), "gender")]
        assert len(found) == (role == "hardened")
        assert all("low effective rank on the hardened model (layer 1 3 of 32)" in doubt for doubt in found)


def test_pictures_have_no_words(target, readable):
    row = {"pixel_values": [[0.0]], "labels": 0}
    pictures = type(readable.train)([row] * 4, np.zeros(4, dtype=int))
    data = type(readable)("toy", 2, pictures, pictures, pictures, readable.collate)
    with pytest.raises(NotApplicable, match="reads no words"):
        TiedWords().run(Trial(target, data, 4, 0, TiedWords().space()[0]))
