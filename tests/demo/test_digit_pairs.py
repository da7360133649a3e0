"""The pairs of digits hold what they promise, and the vision demo is ready to train on them."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForImageClassification

from hf_selfdestruct.demo import job, vision
from hf_selfdestruct.demo.job import PAIRS, demo_config
from hf_selfdestruct.demo.pairs import DIGITS, MATCHES, pairs
from hf_selfdestruct.jobs.job import blocked_tasks
from hf_selfdestruct.jobs.label_order import numbered_as
from hf_selfdestruct.jobs.processors import processor_of
from hf_selfdestruct.jobs.text_data import load_data

DIGEST = "4ef8e05a116b5fc82fe14827dda8a84235f50d6ace09ce4329e26e4d53f17993"  # of the demo's own pairs


@pytest.fixture(scope="module")
def data():
    return {split: pairs(split, count) for split, count in PAIRS.items()}


def halves(found):
    """Each picture of each pair, as bytes."""
    return [[half.tobytes() for half in np.split(pixels, 2, axis=1)] for pixels in found.pixels]


def test_pairs_are_frozen(data):
    parts = [part for found in data.values() for part in (found.pixels, found.digits, found.matches)]
    content = b"".join(part.astype(np.uint8).tobytes() for part in parts)
    assert hashlib.sha256(content).hexdigest() == DIGEST


def test_labels_are_those_of_the_pictures(data):
    images, digits = load_digits(return_X_y=True)
    shown = {np.minimum(255, 16 * i).astype(np.uint8).tobytes(): d for i, d in zip(images, digits, strict=True)}
    for found in data.values():
        for (left, right), digit, match in zip(halves(found), found.digits, found.matches, strict=True):
            assert shown[left] == digit
            assert (shown[right] == digit) == match


def test_no_pair_repeats_and_no_picture_stands_beside_itself(data):
    for found in data.values():
        both = [tuple(pair) for pair in halves(found)]
        assert len({*both}) == len(both)
        assert all(left != right for left, right in both)


def test_splits_share_no_picture_whatever_the_seed(data):
    seen = [{picture for pair in halves(found) for picture in pair} for found in data.values()]
    seen[2] |= {picture for pair in halves(pairs("test", 400, seed=1)) for picture in pair}
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(seen, 2))


def test_each_block_of_twenty_is_balanced(data):
    for found in data.values():
        for start in range(0, len(found.digits), 20):
            block = zip(found.digits[start : start + 20], found.matches[start : start + 20], strict=True)
            assert Counter(block) == Counter(itertools.product(range(len(DIGITS)), range(len(MATCHES))))


def test_pixels_tell_a_linear_reader_the_digit_and_not_the_match(data):
    train, test = data["train"], data["test"]
    rows, held = (found.pixels.reshape(len(found.pixels), -1) / 255 for found in (train, test))
    score = {
        name: LogisticRegression().fit(rows[:1000], getattr(train, name)[:1000]).score(held, getattr(test, name))
        for name in ("digits", "matches")
    }
    assert score["digits"] > 0.9
    assert score["matches"] < 0.6


@pytest.mark.parametrize("count", [0, -20, 30])
def test_a_count_that_cannot_be_balanced_is_refused(count):
    with pytest.raises(ValueError, match=f"got {count}; use a positive multiple of 20"):
        pairs("train", count)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="unknown split: got 'dev'; use one of train, validation, test"):
        pairs("dev", 20)


def test_the_vision_demo_is_ready_to_train(tmp_path, monkeypatch):
    few = {"train": 60, "validation": 40, "test": 20}
    monkeypatch.setattr(job, "PAIRS", few)
    monkeypatch.setattr(vision, "STEPS", 3)
    config = demo_config(tmp_path, kind="vision", workers=1)
    processor = processor_of(config.model, config.data)
    rows = numbered_as(load_data(config, processor), config.model)
    assert rows["train"].features["label"].names == [*DIGITS]
    assert {split: len(found) for split, found in rows.items()} == few
    (task,) = blocked_tasks(config, rows, processor)
    assert task.outputs == 2
    pixels, digits, _ = vision.tensors(pairs("test", 20))
    read = rows["test"][:]
    assert torch.equal(torch.stack(read["pixel_values"]), pixels)  # the base saw what hardening and attacks see
    assert read["label"] == digits.tolist()
    before = AutoModelForImageClassification.from_pretrained(config.model).state_dict()
    monkeypatch.setattr(vision, "STEPS", 4)
    again = demo_config(tmp_path, kind="vision", workers=1).model  # after an interruption
    after = AutoModelForImageClassification.from_pretrained(again).state_dict()
    assert all(value.equal(after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("kind", "model", "line"),
    [
        ("audio", None, "--kind audio is not a demo: choose text, vision, language"),
        ("vision", "x", "--model x: the vision demo"),
    ],
)
def test_a_wrong_demo_is_refused_before_anything_is_written(tmp_path, kind, model, line):
    with pytest.raises(ValueError, match=line):
        demo_config(tmp_path / "out", kind=kind, model=model)
    assert not (tmp_path / "out").exists()
