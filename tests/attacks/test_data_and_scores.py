"""What an attack sees of a task, and how it is scored."""

import numpy as np
import pytest
import torch
from conftest import COLUMNS
from datasets import IterableDataset

from hf_selfdestruct.attacks import AttackData, Split
from hf_selfdestruct.attacks.data import in_batches
from hf_selfdestruct.attacks.metrics import scores

# Data


def test_splits_are_the_tasks_own(task_of, collate):
    task = task_of(rows=100)
    data = AttackData.of(task, ("input_ids", "attention_mask"), collate)
    assert [len(s.labels) for s in (data.train, data.selection, data.test)] == [70, 30, 100]
    for split, rows, source in ((data.train, task.attacker_rows(), task.attack), (data.test, range(100), task.test)):
        assert [r["input_ids"] for r in split.features] == [source[int(i)]["input_ids"] for i in rows]
        assert split.labels.tolist() == [source[int(i)]["label"] for i in rows]
        assert set(split.features[0]) == {"input_ids", "attention_mask", "labels"}
    seen = [tuple(r["input_ids"]) for s in (data.train, data.selection, data.test) for r in s.features]
    assert len(seen) == len({*seen})


def test_limit_cuts_selection_and_test_alone(task_of, collate):
    task = task_of(rows=100)
    whole, cut = (AttackData.of(task, ("input_ids",), collate, limit=n) for n in (None, 12))
    assert [len(s.labels) for s in (cut.train, cut.selection, cut.test)] == [70, 12, 12]
    for name in ("selection", "test"):
        all_rows = [r["input_ids"] for r in getattr(whole, name).features]
        places = [all_rows.index(r["input_ids"]) for r in getattr(cut, name).features]
        assert places == sorted(places)
        assert places != list(range(12)), "the first rows of a shuffle, not of the split"
    again = AttackData.of(task, ("input_ids",), collate, limit=12)
    assert [r["input_ids"] for r in again.test.features] == [r["input_ids"] for r in cut.test.features]


@pytest.mark.parametrize("missing", ["attack", "test"])
def test_task_without_a_needed_split_is_refused(task_of, collate, missing):
    task = task_of(rows=20)
    object.__setattr__(task, missing, None)
    with pytest.raises(ValueError, match=f"'toy' has no '{missing}' split"):
        AttackData.of(task, ("input_ids",), collate)


def test_few_examples_are_nested_and_seeded(data_of):
    data, same = data_of(rows=100), data_of(rows=100)
    for seed in range(3):
        assert data.few(20, seed) == data.few(50, seed)[:20] == same.few(20, seed)
        assert sorted(data.few(70, seed)) == sorted(data.few(1000, seed)) == list(range(70))
    assert data.few(20, 0) != data.few(20, 1)
    assert data.few(20, 0) != data_of(rows=100, name="other").few(20, 0)


def test_taken_rows_keep_their_labels(readable):
    taken = readable.train.take([3, 1, 3])
    assert [r["labels"] for r in taken.features] == taken.labels.tolist()
    assert taken.features == [readable.train.features[i] for i in (3, 1, 3)]


# Scores


def test_batches_keep_the_row_order(target, readable, collate):
    """Twin: one row at a time, unpadded."""
    model = target.load(2, seed=0).eval()

    def call(batch):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    rows = Split(readable.test.features[:40], readable.test.labels[:40])
    assert len({len(r["input_ids"]) for r in rows.features}) > 3, "lengths should differ"
    with torch.no_grad():
        twin = np.concatenate([call(collate([row])).numpy() for row in rows.features])
    for size in (1, 7, 64):
        np.testing.assert_allclose(in_batches(rows, collate, call, size=size), twin, atol=1e-5)


def test_batches_leave_the_rows_as_they_were(readable, collate):
    before = [dict(r) for r in readable.test.features]

    def spoil(rows):
        batch = collate(rows)
        for row in rows:
            row.clear()
        return batch

    in_batches(readable.test, spoil, lambda batch: batch["labels"])
    assert readable.test.features == before


def auc_by_hand(positive, negative):
    """Share of pairs ranked rightly, ties half."""
    return np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])


def test_accuracy_and_auc_by_hand():
    labels = np.array([0, 0, 1, 2, 2])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    found = scores(labels, probabilities)
    assert found.accuracy == pytest.approx(3 / 5)
    aucs = [auc_by_hand(probabilities[labels == c, c], probabilities[labels != c, c]) for c in range(3)]
    assert found.auc == pytest.approx(np.mean(aucs))


def test_flipped_labels_have_a_low_auc():
    labels = np.array([0, 1] * 10)
    right = np.stack([1 - labels, labels], axis=1) * 0.8 + 0.1
    found = scores(labels, right)
    assert (found.accuracy, found.auc, found.balanced_accuracy) == (1.0, 1.0, 1.0)
    flipped = scores(labels, right[:, ::-1])
    assert (flipped.accuracy, flipped.auc) == (0.0, 0.0)


def test_class_absent_from_the_test_rows_has_no_auc():
    found = scores(np.array([0, 0, 0]), np.full((3, 2), 0.5))
    assert (found.accuracy, found.auc) == (1.0, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_are_a_failure(bad):
    probabilities = np.full((3, 2), 0.5)
    probabilities[1, 0] = bad
    with pytest.raises(FloatingPointError, match="not finite"):
        scores(np.array([0, 1, 0]), probabilities)


def test_a_stream_has_no_rows_for_the_attacker():
    stream = IterableDataset.from_generator(lambda: iter([{"input_ids": [1], "label": 0}]))
    assert stream.column_names is None
    assert Split.of(stream, COLUMNS) is None
