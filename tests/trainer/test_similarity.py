"""Rank correlation of similarities: 1 for a model and its rotation, 0 for strangers."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import default_data_collator

from hf_selfdestruct.trainer.similarity import rank_correlation

COLUMNS = ("input_ids", "attention_mask")


def measured(model, other, rows) -> float:
    return rank_correlation(model, other, rows, columns=COLUMNS, collate=default_data_collator)


def test_a_model_agrees_with_itself_and_with_its_own_rescaling(tiny_model, toy_rows) -> None:
    model, rows = tiny_model(dropout=0.5), toy_rows(40, seed=1)
    assert measured(model, model, rows) == pytest.approx(1.0)
    louder = copy.deepcopy(model)
    with torch.no_grad():  # the last normalisation scales every embedding alike
        last = [m for m in louder.base_model.modules() if isinstance(m, torch.nn.LayerNorm)][-1]
        last.weight.mul_(3)
        last.bias.mul_(3)
    assert measured(model, louder, rows) == pytest.approx(1.0)


def test_it_falls_with_the_distance(tiny_model, toy_rows) -> None:
    model, rows = tiny_model(), toy_rows(60, seed=1)

    def shaken(size: float) -> float:
        other = copy.deepcopy(model)
        torch.manual_seed(0)
        with torch.no_grad():
            for p in other.parameters():
                p.add_(size * torch.randn_like(p))
        return measured(model, other, rows)

    near, far, strange = shaken(0.001), shaken(0.03), shaken(3.0)
    assert 1 > near > 0.99
    assert near > far > strange


def test_the_model_is_left_as_it_was(tiny_model, toy_rows) -> None:
    model = tiny_model().train()
    measured(model, model, toy_rows(5, seed=1))
    assert model.training


def test_too_few_texts(tiny_model, toy_rows) -> None:
    with pytest.raises(ValueError, match="at least 3 texts; got 2"):
        measured(tiny_model(), tiny_model(), toy_rows(2, seed=1))
