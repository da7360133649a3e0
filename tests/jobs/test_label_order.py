"""A class is one class for the data and for the model, in whatever order each numbers its own."""

from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, DatasetDict
from toy_project import make_tokenizer
from transformers import BertConfig, BertModel, DataCollatorWithPadding, PretrainedConfig

from hf_selfdestruct.attacks import DesiredData, Target
from hf_selfdestruct.attacks.methods.benign import _published
from hf_selfdestruct.jobs.job import _accuracy
from hf_selfdestruct.jobs.label_order import classifier, numbered_as, numbers_of, order_of, renumbered

NAMES = ["cook", "nurse", "pilot"]


@pytest.fixture
def data(toy_rows):
    """Rows of three classes."""

    def rows(seed):
        found = toy_rows(30, seed=seed, columns=("labels",)).rename_column("labels", "label")
        labels = [(2 * label + row) % 3 for row, label in enumerate(found["label"])]
        return found.remove_columns("label").add_column("label", labels).cast_column("label", ClassLabel(names=NAMES))

    return DatasetDict({split: rows(seed) for seed, split in enumerate(("train", "validation", "test"))})


@pytest.fixture
def saved(tiny_model, tmp_path):
    """Saves a classifier whose classes have these names; one row of its head, and one name, is one class."""

    def save(*names, sorts=True):
        model = tiny_model(num_labels=len(names))
        if sorts:
            order = sorted(range(len(names)), key=lambda i: names[i].casefold())
            head = model.classifier.weight.detach().clone()
            model.classifier.weight.data[order] = head
        model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
        folder = tmp_path / "-".join(names)
        model.save_pretrained(folder)
        return str(folder)

    return save


@pytest.mark.parametrize(
    ("names", "own", "order"),
    [
        (NAMES, NAMES, [0, 1, 2]),
        (NAMES, ["pilot", "cook", "nurse"], [1, 2, 0]),
        (NAMES, ["Pilot", "COOK", "nurse"], [1, 2, 0]),
        (NAMES, ["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2]),
        (["0", "2", "1"], ["pilot", "cook", "nurse"], [0, 2, 1]),
        (["0", "2", "1"], ["LABEL_0", "LABEL_1", "LABEL_2"], [0, 2, 1]),
        (NAMES, ["pilot", "cook", "surgeon"], None),
        (NAMES, ["cook", "nurse"], None),
        (["a", "A"], ["A", "a"], [1, 0]),
        (["a", "b"], ["A", "a"], None),
    ],
)
def test_classes_are_found_by_name(names, own, order) -> None:
    assert order_of(names, PretrainedConfig(id2label=dict(enumerate(own)))) == order


def test_data_takes_the_numbers_of_the_model(data, saved) -> None:
    again = numbered_as(data, saved("pilot", "cook", "nurse"))
    for split, rows in data.items():
        one, other = (d.features["label"].int2str(d["label"][:]) for d in (rows, again[split]))
        assert one == other
        assert again[split]["label"][:] == [(label + 1) % 3 for label in rows["label"]]
    assert numbered_as(data, saved("surgeon", "cook", "nurse")) is data
    assert numbered_as(data, saved(*NAMES)) is data


def test_desired_accuracy_does_not_depend_on_the_order_of_the_classes(data, saved) -> None:
    """The same classifier, its classes in another order."""
    collate = DataCollatorWithPadding(make_tokenizer())
    found = []
    for names in (NAMES, ["pilot", "cook", "nurse"], ["NURSE", "Pilot", "cook"]):
        folder = saved(*names)
        target = Target("hardened", folder)
        found.append(_accuracy(target, data["test"], collate)["accuracy"])
        desired = DesiredData.of(data["train"], data["test"], ["input_ids", "attention_mask"])
        assert (_published(target, desired) is None) == (names == ["pilot", "cook", "nurse"])
        again = numbered_as(data, folder)
        assert _accuracy(target, again["test"], collate)["accuracy"] == found[-1]
    assert 0 < found[0] == found[1] == found[2]


def test_classes_that_cannot_be_found_are_refused(saved, caplog) -> None:
    def numbers(folder):
        return numbers_of(NAMES, BertConfig.from_pretrained(folder), folder)

    with pytest.raises(
        ValueError, match=r"has the classes surgeon, cook, nurse, but the desired task has cook, nurse, pilot"
    ):
        numbers(saved("surgeon", "cook", "nurse"))
    with pytest.raises(ValueError, match="a head for 2 classes, but the desired task has 3"):
        numbers(saved("cook", "nurse"))
    assert not caplog.text
    assert numbers(saved("LABEL_0", "LABEL_1", "LABEL_2")) == [0, 1, 2]
    assert "has no class names" in caplog.text


def test_a_classifier_keeps_its_head_and_its_order(data, saved, caplog) -> None:
    folder = saved("pilot", "cook", "nurse")
    names = numbered_as(data, folder)["train"].features["label"].names
    kept = classifier(folder, names)
    assert [*kept.config.id2label.values()] == names == ["pilot", "cook", "nurse"]
    assert kept.config.problem_type == "single_label_classification"
    assert torch.equal(kept.classifier.weight, type(kept).from_pretrained(folder).classifier.weight)
    assert not caplog.text


def test_a_head_for_other_classes_is_drawn_anew_and_said(saved, caplog) -> None:
    folder = saved("pilot", "cook", "surgeon")
    torch.manual_seed(3)
    made = classifier(folder, NAMES)
    old = type(made).from_pretrained(folder)
    assert [*made.config.id2label.values()] == NAMES
    assert not torch.isclose(made.classifier.weight, old.classifier.weight).any()
    assert all(torch.equal(*both) for both in zip(made.bert.parameters(), old.bert.parameters(), strict=True))
    assert (
        "has the classes pilot, cook, surgeon, but the desired task has cook, nurse, pilot: a new head" in caplog.text
    )


def test_classes_without_names_are_taken_by_number_and_said(saved, caplog) -> None:
    folder = saved("LABEL_0", "LABEL_1", "LABEL_2")
    made = classifier(folder, NAMES)
    assert [*made.config.id2label.values()] == NAMES
    assert torch.equal(made.classifier.weight, type(made).from_pretrained(folder).classifier.weight)
    assert "has the class numbers of the data: 0 cook, 1 nurse, 2 pilot" in caplog.text


def test_a_bare_encoder_gets_a_head_without_a_word(tiny_model, tmp_path, caplog) -> None:
    tiny_model().bert.save_pretrained(tmp_path)
    assert isinstance(BertModel.from_pretrained(tmp_path), BertModel)
    assert classifier(str(tmp_path), NAMES).config.num_labels == 3
    assert "a new head" not in caplog.text
    assert "no class names" not in caplog.text


def test_nothing_changes_without_an_order(data) -> None:
    assert renumbered(data, None) is data
