"""Equal descriptions are of objects that train alike; what cannot be described counts as changed."""

import functools

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback

from hf_selfdestruct.trainer.ingredients import DEEPEST, described, stored_names


def closure(weight):
    return lambda outputs, labels: weight * outputs


def scaled(outputs, labels, weight=1.0):
    return weight * outputs


class Rows(torch.utils.data.Dataset):
    """A data set that is not one of datasets."""

    def __init__(self, *numbers):
        self.rows = [torch.tensor(n) for n in numbers]


class Freezing(TrainerCallback):
    """A callback with a setting."""

    def __init__(self, step):
        self.step = step


def deep(levels, value):
    return functools.reduce(lambda inner, _: [inner], range(levels), value)


MAKERS = {
    "a closure": lambda v: closure(v),
    "a partial": lambda v: functools.partial(scaled, weight=v),
    "a bound method": lambda v: Freezing(v).on_step_end,
    "a callback": lambda v: Freezing(v),
    "class weights": lambda v: {"weights": torch.tensor([1.0, v])},
    "a torch data set": lambda v: Rows(1.0, v),
    "a data set": lambda v: Dataset.from_dict({"a": [v, 1.0]}),
    "a module": lambda v: (
        torch.nn.Linear(1, 1).requires_grad_(False).apply(lambda m: m.weight.fill_(v).add_(m.bias.zero_()))
    ),
    "a set": lambda v: {v, "x"},
}


@pytest.mark.parametrize("what", MAKERS)
def test_a_description_changes_with_the_content_and_with_nothing_else(what):
    make = MAKERS[what]
    assert described(make(2.0)) == described(make(2.0))
    assert described(make(2.0)) != described(make(3.0))


def test_code_is_part_of_a_description():
    one, other = (type("Own", (), {"step": eval(code)}) for code in ("lambda self: 1", "lambda self: 2"))
    assert described(one()) != described(other())
    assert described(one()) == described(type("Own", (), {"step": one.step})())


@pytest.mark.parametrize("make", [object, lambda: (n for n in ()), lambda: deep(DEEPEST + 2, 1.0)])
def test_what_cannot_be_described_counts_as_changed(make):
    value = make()
    assert described(value) != described(value)


def test_some_objects_stand_by_a_word():
    value = object()
    assert described([value], instead={id(value): "the trainer"}) == ["the trainer"]


def test_names_that_a_class_stores():
    assert {"optimizer", "lr_scheduler", "callback_handler", "state"} <= stored_names(Trainer)
    assert "weights" not in stored_names(Trainer)
