"""What is wrong with the data of a blocked task is named before training."""

from __future__ import annotations

from itertools import combinations

import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from task_parts import SPLITS, with_label, with_tokens

from hf_selfdestruct.tasks.blocked_task import BlockedTask, content_hashes


@pytest.mark.parametrize("split", SPLITS)
def test_a_missing_column_is_named(toy_task, split_rows, split) -> None:
    message = rf"'gender', split '{split}': no column 'blocked'; the columns are input_ids, attention_mask"
    with pytest.raises(ValueError, match=message):
        toy_task("gender", **{split: split_rows[split].remove_columns("blocked")})


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("label", "shown", "row"), [("1", "'", 0), (1.5, ".0", 0), (True, "True|False", 0)])
def test_labels_that_are_no_integers_are_named(toy_task, split_rows, split, label, shown, row) -> None:
    message = rf"'gender', split '{split}', column 'blocked', row {row}: label .*({shown}).* is not an integer"
    with pytest.raises(ValueError, match=message):
        toy_task("gender", **{split: with_label(split_rows[split], 5, label)})


def test_a_missing_label_is_named_with_its_row(toy_task, split_rows) -> None:
    message = r"'gender', split 'attack', column 'blocked', row 7: label None is not an integer"
    with pytest.raises(ValueError, match=message):
        toy_task("gender", attack=with_label(split_rows["attack"], 7, None))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("label", [2, -1])
def test_labels_outside_the_range_are_named_with_their_row(toy_task, split_rows, split, label) -> None:
    message = rf"'gender', split '{split}', column 'blocked', row 33: label {label} is outside 0\.\.1 .*num_labels=2"
    with pytest.raises(ValueError, match=message):
        toy_task("gender", **{split: with_label(split_rows[split], 33, label)})


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_split_is_named(toy_task, split_rows, split, count) -> None:
    with pytest.raises(ValueError, match=rf"'gender', split '{split}': {count} rows; at least 2"):
        toy_task("gender", **{split: split_rows[split].select(range(count))})


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_an_overlap_between_any_two_splits_is_named_with_both_rows(toy_task, split_rows, one, other) -> None:
    leaked = with_tokens(split_rows[other], 8, split_rows[one]["input_ids"][3])
    message = rf"'gender': row 8 of split '{other}' is also row 3 of split '{one}'"
    with pytest.raises(ValueError, match=message):
        toy_task("gender", **{other: leaked})


def test_an_overlap_is_found_whatever_the_label_and_the_other_columns(toy_task, split_rows) -> None:
    leaked = with_tokens(split_rows["test"], 8, split_rows["train"]["input_ids"][3])
    leaked = with_label(leaked, 8, 1 - split_rows["train"]["blocked"][3])
    leaked = leaked.add_column("note", [f"row {i}" for i in range(len(leaked))])
    with pytest.raises(ValueError, match="is also row 3 of split 'train'"):
        toy_task(test=leaked)


def test_repeats_within_a_split_are_allowed(toy_task, split_rows) -> None:
    repeated = split_rows["train"].select([*range(60), 0, 1])
    assert len(toy_task(train=repeated).train) == 62


def test_overlap_is_found_between_differently_formatted_datasets(toy_task, split_rows) -> None:
    leaked = with_tokens(split_rows["test"], 8, split_rows["train"]["input_ids"][3])
    with pytest.raises(ValueError, match="splits must not share rows"):
        toy_task(train=split_rows["train"].with_format("numpy"), test=leaked)


def test_long_formatted_rows_that_differ_in_the_middle_are_no_overlap(toy_task) -> None:
    """numpy prints long arrays with an ellipsis: content must be hashed whole."""

    def rows(offset: int) -> Dataset:
        base = [[7] * 2000 for _ in range(4)]
        for i, row in enumerate(base):
            row[1000] = offset + i
        return Dataset.from_dict({"input_ids": base, "blocked": [0, 1, 0, 1]}).with_format("numpy")

    task = toy_task(train=rows(0), attack=rows(10), test=rows(20))
    assert len(set(content_hashes(task.train, "blocked"))) == 4


@pytest.mark.parametrize("split", SPLITS)
def test_something_else_than_a_dataset_is_refused(toy_task, split_rows, split) -> None:
    wrong = {
        "DatasetDict": DatasetDict(split_rows),
        "dict": {"input_ids": [[1]], "blocked": [1]},
        "list": [{"input_ids": [1], "blocked": 1}],
        "IterableDataset": split_rows[split].to_iterable_dataset(),
    }
    assert isinstance(wrong["IterableDataset"], IterableDataset)
    for kind, data in wrong.items():
        with pytest.raises(ValueError, match=rf"'gender', split '{split}': expected a map-style .* got {kind}"):
            toy_task("gender", **{split: data})


@pytest.mark.parametrize("weight", [0, -1.0, float("nan")])
def test_a_weight_must_be_positive(toy_task, weight) -> None:
    with pytest.raises(ValueError, match=f"'gender': weight must be positive, got {weight}"):
        toy_task("gender", weight=weight)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../x", "ä", "a\n"])
def test_a_name_must_be_plain(toy_task, name) -> None:
    with pytest.raises(ValueError, match="use letters, digits"):
        toy_task(name)


@pytest.mark.parametrize("number", [0, 1])
def test_a_task_has_two_classes_at_least(toy_task, number) -> None:
    with pytest.raises(ValueError, match=rf"num_labels is {number}; a task has at least 2"):
        toy_task(num_labels=number)


def test_splits_that_number_their_classes_otherwise_are_refused_with_a_cure_that_works(toy_task, split_rows) -> None:
    def texts(split, names):
        labels = [names[label] for label in split_rows[split]["blocked"]]
        return split_rows[split].remove_columns("blocked").add_column("blocked", labels)

    plain = {split: texts(split, ["man", "woman"]) for split in SPLITS}
    encoded = {**plain, "attack": texts("attack", ["man", "non-binary"])}
    encoded = {split: rows.class_encode_column("blocked") for split, rows in encoded.items()}
    shown = r"\['man', 'non-binary'\] in split 'attack' and \['man', 'woman'\] in split 'train'.*attack.cast_column"
    with pytest.raises(ValueError, match=shown):
        toy_task(**encoded)
    cured = {**plain, "train": encoded["train"]}
    cured |= {s: plain[s].cast_column("blocked", cured["train"].features["blocked"]) for s in ("attack", "test")}
    task = toy_task(**cured)
    assert all(task.labels(split).tolist() == split_rows[split]["blocked"][:] for split in SPLITS)
    toy_task(**{**cured, "test": split_rows["test"]})  # bare numbers are what they are said to be


def test_a_single_class_in_the_data_is_refused(toy_task, split_rows) -> None:
    zeros = split_rows["train"].remove_columns("blocked").add_column("blocked", [0] * 60)
    with pytest.raises(ValueError, match="num_labels is 1"):
        toy_task(train=zeros, num_labels=None)


def test_a_stray_label_makes_no_classes_without_rows(toy_task, split_rows):
    strayed = with_label(split_rows["train"], 4, 7)
    with pytest.raises(ValueError, match=r"column 'blocked': no label is 2, and the largest is 7; .* say num_labels=8"):
        toy_task(train=strayed, num_labels=None)
    assert toy_task(train=strayed, num_labels=8).outputs == 8


def test_a_task_without_rows_to_train_on_is_refused():
    with pytest.raises(ValueError, match=r"split 'train': expected a map-style datasets\.Dataset, got NoneType"):
        BlockedTask("gender", train=None)
