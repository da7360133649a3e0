"""Fine-tuning attacks learn what can be learned, find nothing in noise, and do what they say."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_selfdestruct.attacks import AttackData, FullFineTuning, HeadOnly, Split, Target, Trial
from hf_selfdestruct.attacks.methods.batches import epochs
from hf_selfdestruct.attacks.metrics import scores

SETTINGS = {"learning_rate": 3e-3, "steps": 60, "batch_size": 16, "schedule": "linear"}


def full(target, data, *, examples=140, seed=0, looks=2, **settings):
    attack = FullFineTuning(looks=looks)
    return attack.run(
        Trial(target, data, examples=examples, seed=seed, settings={**SETTINGS, "looks": looks, **settings})
    )


def probe(target, data, *, examples=140, seed=0, **fields):
    attack = HeadOnly(**fields)
    tried = [attack.run(Trial(target, data, examples=examples, seed=seed, settings=one)) for one in attack.space()]
    return max(tried, key=lambda outcome: outcome.selection.accuracy)


# What is learned


def test_readable_task_is_learned_by_both(target, readable):
    for outcome in (full(target, readable), probe(target, readable)):
        assert outcome.test.accuracy > 0.85
        assert outcome.selection.accuracy > 0.85
        assert outcome.test.auc > 0.9


def test_random_labels_are_not_learned(target, noise):
    """200 rows of coin flips: 0.5 give or take four standard errors."""
    for outcome in (full(target, noise), probe(target, noise)):
        assert abs(outcome.test.accuracy - 0.5) < 4 * 0.5 / 200**0.5


def test_three_classes_are_learned(target, data_of):
    data = data_of("three", rows=300)
    assert probe(target, data, examples=210).test.accuracy > 0.7
    assert full(target, data, examples=210, steps=120).test.accuracy > 0.7


def test_more_examples_help(target, readable):
    few, many = (
        np.mean([probe(target, readable, examples=n, seed=s).test.accuracy for s in range(4)]) for n in (8, 140)
    )
    assert many > few + 0.04


# Head only


def features_one_by_one(target, split, *, layer, num_labels=2):
    """Twin: each row alone and unpadded, its hidden states averaged."""
    trunk = target.load(num_labels, 0).base_model.eval()
    rows = []
    for row in split.features:
        with torch.no_grad():
            hidden = trunk(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states
        rows.append(hidden[layer][0].mean(dim=0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("labels", ["readable", "random"])
def test_head_only_equals_a_plain_twin(target, readable, noise, labels):
    data = readable if labels == "readable" else noise
    strengths = (0.001, 0.1, 10.0)
    rows = data.few(60, 1)
    train, selection, test = (
        features_one_by_one(target, split, layer=-1) for split in (data.train.take(rows), data.selection, data.test)
    )
    scaler = StandardScaler().fit(train)
    best = None
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=1000).fit(scaler.transform(train), data.train.labels[rows])
        reached = (model.predict(scaler.transform(selection)) == data.selection.labels).mean()
        if best is None or reached > best[0]:
            best = reached, (model.predict(scaler.transform(test)) == data.test.labels).mean()
    outcome = probe(target, data, examples=60, seed=1, strengths=strengths)
    assert outcome.selection.accuracy == pytest.approx(best[0], abs=1e-9)
    assert outcome.test.accuracy == pytest.approx(best[1], abs=0.011), "at most two rows on the border"
    assert outcome.steps == 0


def test_every_layer_selects_on_the_selection_split(save_model, tmp_path, data_of):
    """The best of single layers by selection, the earliest of equals; the last layer is among them."""
    target, data = Target("hardened", save_model(tmp_path, layers=3)), data_of("three")
    weights = load_file(tmp_path / "model.safetensors")
    weights["bert.encoder.layer.2.output.LayerNorm.weight"].zero_()  # a last layer that says nothing
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    rows = data.few(12, 0)
    reached = []
    for layer in range(4):
        train, selection, test = (
            features_one_by_one(target, s, layer=layer, num_labels=3)
            for s in (data.train.take(rows), data.selection, data.test)
        )
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        fitted.fit(train, data.train.labels[rows])
        reached.append([
            float((fitted.predict(x) == y).mean())
            for x, y in ((selection, data.selection.labels), (test, data.test.labels))
        ])  # fmt: skip
    best = max(range(4), key=lambda i: reached[i][0])
    assert reached[best][0] > reached[-1][0], "the last layer should not be the best"
    outcome = probe(target, data, examples=12, every_layer=True, strengths=(0.1,))
    assert outcome.selection.accuracy == pytest.approx(reached[best][0], abs=1e-9)
    assert outcome.test.accuracy == pytest.approx(reached[best][1], abs=0.011)
    assert HeadOnly(every_layer=True).name != HeadOnly().name


def test_settings_are_chosen_without_the_test_split(target, data_of):
    """Test labels turned over change the score on test and nothing else."""
    data = data_of("readable")
    turned = AttackData(
        data.task, 2, data.train, data.selection, Split(data.test.features, 1 - data.test.labels), data.collate
    )
    for run in (probe, full):
        one, other = run(target, data, examples=40), run(target, turned, examples=40)
        assert one.selection == other.selection
        assert one.test.accuracy == pytest.approx(1 - other.test.accuracy)


@pytest.mark.parametrize("label", [0, 2])
def test_subset_of_one_class_is_survived(target, data_of, label):
    data = data_of("three", rows=60)
    alike = np.flatnonzero(data.train.labels == label)
    few = AttackData(data.task, 3, data.train.take(alike), data.selection, data.test, data.collate)
    expected = (data.test.labels == label).mean()
    assert probe(target, few, examples=len(alike)).test.accuracy == pytest.approx(expected)
    assert 0 <= full(target, few, examples=len(alike), steps=4).test.accuracy <= 1


def test_subset_without_one_class_spreads_over_all(target, data_of):
    data = data_of("three", rows=120)
    kept = np.flatnonzero(data.train.labels != 1)
    few = AttackData(data.task, 3, data.train.take(kept), data.selection, data.test, data.collate)
    assert probe(target, few, examples=len(kept)).test.accuracy <= (data.test.labels != 1).mean()


def test_features_follow_the_weights_on_disk(folder, tmp_path, readable):
    """The same probe object, run again after the folder was hardened anew, must not remember old features."""
    copied = shutil.copytree(folder, tmp_path / "model")
    target, attack = Target("hardened", str(copied)), HeadOnly()
    settings = attack.space()[0]
    first = attack.run(Trial(target, readable, examples=140, seed=0, settings=settings))
    weights = load_file(copied / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][4:7] = 0.0  # the readable words become alike
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    again = attack.run(Trial(target, readable, examples=140, seed=0, settings=settings))
    assert again == HeadOnly().run(Trial(target, readable, examples=140, seed=0, settings=settings))
    assert again.test.accuracy < first.test.accuracy


def test_features_are_those_of_the_data_given(target, data_of):
    """Probing one data set after another, of the same name, gives what each gives alone."""
    attack = HeadOnly()
    settings = attack.space()[0]
    for rows in (60, 100, 80, 120):
        data = data_of(rows=rows)
        found = attack.run(Trial(target, data, examples=30, seed=0, settings=settings))
        del data
        assert found == HeadOnly().run(Trial(target, data_of(rows=rows), examples=30, seed=0, settings=settings))


# Full fine-tuning


class Loaded(Target):
    """Keeps the model that an attack loaded, to look at it afterwards."""

    def load(self, *head, **options):
        """As :meth:`Target.load`."""
        object.__setattr__(self, "model", super().load(*head, **options))
        return self.model


def test_full_fine_tuning_moves_every_weight(folder, readable):
    target = Loaded("hardened", folder)
    full(target, readable, steps=10, looks=1)
    before = Target("hardened", folder).load(2, 0).state_dict()
    seen = 0
    for name, value in target.model.named_parameters():
        # Rows of words and positions that do not occur get no gradient; weight decay moves them all the same.
        still = torch.equal(value, before[name])
        assert not still or "token_type" in name, name
        seen += 1
    assert seen > 20


def test_full_fine_tuning_is_deterministic_given_the_seed(target, readable):
    """Dropout included: a resumed suite must find what an uninterrupted one finds."""
    torch.manual_seed(1)
    one = full(target, readable, steps=12, examples=60)
    torch.manual_seed(2)
    np.random.seed(2)
    again = full(target, readable, steps=12, examples=60)
    other = full(target, readable, steps=12, examples=60, seed=1)
    assert one == again
    assert one != other


def test_full_fine_tuning_leaves_the_global_generator_alone(target, readable):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    full(target, readable, steps=2)
    assert torch.equal(torch.rand(2), expected)


def test_the_checkpoint_that_selection_prefers_is_kept(save_model, tmp_path, noise):
    """With a look at each step, the outcome is the best of all steps; twin: one run per number of steps."""
    target = Target("hardened", save_model(tmp_path, dropout=0.0))
    constant = {"schedule": "constant", "examples": 140, "learning_rate": 1e-2}
    steps = 8
    ends = [full(target, noise, steps=n, looks=1, **constant) for n in range(1, steps + 1)]
    found = full(target, noise, steps=steps, looks=steps, **constant)
    best = max(ends, key=lambda o: o.selection.accuracy)  # the first of equals
    assert best.selection.accuracy > ends[-1].selection.accuracy, "the last should not be the best"
    assert (found.selection, found.test) == (best.selection, best.test)
    assert found.steps == steps


def test_scores_are_those_of_the_model_left_behind(folder, readable, collate):
    target = Loaded("hardened", folder)
    outcome = full(target, readable, steps=10)
    model = target.model.eval()
    with torch.no_grad():
        rows = [collate([row]) for row in readable.test.features]
        probabilities = torch.cat(
            [model(**{k: v for k, v in b.items() if k != "labels"}).logits for b in rows]
        ).softmax(-1)
    twin = scores(readable.test.labels, probabilities.numpy())
    assert outcome.test.accuracy == pytest.approx(twin.accuracy, abs=0.006)
    assert outcome.test.auc == pytest.approx(twin.auc, abs=1e-3)


def test_exploding_rate_is_a_failure(target, readable):
    with pytest.raises(FloatingPointError, match=r"loss is|not finite"):
        full(target, readable, learning_rate=1e30, steps=6, schedule="constant")


def test_epochs_visit_every_row_before_any_twice():
    order = epochs(10, 4, 7, seed=0)
    assert [len(rows) for rows in order] == [4] * 7
    stream = np.concatenate(order)
    for start in range(0, 20, 10):
        assert sorted(stream[start : start + 10]) == list(range(10))
    assert stream[:10].tolist() != stream[10:20].tolist()
    assert [len(rows) for rows in epochs(3, 16, 2, seed=0)] == [3, 3]


def test_space_is_the_product_of_what_is_searched():
    space = FullFineTuning(learning_rates=(1e-5, 1e-4), steps=(10, 20), batch_size=8).space()
    assert {(p["learning_rate"], p["steps"]) for p in space} == {(1e-5, 10), (1e-4, 10), (1e-5, 20), (1e-4, 20)}
    assert {(p["batch_size"], p["schedule"]) for p in space} == {(8, "linear")}
