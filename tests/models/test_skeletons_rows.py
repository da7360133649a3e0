"""Only the rows of embeddings that are used take part."""

from __future__ import annotations

import copy

import pytest
import torch
from skeleton_cases import LABELS, compacted, everything, inputs_of, loss_and_gradients, model_of, own_of, text
from torch import nn
from toy_models import VOCABULARY, tiny_config, tiny_model
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    RobertaForMaskedLM,
)

from hf_selfdestruct.models import heads
from hf_selfdestruct.models.row_embedding import RowEmbedding, can_compact, used_rows
from hf_selfdestruct.models.stateless import INDEX, StatelessModel


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
def test_used_rows_are_enough(architecture, side, twice) -> None:
    """Logits and gradients are those of the whole table, whose other rows (and the padding row) feel nothing."""
    model = model_of(architecture)
    batch, another = text(side=side), text(5, seed=3)
    dense = StatelessModel(heads.skeleton(model, LABELS, twice=twice), model, twice=twice)
    few = StatelessModel(heads.skeleton(model, LABELS, twice=twice), model, rows=True, twice=twice)
    name, own = few.embedding, own_of(few)
    assert model.get_parameter(name) is model.get_input_embeddings().weight
    assert few.padding == model.get_input_embeddings().padding_idx
    rows, index = used_rows([another, batch], VOCABULARY, few.padding)
    assert len({*rows.tolist()}) == len(rows) < VOCABULARY
    given = everything(model)
    logits, expected = loss_and_gradients(dense, {**given, **own}, batch)
    found_logits, found = loss_and_gradients(few, {**given, name: given[name][rows], INDEX: index, **own}, batch)
    torch.testing.assert_close(found_logits, logits, rtol=1e-12, atol=1e-14)
    assert {*found} == {*expected}
    for part, gradient in expected.items():
        wanted = gradient[rows] if part == name else gradient
        torch.testing.assert_close(found[part], wanted, rtol=1e-11, atol=1e-14)
    others = torch.ones(VOCABULARY, dtype=torch.bool)
    others[batch["input_ids"].unique()] = False
    assert others[rows].any()  # rows of another batch
    assert not expected[name][others].any()
    read = ~others
    if few.padding is not None:
        assert read[few.padding]
        assert not expected[name][few.padding].any()
        assert not found[name][0].any()
        read[few.padding] = False
    attended = batch["input_ids"][batch["attention_mask"].bool()].unique()
    assert expected[name][attended].any(-1).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_change_neither_positions_nor_pooling(architecture, side) -> None:
    """Padding and ends are read off the inputs: with whole logits equal, wrong places would show here."""
    model, batch = model_of(architecture), text(side=side)
    few = StatelessModel(heads.live_skeleton(model), model, keep_head=True, rows=True)
    inputs = {**inputs_of(batch), "output_hidden_states": True}
    found, expected = few.run(compacted(few, model, [batch]), inputs), model(**inputs)
    for one, other in zip(
        (*found.hidden_states, found.logits), (*expected.hidden_states, expected.logits), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_another_padding_token_and_a_table_without_one() -> None:
    for padding in (5, None):
        config = tiny_config("llama")
        config.pad_token_id, config.num_labels = padding, 2
        model = AutoModelForSequenceClassification.from_config(config).double().eval()
        tokens = torch.tensor([[7, 9, 33, 5, 5], [5, 8, 59, 7, 5]])[: 2 if padding else 1, : None if padding else 3]
        inputs = {"input_ids": tokens, "attention_mask": (tokens != 5).long()}
        few = StatelessModel(heads.live_skeleton(model), model, keep_head=True, rows=True)
        assert few.padding == padding
        weights = compacted(few, model, [inputs])
        assert len(weights[few.embedding]) == len(tokens.unique())
        torch.testing.assert_close(few.run(weights, inputs).logits, model(**inputs).logits, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("padding", [None, 0, 4, 9])
def test_used_rows_by_hand(padding) -> None:
    batches = [{"input_ids": torch.tensor([[3, 9, 3], [7, 3, 1]])}, {"input_ids": torch.tensor([[1, 8]])}]
    tokens = sorted({3, 9, 7, 1, 8} - {padding})
    expected = ([] if padding is None else [padding]) + tokens
    rows, index = used_rows(batches, 12, padding)
    assert rows.tolist() == expected
    assert index.tolist() == [expected.index(i) if i in expected else 0 for i in range(12)]


@pytest.mark.parametrize("batches", [[], [{}], [{"input_ids": torch.tensor([[1]])}, {"inputs_embeds": torch.ones(1)}]])
@pytest.mark.parametrize("padding", [None, 2])
def test_every_row_is_used_where_tokens_are_not_known(batches, padding) -> None:
    rows, index = used_rows(batches, 5, padding)
    assert rows.tolist() == ([0, 1, 2, 3, 4] if padding is None else [2, 0, 1, 3, 4])
    assert torch.equal(rows[index], torch.arange(5))


def test_a_row_embedding_is_the_embedding() -> None:
    whole = nn.Embedding(9, 4, padding_idx=6, dtype=torch.float64)
    with torch.no_grad():
        whole.weight[6] = 1.5  # a padding row need not be 0
    tokens = torch.tensor([[6, 2, 8], [2, 2, 6]])
    rows, index = used_rows([{"input_ids": tokens}], 9, 6)
    few = RowEmbedding(whole)
    weight = whole.weight[rows].detach().requires_grad_()
    found = torch.func.functional_call(few, {"weight": weight, "index": index}, (tokens,))
    assert torch.equal(found, whole(tokens))
    found.square().sum().backward()
    whole(tokens).square().sum().backward()
    assert torch.equal(weight.grad, whole.weight.grad[rows])
    assert weight.grad.any(-1).tolist() == [False, True, True]


def test_tables_that_something_else_reads_stay_whole() -> None:
    assert not can_compact(BertForMaskedLM(tiny_config("bert")))
    assert not can_compact(RobertaForMaskedLM(tiny_config("roberta")))
    assert not can_compact(GPT2LMHeadModel(tiny_config("gpt2")))
    for tied in (True, False):
        config = tiny_config("llama")
        config.tie_word_embeddings = tied
        model = LlamaForCausalLM(config)
        assert can_compact(model) is can_compact(heads.live_skeleton(model)) is not tied
    assert not can_compact(heads.live_skeleton(GPT2LMHeadModel(tiny_config("gpt2"))))
    assert not can_compact(tiny_model("vit"))
    assert not can_compact(tiny_model("resnet"))


@pytest.mark.parametrize("change", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_tables_with_rules_of_their_own_stay_whole(change) -> None:
    model = tiny_model()
    assert can_compact(model)
    for name, value in change.items():
        setattr(model.get_input_embeddings(), name, value)
    assert not can_compact(model)
    skeleton = StatelessModel(copy.deepcopy(model).to("meta"), model, keep_head=True, rows=True)
    assert (skeleton.embedding, skeleton.padding) == (None, None)


def test_classifiers_can_be_compacted_whatever_the_live_head_is_tied_to(architecture) -> None:
    model = tiny_model(architecture)
    assert can_compact(model)
    assert can_compact(heads.skeleton(model, 5))
    assert can_compact(heads.skeleton(AutoModel.from_config(model.config), 5))
    assert can_compact(heads.skeleton(BertForMaskedLM(tiny_config("bert")), 5))
