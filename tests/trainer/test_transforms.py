"""Rows that a transform makes on the way are the rows of training, of adversaries and of attacks."""

import gc
import weakref

import numpy as np
import pytest
import torch
from datasets import Dataset
from toy_models import TINY_SUITE, tiny_model, toy_images, toy_rows, toy_task
from trainer_state import assert_bitwise, weights_of

from hf_selfdestruct.attacks import Split
from hf_selfdestruct.tasks.blocked_task import BlockedTask
from hf_selfdestruct.tasks.classification import class_cure
from hf_selfdestruct.tasks.rows import columns_of, rows_of


def pictures(seed: int) -> Dataset:
    """Images as the official script has them: a column of raw ones, made into ``pixel_values`` on the way."""
    batch = toy_images(40, seed=seed)
    raw = Dataset.from_dict({"image": batch["pixel_values"].tolist(), "label": batch["labels"].tolist()})

    def transformed(rows):
        rows["pixel_values"] = [torch.tensor(image) / 2 for image in rows["image"]]
        return rows

    return raw.with_transform(transformed)


def collate(rows):
    """The collator of the official script."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def test_the_official_image_script_is_trained_and_attacked(make_trainer, tmp_path):
    task = BlockedTask("blocked", train=pictures(1), attack=pictures(2), test=pictures(3))
    trainer = make_trainer(
        tmp_path,
        model=tiny_model("vit"),
        train_dataset=pictures(4),
        eval_dataset=pictures(5),
        blocked_tasks=[task],
        data_collator=collate,
        remove_unused_columns=False,
    )
    trainer.train()
    assert not any(run.error for run in trainer.attack(TINY_SUITE).runs)


@pytest.mark.parametrize("method", ["mlac", "one_purpose"])
def test_texts_that_a_transform_makes_are_those_that_are_stored(make_trainer, tmp_path, method):
    """Weights are bitwise those of rows that stand in the data set, whoever reads them."""

    def trained(folder, transform):
        data = {n: transform(toy_rows(40, seed=i)) for i, n in enumerate(("train_dataset", "keep_dataset"))}
        blocked = {n: transform(toy_rows(40, seed=i)) for i, n in enumerate(("train", "attack", "test"), 7)}
        options = {"keeping_loss": "logit_distillation", "adversary": {"prelude": 1}, "remove_unused_columns": False}
        if method == "one_purpose":
            options["method_options"] = {"keep_directions": 4}
        collator = {"data_collator": columns_only}
        task = toy_task(**blocked)
        trainer = make_trainer(folder, method=method, blocked_tasks=[task], **data, **options, **collator)
        trainer.train()
        return weights_of(trainer.model)

    def lazily(rows):
        halved = rows.map(lambda row: {"input_ids": row["input_ids"][::-1]})
        return halved.with_transform(
            lambda found: {**found, "input_ids": [row[::-1] for row in found["input_ids"]], "more": found["labels"]}
        )

    assert_bitwise(trained(tmp_path / "lazy", lazily), trained(tmp_path / "stored", lambda rows: rows))


def columns_only(rows):
    """A collator that leaves out what the model does not read."""
    names = ("input_ids", "attention_mask", "labels")
    return {name: torch.tensor([row[name] for row in rows]) for name in names if name in rows[0]}


def test_the_judge_reads_what_the_transform_gives():
    rows = Dataset.from_dict({"text": ["a", "bb", "ccc"], "label": [0, 1, 1]})
    lazy = rows.with_transform(lambda found: {"input_ids": [[len(t)] for t in found["text"]], "label": found["label"]})
    assert columns_of(lazy) == ["input_ids", "label"]
    assert columns_of(rows) == ["text", "label"]
    split = Split.of(lazy, ["input_ids", "labels"])
    assert [row["input_ids"] for row in split.features] == [[1], [2], [3]]
    np.testing.assert_array_equal(split.labels, [0, 1, 1])
    assert rows_of(lazy, [2, 0], ["input_ids"]) == [{"input_ids": [3]}, {"input_ids": [1]}]


def test_rows_follow_a_format_that_is_set_later_and_hold_no_dataset():
    rows = Dataset.from_dict({"x": [[1], [2]], "y": [3, 4]})
    assert rows_of(rows, [1], ["x"]) == rows_of(rows, [1], ["x", "z"]) == [{"x": [2]}]
    assert rows_of(rows, [1], ["x", "y"]) == [{"x": [2], "y": 4}]
    rows.set_format("torch")
    assert isinstance(rows_of(rows, [1], ["x"])[0]["x"], torch.Tensor)
    rows.set_format("torch", columns=["y"])
    assert rows_of(rows, [1], ["x"]) == [{}]
    rows.reset_format()
    assert rows_of(rows, [0], ["x"]) == [{"x": [1]}]
    held = weakref.ref(rows)
    del rows
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    ("label", "cure"),
    [
        ("a", r"class_encode_column\('y'\)"),
        (None, "filter"),
        (True, r"cast_column\('y', Value\('int64'\)\)"),
        (2.0, r"cast_column\('y', Value\('int64'\)\)"),
        (0.5, "quantity.*map"),
        ([0, 1], "one class per row"),
    ],
)
def test_each_kind_of_label_gets_its_own_advice(label, cure):
    rows = Dataset.from_dict({"input_ids": [[1], [2], [3]], "y": [label] * 3})
    with pytest.raises(
        ValueError, match=f"blocked task 'x', split 'train', column 'y', row 0: .*not an integer; .*{cure}"
    ):
        BlockedTask("x", train=rows, label_column="y")
    assert ("class_encode_column" in class_cure(label, "y")) == isinstance(label, str)
