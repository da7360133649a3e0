"""Attacks against what a defence spreads, spoils or leaves as a trace: joined probes, probes first, tied words."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_selfdestruct.attacks import FullFineTuning, HeadOnly, ProbedFirst, Target, TiedWords, Trial
from hf_selfdestruct.attacks.methods.features import features_of
from hf_selfdestruct.attacks.methods.forensics import tied_words
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


def test_pictures_have_no_words(target, readable):
    row = {"pixel_values": [[0.0]], "labels": 0}
    pictures = type(readable.train)([row] * 4, np.zeros(4, dtype=int))
    data = type(readable)("toy", 2, pictures, pictures, pictures, readable.collate)
    with pytest.raises(NotApplicable, match="reads no words"):
        TiedWords().run(Trial(target, data, 4, 0, TiedWords().space()[0]))
