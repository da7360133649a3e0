"""Two texts encoded apart: the same as encoding each alone, and an adversary that does it moves all its weights."""

from __future__ import annotations

import pytest
import torch
from pair_cases import CLOSES, OPENS, collate, pair_row, pair_task
from toy_models import tiny_config
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, DistilBertConfig
from way_cases import draws_of_both_ways

from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.losses.blocking import RepresentationProbe, UniformKL
from hf_selfdestruct.models import heads
from hf_selfdestruct.models.pairs import AutoModelForTextPairs, difference


@pytest.mark.parametrize("left", [False, True])
def test_each_text_is_encoded_as_it_is_alone(left) -> None:
    model = BertForSequenceClassification(tiny_config("bert", num_labels=5)).eval()
    module = heads.skeleton(model, 2, auto_class=AutoModelForTextPairs)
    assert heads.head_names(module) == ["pair_head.weight", "pair_head.bias"]
    texts = [([7, 8], [9, 10, 11]), ([12, 13, 14, 15], [16]), ([17], [])]
    rows = [
        {name: cells[: None if second else 3] for name, cells in pair_row(first, second).items()}
        for first, second in texts
    ]
    batch = collate(rows, left=left)
    live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {ours: live[theirs] for ours, theirs in heads.names_between(module, model).items()}
    weights |= heads.draw(module, heads.head_names(module), 0)
    found = torch.func.functional_call(module, weights, kwargs={**batch, "output_hidden_states": True})

    def averages(text: list[int]) -> list[torch.Tensor]:
        alone = model.bert(torch.tensor([text]), output_hidden_states=True).hidden_states
        return [state.mean(1) for state in alone]

    for place, (first, second) in enumerate(texts):
        sides = averages([OPENS, *first, CLOSES]), averages([OPENS, *second, *([CLOSES] if second else [])])
        for layer, (one, other) in enumerate(zip(*sides, strict=True)):
            torch.testing.assert_close(found.hidden_states[layer][place : place + 1], difference(one, other))
    head = torch.nn.functional.linear(found.hidden_states[-1], weights["pair_head.weight"], weights["pair_head.bias"])
    assert torch.equal(found.logits, head)
    assert found.logits.shape == (3, 2)


def test_half_of_a_difference_averages_to_the_cosine() -> None:
    one, other = torch.randn(2, 4, 6, dtype=torch.float64)
    cosines = torch.nn.functional.cosine_similarity(one, other)
    torch.testing.assert_close(difference(one, other)[:, 6:].mean(1), cosines)


@pytest.mark.parametrize(("mode", "episode"), [("first_order", "flat"), ("first_order", "in_place"), ("exact", "flat")])
def test_an_adversary_of_texts_apart_reaches_every_weight_it_reads(make_trainer, tmp_path, mode, episode):
    """Also beside adversaries that read both texts joined, of which a pool draws one for each life."""
    seen = draws_of_both_ways(
        make_trainer,
        tmp_path,
        field="pairs",
        heads={"joined": "classifier.weight", "apart": "pair_head.weight"},
        task=pair_task(),
        losses=[UniformKL(), RepresentationProbe(weight=0.1)],
        batch_size=4,
        steps=4,
        mode=mode,
        episode=episode,
    )
    assert all(head.shape[1] == (32 if way == "apart" else 16) for way, head in seen)


def test_rows_of_one_text_are_refused(make_trainer, tmp_path) -> None:
    with pytest.raises(ValueError, match="tokenise both texts"):
        make_trainer(tmp_path, blocked_tasks=[pair_task(second=False)], adversary={"pairs": "apart", "head": "random"})


def test_only_new_heads_compare_texts_apart() -> None:
    with pytest.raises(ValueError, match="set head='random'"):
        Adversary(pairs=("joined", "apart"))
    with pytest.raises(ValueError, match="pairs must be one of joined, apart; got 'cross'"):
        Adversary(pairs="cross", head="random")


def test_an_architecture_without_a_trunk_class_has_no_bi_encoder() -> None:
    assert AutoModelForTextPairs._model_mapping.get(type("Unknown", (), {}), "none") == "none"
    model = AutoModelForSequenceClassification.from_config(DistilBertConfig(dim=8, n_heads=2, n_layers=1, vocab_size=9))
    assert heads.skeleton(model, 3, auto_class=AutoModelForTextPairs).pair_head.weight.shape == (3, 16)
