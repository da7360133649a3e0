"""Fine-tuning of a model that encodes the two texts of a row apart."""

import numpy as np
import pytest
import torch
from conftest import save_model
from datasets import Dataset
from pair_cases import COLUMNS, OPENS, WORDS, collate, pair_row, split_of
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import BertForSequenceClassification

from hf_selfdestruct.attacks import (
    AttackData,
    AttackSuite,
    Entry,
    PairProbe,
    PairProbedFirst,
    Split,
    Target,
    Trial,
)
from hf_selfdestruct.attacks.methods.pair_fine_tuning import PairClassifier, apart
from hf_selfdestruct.attacks.methods.pair_probe import differences
from hf_selfdestruct.attacks.methods.pair_words import two_texts
from hf_selfdestruct.attacks.methods.probed_first import probed
from hf_selfdestruct.attacks.suites.audit import plan_problems
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.tasks.blocked_task import BlockedTask

TUNED = PairProbedFirst(
    learning_rates=(3e-3, 1e-4), steps=(4,), looks=2, prune=True, average=0.9, layer_decay=0.8, word_dropout=0.1
)
ROWS = [pair_row([7, 8], [9]), pair_row([7], [11, 12, 13]), pair_row([5, 6, 7, 8], [9, 10])]


def alone(model, row, side):
    """The average of one text of a row that is encoded by itself, and its tokens."""
    ids = torch.tensor([two_texts(row)[side]])
    return model.base_model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1), ids


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_texts_of_a_batch_are_those_of_each_row_alone(target, left):
    cut = {"input_ids": [OPENS, 7, 8, 9, 10], "token_type_ids": [0] * 5, "attention_mask": [1] * 5}  # no second text
    rows, model = [*ROWS, cut], target.load(2, 0).eval()
    batch = collate(rows, left=left)
    found = PairClassifier.vectors(model, batch, ("mean",))[:, 0]
    for place, row in enumerate(rows):
        texts = [alone(model, row, side) for side in (0, 1)]
        for (_, ids), side in zip(texts, apart(batch), strict=True):
            assert side["input_ids"][place][side["attention_mask"][place] == 1].tolist() == ids[0].tolist()
            assert side["input_ids"].shape[1] <= 7, "no wider than the longest text"
        torch.testing.assert_close(found[place], differences(*(vector for vector, _ in texts))[0], atol=1e-5, rtol=1e-4)


def test_words_that_were_left_out_of_a_batch_stay_out():
    batch = collate(ROWS[:1])  # opens 7 8 closes 9 closes
    batch["attention_mask"][0, [2, 4]] = 0
    first, second = apart(batch)
    assert first["attention_mask"].tolist() == [[1, 1, 0, 1]]
    assert second["attention_mask"].tolist() == [[1, 0, 1]]


def alike(count, seed, words):
    """Pairs that share no word; label 1 where all words of both are of one half of the vocabulary, else of each one."""
    generator = np.random.default_rng(seed)
    rows, labels = [], generator.integers(0, 2, count)
    for label in labels.tolist():
        halves = [generator.permutation(half).tolist() for half in generator.permutation(words)]
        rows.append({**pair_row(halves[0][:4], halves[1 - label][4:8]), "labels": label})
    return Split(rows, labels)


@pytest.fixture(scope="module")
def unseen():
    """Rows whose test words were never seen: only who knows the halves of the vocabulary can do it."""
    seen, others = ((WORDS[:10], WORDS[20:30]), (WORDS[10:20], WORDS[30:40]))
    splits = alike(120, 0, seen), alike(60, 1, seen), alike(200, 2, others)
    return AttackData("pairs", 2, *splits, collate)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory):
    """A model to which the halves of the vocabulary lie apart."""
    folder = save_model(tmp_path_factory.mktemp("knowing"))
    model = BertForSequenceClassification.from_pretrained(folder)
    table = model.get_input_embeddings().weight.data
    table[WORDS[:20]] += 0.05 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return Target("base", folder)


def test_what_a_trunk_knows_of_both_texts_is_found_and_scratch_learns_nothing(unseen, knowing):
    attack = PairProbedFirst(learning_rates=(3e-4,), steps=(20,), looks=1)
    scratch = Target("scratch", knowing.folder, random=True)
    reached = [attack.run(Trial(one, unseen, 120, 0, attack.space()[0])) for one in (knowing, scratch)]
    assert [run.found["pooling"] for run in reached] == ["mean", "mean"]
    assert reached[0].test.accuracy > 0.9
    assert reached[1].test.accuracy < 0.65


def test_it_starts_as_the_pair_probe_and_every_weight_that_is_read_moves(unseen, knowing):
    trial = Trial(knowing, unseen, 120, 0, {})
    few = unseen.train.take(trial.few())
    model, strength = probed(knowing.load(2, 0).eval(), few, trial, classifier=PairClassifier)
    vectors = [torch.cat([alone(model.model, row, side)[0] for row in few.features]).detach() for side in (0, 1)]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    features = differences(*vectors).double().numpy()
    twin = probe.fit(features, few.labels).predict_proba(features)
    answers = model(**collate(few.features))
    np.testing.assert_allclose(answers.logits.softmax(-1).detach().numpy(), twin, atol=1e-3)
    answers.loss.backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    assert not {"head_weight", "head_bias"} & still
    # A key's bias adds the same to every token's weight; the pooler and the old head are not read.
    assert all("key.bias" in name or "pooler" in name or name.startswith("model.classifier") for name in still)


def task_of(rows):
    splits = {
        name: Dataset.from_list(split_of(count, seed, shared=4).features)
        for seed, (name, count) in enumerate({"train": 20, "attack": rows, "test": 40}.items())
    }
    return BlockedTask("pairs", **splits, label_column="labels", num_labels=2)


def test_every_model_is_attacked_and_refitted_with_all_options(knowing, tmp_path, monkeypatch):
    entries = (Entry(PairProbe(strengths=(0.1,)), (None,)), Entry(TUNED, (None,), refit=True))
    suite = AttackSuite("toy", 1, entries, seeds=1, few_seeds=1, more=None, null=False)
    monkeypatch.setitem(SUITES, "toy", suite)
    folders = {role: save_model(tmp_path / role, seed=seed) for seed, role in enumerate(("undefended", "hardened"))}
    targets = [knowing, *(Target(role, folder) for role, folder in folders.items())]
    scratch = Target("scratch", knowing.folder, random=True)
    report = suite.run([*targets, scratch], [task_of(60)], columns=COLUMNS, collate=collate, progress=False)
    assert [line for line in plan_problems(report) if "desired" not in line] == []
    tuned = [run for run in report.runs if run.attack == TUNED.name and run.chosen]
    assert {run.status for run in tuned} == {"ok"}
    assert len(tuned) == 4 * 2, "on each model, and again on all rows"
    assert {run.settings["head"] for run in tuned} == {"pair probe"}
