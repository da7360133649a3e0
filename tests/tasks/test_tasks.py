"""Blocked tasks: labels, who may see what, batches, fingerprints."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from task_parts import SPLITS, with_label, with_tokens

from hf_selfdestruct.tasks.blocked_task import BlockedTask, content_hashes, draw_rows, fingerprint, seed_of

# Labels and their number


def test_number_of_labels_comes_from_the_feature_else_from_the_data(toy_task, split_rows) -> None:
    assert toy_task(num_labels=None).num_labels == 2
    assert toy_task(num_labels=5).num_labels == 5
    three = with_label(split_rows["train"], 0, 2)
    assert toy_task(train=three, num_labels=None).num_labels == 3
    named = split_rows["train"].cast_column("blocked", ClassLabel(names=["a", "b", "c", "d"]))
    assert toy_task(train=named, num_labels=None).num_labels == 4


def test_labels_are_those_of_the_rows(toy_task, split_rows) -> None:
    task = toy_task()
    for split in SPLITS:
        assert task.labels(split).tolist() == split_rows[split]["blocked"][:]
        assert task.labels(split).dtype == np.int64


# Who may see what


def test_validation_stands_in_for_attack_and_attack_goes_first(toy_task, toy_rows, split_rows) -> None:
    other = toy_rows(30, seed=77, columns=("blocked",))
    alone = toy_task(attack=None, validation=other)
    assert set(alone.splits()) == set(SPLITS)
    assert alone.splits()["attack"] is other
    assert len(alone.attacker_rows()) + len(alone.selection_rows()) == 30
    both = toy_task(validation=other)
    assert both.splits()["attack"] is both.attack
    assert set(toy_task(attack=None, test=None).splits()) == {"train"}
    leaked = with_tokens(other, 0, split_rows["train"]["input_ids"][0])
    with pytest.raises(ValueError, match="splits must not share rows"):
        toy_task(attack=None, validation=leaked)


@pytest.mark.parametrize("rows", [2, 3, 10, 60, 101])
def test_partitions_are_disjoint_and_cover_everything_in_the_promised_shares(toy_task, rows) -> None:
    task = toy_task(rows=rows)
    for large, small, share in (
        (task.adversary_rows(), task.held_out_rows(), 0.2),
        (task.attacker_rows(), task.selection_rows(), 0.3),
    ):
        assert sorted([*large, *small]) == list(range(rows))
        assert len(small) == max(1, round(share * rows))
        assert len(large) > 0


def test_partitions_are_scattered_and_fixed_across_objects_and_processes(toy_task) -> None:
    one, other = toy_task(rows=100), toy_task(rows=100, seed=50)
    assert one.held_out_rows().tolist() == other.held_out_rows().tolist()
    assert one.held_out_rows().tolist() != list(range(80, 100))
    assert one.held_out_rows().tolist() != list(range(20))
    assert one.selection_rows().tolist() != toy_task("another", rows=100).selection_rows().tolist()
    assert one.held_out_rows().tolist() != one.selection_rows()[:20].tolist()
    # Frozen: a published report stays reproducible only while the partition stays what it was.
    script = (
        "from hf_selfdestruct.tasks.blocked_task import _partition; "
        "print(*_partition('blocked/train', 100, 0.2)[1], *_partition('blocked/attack', 100, 0.3)[1])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "3"}
    )
    assert found.stdout.split() == [str(row) for row in (*one.held_out_rows(), *one.selection_rows())]


# Batches by counting


def test_drawing_is_decided_by_the_key_alone() -> None:
    rows = np.arange(100, 200)
    once = draw_rows(rows, 16, "inner", 0, "gender", 7, 3, 0, 0)
    np.random.default_rng(0)
    assert once.tolist() == draw_rows(rows, 16, "inner", 0, "gender", 7, 3, 0, 0).tolist()
    keys = [
        ("inner", k, task, seed, step, micro, rank)
        for k in (0, 1)
        for task in ("gender", "age")
        for seed in (7, 8)
        for step in (3, 4)
        for micro in (0, 1)
        for rank in (0, 1)
    ]
    assert len({tuple(draw_rows(rows, 16, *key)) for key in keys}) == len(keys)


@pytest.mark.parametrize("size", [1, 7, 30, 31])
def test_drawn_rows_never_repeat_and_never_leave_the_given_ones(size) -> None:
    rows = np.array([3 * i + 1 for i in range(30)])
    seen = set()
    for step in range(60):
        drawn = draw_rows(rows, size, step).tolist()
        assert len(drawn) == len(set(drawn)) == min(size, 30)
        assert set(drawn) <= set(rows.tolist())
        seen.update(drawn)
    assert len(seen) > 20  # all get their turn


def test_drawing_leaves_the_global_generators_alone() -> None:
    import torch

    before, old = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    draw_rows(np.arange(10), 3, "x")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (np.random.get_state()[1] == old).all()


def test_seeds_are_63_bits_and_the_same_everywhere() -> None:
    assert all(0 <= seed_of("gender", i) < 2**63 for i in range(100))
    script = (
        "from hf_selfdestruct.tasks.blocked_task import seed_of; print(seed_of('gender', 7, 0), seed_of('gender', 70))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"}
    )
    assert found.stdout.split() == [str(seed_of("gender", 7, 0)), str(seed_of("gender", 70))]
    assert seed_of("gender", 7, 0) != seed_of("gender", 70)


# Features and fingerprints


def test_features_are_what_a_collator_takes(toy_task, split_rows) -> None:
    extra = split_rows["train"].add_column("text", ["x"] * 60).add_column("label", [9] * 60)
    task = toy_task(train=extra)
    rows = [5, 3, 5]
    found = task.features("train", rows, ["input_ids", "attention_mask", "labels", "label", "token_type_ids"])
    assert [set(feature) for feature in found] == [{"input_ids", "attention_mask", "labels"}] * 3
    for feature, row in zip(found, rows, strict=True):
        assert feature["input_ids"] == split_rows["train"]["input_ids"][row]
        assert feature["labels"] == split_rows["train"]["blocked"][row]
        assert type(feature["labels"]) is int


def test_a_label_column_named_labels_is_taken_for_what_it_is(toy_task, split_rows) -> None:
    renamed = {role: data.rename_column("blocked", "labels") for role, data in split_rows.items()}
    task = toy_task(**renamed, label_column="labels")
    found = task.features("test", [2], ["input_ids", "labels"])
    assert found == [{"input_ids": split_rows["test"]["input_ids"][2], "labels": split_rows["test"]["blocked"][2]}]


def test_fingerprints_notice_every_label_token_and_order(toy_task, split_rows) -> None:
    plain = toy_task().fingerprints()
    assert {split: print_["rows"] for split, print_ in plain.items()} == dict.fromkeys(SPLITS, 60)
    assert toy_task("other").fingerprints() == plain
    row = split_rows["attack"]["input_ids"][9]
    changes = {
        "label": with_label(split_rows["attack"], 9, 1 - split_rows["attack"]["blocked"][9]),
        "token": with_tokens(split_rows["attack"], 9, [*row[:-1], 59 - row[-1]]),
        "order": split_rows["attack"].select([1, 0, *range(2, 60)]),
    }
    for kind, changed in changes.items():
        found = toy_task(attack=changed).fingerprints()
        assert found["attack"]["sha256"] != plain["attack"]["sha256"], kind
        assert {s: found[s] for s in ("train", "test")} == {s: plain[s] for s in ("train", "test")}


@pytest.mark.parametrize("on_disk", [False, True])
def test_pictures_are_known_by_their_bytes(tmp_path, on_disk) -> None:
    def rows(changed: int) -> Dataset:
        pixels = np.zeros((2, 4, 4, 3), np.uint8)
        pixels[1, 0, 0, 0] = changed
        pictures = [PIL.Image.fromarray(picture) for picture in pixels]
        folder = tmp_path / str(changed)
        if on_disk:
            folder.mkdir(exist_ok=True)
            for i, picture in enumerate(pictures):
                picture.save(folder / f"{i}.png")
            pictures = [str(folder / f"{i}.png") for i in range(2)]
        columns = {"image": pictures, "label": [0, 1]}
        kinds = Features({"image": Image(), "label": Value("int64")})
        return Dataset.from_dict(columns, features=kinds).with_transform(lambda found: found)

    assert fingerprint(rows(1)) == fingerprint(rows(1)) != fingerprint(rows(2))
    assert content_hashes(rows(1), "label")[0] == content_hashes(rows(2), "label")[0]


def test_the_fingerprint_of_texts_is_what_committed_reports_hold() -> None:
    data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4]], "attention_mask": [[1, 1, 1], [1]], "label": [0, 1]})
    assert fingerprint(data) == "4ed5b2ab7056e94621ecb28f9b2114ecbad720a3f7280d9f65998a9319d65b59"
    assert (
        fingerprint(data.remove_columns("input_ids").add_column("text", ["a", "b"]))
        == "6ee47ec7f78b8f72ff519677f916ca71f971e9ab8ceecdd9a215e0161fc7b16c"
    )


def test_the_docstring_example_works(split_rows) -> None:
    task = BlockedTask("gender", **split_rows, label_column="blocked")
    assert task.num_labels == 2
