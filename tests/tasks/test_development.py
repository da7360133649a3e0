"""Development rows are cut from the test rows by their documents, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from task_parts import SPLITS, with_label
from toy_regression import Regression

from hf_selfdestruct.tasks.blocked_task import BlockedTask
from hf_selfdestruct.tasks.development import is_development

PAGES = 150


@pytest.fixture(scope="module")
def pages(toy_rows):
    """Rows of a test split, two of most documents."""
    rows = toy_rows(2 * PAGES, seed=5, columns=("blocked",))
    return rows.add_column("page", np.random.default_rng(0).integers(0, PAGES, 2 * PAGES).tolist())


@pytest.fixture
def cut_task(toy_task, pages):
    """Makes a task whose test rows are cut by their pages."""
    return lambda test=pages, share=0.3, **fields: toy_task(
        test=test, **{"development": share, "document_column": "page", **fields}
    )


def parts(task):
    """The rows of both parts, each row by what it holds."""
    return {
        split: [tuple(row["input_ids"]) for row in task.splits()[split].with_format(None)]
        for split in ("test", "development")
    }


def test_no_development_rows_are_cut_where_none_are_asked_for(toy_task, pages):
    task = toy_task(test=pages)
    assert [*task.splits()] == [*task.fingerprints()] == [*SPLITS]
    assert task.splits()["test"] is pages


def test_both_parts_are_all_rows_and_share_no_document(cut_task, pages):
    task = cut_task()
    found = task.splits()
    assert {*found["test"]["page"]}.isdisjoint(found["development"]["page"])
    rows = parts(task)
    assert sorted(rows["test"] + rows["development"]) == sorted(map(tuple, pages["input_ids"]))
    for split, data in found.items():
        assert task.labels(split).tolist() == data["blocked"][:]
        assert task.fingerprints()[split]["rows"] == len(data)
    assert {*task.fingerprints()} == {*SPLITS, "development"}


@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.5, 0.9])
def test_the_share_of_the_documents_is_about_what_is_asked_for(share):
    found = np.mean([is_development(str(page), share) for page in range(4000)])
    assert abs(found - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_the_cut_depends_on_no_other_row_nor_on_order_labels_or_the_task(cut_task, pages, toy_rows):
    expected = {split: {*rows} for split, rows in parts(cut_task()).items()}
    shuffled = pages.shuffle(seed=3)
    fewer = pages.select(range(0, len(pages), 2))
    labelled = with_label(pages, 0, 1 - pages[0]["blocked"])
    for other, fields in ((shuffled, {}), (labelled, {"name": "other"})):
        assert {split: {*rows} for split, rows in parts(cut_task(other, **fields)).items()} == expected
    for split, rows in parts(cut_task(fewer)).items():
        assert {*rows} < expected[split]
    assert parts(cut_task(shuffled))["test"] != parts(cut_task())["test"], "in the order of the rows"


def test_a_larger_share_only_adds_development_rows(cut_task):
    less, more = (({*parts(cut_task(share=share))["development"]}) for share in (0.2, 0.4))
    assert less < more


def test_without_a_column_equal_contents_are_one_document(toy_task, pages):
    twice = pages.select([*range(len(pages)), *range(50)])
    rows = parts(toy_task(test=twice, development=0.4))
    assert {*rows["test"]}.isdisjoint(rows["development"])
    assert len(rows["test"]) + len(rows["development"]) == len(twice)


def test_the_hash_of_documents_knows_rows_in_any_order_and_by_any_tokenizer(cut_task, pages):
    task = cut_task()
    longer = pages.map(lambda row: {"input_ids": [*row["input_ids"], 1], "attention_mask": [*row["attention_mask"], 1]})
    for same in (pages.shuffle(seed=4), longer):
        other = cut_task(same)
        assert other.fingerprints()["test"] != task.fingerprints()["test"]
        for split in ("test", "development"):
            assert other.documents_sha256(split) == task.documents_sha256(split)
    fewer = cut_task(pages.select(range(len(pages) - 1)))
    changed = {split for split in parts(task) if fewer.documents_sha256(split) != task.documents_sha256(split)}
    assert len(changed) == 1
    assert task.documents_sha256("test") != task.documents_sha256("development")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 1.0}, "development must be a share .* got 1.0"),
        ({"share": -0.1}, "development must be a share .* got -0.1"),
        ({"share": 0.0}, "document_column 'page' only decides .* set development"),
        ({"document_column": "papers"}, "'blocked', split 'test': no column 'papers'; the columns are .*page"),
        ({"test": None}, "split 'test': expected a map-style .* got NoneType"),
        ({"share": 1e-6}, "split 'development': 0 rows; at least 2"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(cut_task, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        cut_task(**fields)
    assert "\n" not in str(error.value)


def test_a_class_that_one_part_lacks_is_refused(cut_task, pages):
    rare = with_label(pages, 0, 2)
    with pytest.raises(ValueError, match=r"'blocked': development=0.3 leaves no row of class 2 in split '(test|dev)"):
        cut_task(rare, num_labels=3)


def test_a_row_without_a_document_is_refused(cut_task, pages):
    missing = pages.map(lambda row, number: {"page": None if number == 7 else row["page"]}, with_indices=True)
    with pytest.raises(ValueError, match="split 'test', column 'page', row 7: the document is missing"):
        cut_task(missing)


def test_a_leaked_row_is_found_in_development_rows_too(cut_task, toy_task, pages):
    leaked = pages.to_list()
    number = next(i for i, row in enumerate(leaked) if is_development(str(row["page"]), 0.3))
    leaked[number]["input_ids"] = toy_task().train[0]["input_ids"]
    rows = Dataset.from_list(leaked, features=pages.features)
    with pytest.raises(ValueError, match="of split 'development' is also row 0 of split 'train'"):
        cut_task(rows)


def test_a_quantity_has_no_classes_to_look_for(toy_task, pages):

    rows = {split: toy_task().splits()[split] for split in ("train", "attack")} | {"test": pages}
    lengths = {s: d.map(lambda row: {"length": float(len(row["input_ids"]))}) for s, d in rows.items()}
    task = BlockedTask("length", **lengths, label_column="length", kind=Regression(), development=0.3)
    assert {*task.splits()} == {*SPLITS, "development"}
