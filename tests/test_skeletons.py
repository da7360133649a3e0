"""Skeletons answer as the live model does, by all rows or by some, with the adversary's own head and adapters."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from toy_models import ARCHITECTURES, VOCABULARY, tiny_config, tiny_model, toy_batch, toy_images
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    RobertaForMaskedLM,
)

from hf_selfdestruct import heads
from hf_selfdestruct.skeletons import INDEX, OWN, RowEmbedding, Skeleton, can_compact, used_rows

EVERY = (*ARCHITECTURES, "vit", "resnet")
LABELS = 3
TARGETS = {
    "bert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "roberta": ["query", "value"],
    "modernbert": ["Wqkv"],
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj"],
    "vit": ["q_proj", "v_proj"],
    "resnet": ["convolution"],
}


def model_of(name: str, **sizes):
    """In float64, with embeddings large enough for every row to be felt."""
    model = tiny_model(name, **{"num_labels": LABELS, **sizes}).double().eval()
    if name in ARCHITECTURES:
        model.get_input_embeddings().weight.data *= 20
    return model


def everything(model) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def text(rows: int = 7, *, side: str = "right", seed: int = 0) -> dict[str, torch.Tensor]:
    """Toy rows, the ends of some of which are padding; or the beginnings."""
    batch = toy_batch(rows, seed=seed)
    counts = batch["attention_mask"].eq(0).sum(1).tolist()
    assert any(counts)
    if side == "left":
        for name in ("input_ids", "attention_mask"):
            batch[name] = torch.stack([row.roll(count) for row, count in zip(batch[name], counts, strict=True)])
    return batch


def batch_for(name: str, **options) -> dict[str, torch.Tensor]:
    return text(**options) if name in ARCHITECTURES else toy_images(7)


def inputs_of(batch) -> dict[str, torch.Tensor]:
    return {n: v for n, v in batch.items() if n != "labels"}


def own_of(skeleton: Skeleton, seed: int = 0) -> dict[str, torch.Tensor]:
    """A fresh head, large enough to be felt, and fresh adapters."""
    drawn = skeleton.draw(seed, device=torch.device("cpu"))
    return {OWN + n: w.double() * (1 if "lora_" in n else 10) for n, w in drawn.items()}


def lora_for(name: str, **fields) -> LoraConfig:
    return LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS[name], **fields})


def noisy(own: dict[str, torch.Tensor], seed: int = 9) -> dict[str, torch.Tensor]:
    """Own weights after some training: no adapter is 0 any more."""
    generator = torch.Generator().manual_seed(seed)
    return {n: w + 0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in own.items()}


def leaves(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies; published parameters and own weights ask for gradients, buffers do not."""
    return {n: w.detach().clone().requires_grad_(w.requires_grad or n.startswith(OWN)) for n, w in weights.items()}


def loss_and_gradients(skeleton: Skeleton, weights, batch):
    """Logits, and the gradients of a loss for every weight that is reached."""
    given = leaves(weights)
    logits = skeleton.run(given, inputs_of(batch)).logits
    cross_entropy(logits, batch["labels"]).backward()
    return logits.detach(), {n: w.grad for n, w in given.items() if w.grad is not None}


# Live weights


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", EVERY)
def test_with_the_live_weights_it_is_the_live_model(name, side) -> None:
    model = model_of(name, dropout=0.3)
    batch = batch_for(name, **({"side": side} if name in ARCHITECTURES else {}))
    skeleton = Skeleton(heads.live_skeleton(model), model, keep_head=True)
    assert skeleton.own == []
    assert skeleton.names == {n: n for n in everything(model)}
    found = skeleton.run(everything(model), inputs_of(batch)).logits
    assert torch.equal(found, model(**inputs_of(batch)).logits)
    assert found.std() > 1e-3
    assert skeleton.run(everything(model), batch).loss == model(**batch).loss


@pytest.mark.parametrize("name", EVERY)
def test_an_own_head_is_never_taken_for_the_published_one(name) -> None:
    """Both have the same names and shapes; the live model with the head put into it is the twin."""
    model = model_of(name)
    skeleton = Skeleton(heads.skeleton(model, LABELS), model)
    assert skeleton.own == heads.head_names(model)
    own = own_of(skeleton)
    found = skeleton.run({**everything(model), **own}, inputs_of(batch_for(name))).logits
    assert not torch.allclose(found, model(**inputs_of(batch_for(name))).logits)
    twin = copy.deepcopy(model)
    twin.load_state_dict({n.removeprefix(OWN): w for n, w in own.items()}, strict=False)
    assert torch.equal(found, twin(**inputs_of(batch_for(name))).logits)


@pytest.mark.parametrize("name", EVERY)
def test_making_and_drawing_leave_generator_and_live_model_alone(name) -> None:
    model = model_of(name)
    before, state = {n: v.clone() for n, v in everything(model).items()}, torch.random.get_rng_state()
    skeleton = Skeleton(heads.skeleton(model, 5), model, lora=lora_for(name), rows=True)
    one, again, other = (skeleton.draw(seed, device=torch.device("cpu")) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, before[n]) for n, v in everything(model).items())
    assert list(one) == skeleton.own
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)
    assert all(p.is_meta for p in skeleton.module.parameters())


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_on_request_it_has_two_derivatives(name, rows) -> None:
    model, batch = model_of(name), batch_for(name)
    model.set_attn_implementation("sdpa" if name != "resnet" else "eager")
    lora = None if rows else lora_for(name)
    skeleton = Skeleton(heads.skeleton(model, LABELS, twice=True), model, lora=lora, rows=rows, twice=True)
    weights = leaves({**compacted(skeleton, model, [batch]), **noisy(own_of(skeleton))})
    loss = cross_entropy(skeleton.run(weights, inputs_of(batch)).logits, batch["labels"])
    names, asked = zip(*((n, w) for n, w in weights.items() if w.requires_grad), strict=True)
    first = torch.autograd.grad(loss, asked, create_graph=True, allow_unused=True, materialize_grads=True)
    second = torch.autograd.grad(sum(g.sin().sum() for g in first), asked, allow_unused=True)
    reached = {n for n, g in zip(names, second, strict=True) if g is not None}
    assert reached >= {*names} - {*heads.head_names(model)}
    assert all(g.isfinite().all() for g in second if g is not None)


# Rows


def compacted(skeleton: Skeleton, model, batches) -> dict[str, torch.Tensor]:
    """The live weights, of the word embeddings those that the batches use."""
    weights = everything(model)
    if skeleton.embedding is None:
        return weights
    rows, index = used_rows(batches, len(weights[skeleton.embedding]), skeleton.padding)
    return {**weights, skeleton.embedding: weights[skeleton.embedding][rows], INDEX: index}


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
def test_used_rows_are_enough(architecture, side, twice) -> None:
    """Logits and gradients are those of the whole table, whose other rows (and the padding row) feel nothing."""
    model = model_of(architecture)
    batch, another = text(side=side), text(5, seed=3)
    dense = Skeleton(heads.skeleton(model, LABELS, twice=twice), model, twice=twice)
    few = Skeleton(heads.skeleton(model, LABELS, twice=twice), model, rows=True, twice=twice)
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
    few = Skeleton(heads.live_skeleton(model), model, keep_head=True, rows=True)
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
        few = Skeleton(heads.live_skeleton(model), model, keep_head=True, rows=True)
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
    skeleton = Skeleton(copy.deepcopy(model).to("meta"), model, keep_head=True, rows=True)
    assert (skeleton.embedding, skeleton.padding) == (None, None)


def test_classifiers_can_be_compacted_whatever_the_live_head_is_tied_to(architecture) -> None:
    model = tiny_model(architecture)
    assert can_compact(model)
    assert can_compact(heads.skeleton(model, 5))
    assert can_compact(heads.skeleton(AutoModel.from_config(model.config), 5))
    assert can_compact(heads.skeleton(BertForMaskedLM(tiny_config("bert")), 5))


# Adapters


@pytest.mark.parametrize("name", EVERY)
def test_fresh_adapters_change_no_answer(name) -> None:
    model, batch = model_of(name), batch_for(name)
    skeleton = Skeleton(heads.skeleton(model, LABELS), model, lora=lora_for(name))
    plain = Skeleton(heads.skeleton(model, LABELS), model)
    own = own_of(skeleton)
    downs, ups = ([n for n in own if f"lora_{part}" in n] for part in "AB")
    assert {n.removeprefix(OWN) for n in own} == {*skeleton.own}
    assert {*skeleton.own} - {n.removeprefix(OWN) for n in (*downs, *ups)} == {*heads.head_names(model)}
    assert len(downs) == len(ups) >= len(TARGETS[name])
    assert not any(own[n].any() for n in ups)
    assert all(own[n].all() for n in downs)
    found = skeleton.run({**everything(model), **own}, inputs_of(batch)).logits
    expected = plain.run({**everything(model), **own}, inputs_of(batch)).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    changed = skeleton.run({**everything(model), **noisy(own)}, inputs_of(batch)).logits
    assert not torch.allclose(changed, expected)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_adapters_head_and_published_weights(name) -> None:
    model, batch = model_of(name), batch_for(name)
    skeleton = Skeleton(heads.skeleton(model, LABELS), model, lora=lora_for(name))
    own = noisy(own_of(skeleton))
    _, found = loss_and_gradients(skeleton, {**everything(model), **own}, batch)
    published = {n for n, _ in model.named_parameters()} - {*heads.head_names(model)}
    assert {*found} == published | {*own}
    assert all(found[n].any() for n in own)
    adapted = [outer for n, outer in skeleton.names.items() if n.endswith(".base_layer.weight")]
    assert len(adapted) == sum("lora_A" in n for n in own)
    assert all(found[n].any() for n in adapted)


@pytest.mark.parametrize("fields", [{}, {"use_rslora": True, "r": 3}, {"target_modules": "all-linear"}])
@pytest.mark.parametrize("name", EVERY)
def test_adapters_are_pefts(name, fields) -> None:
    """The same adapter weights in PEFT's own model give the same answers and gradients."""
    if name == "resnet" and fields.get("target_modules"):
        fields = {"target_modules": ["convolution", "classifier.1"]}
    model, batch, lora = model_of(name), batch_for(name), lora_for(name, **fields)
    skeleton = Skeleton(heads.skeleton(model, LABELS), model, lora=lora)
    own = noisy(own_of(skeleton))
    logits, found = loss_and_gradients(skeleton, {**everything(model), **own}, batch)
    twin = get_peft_model(copy.deepcopy(model), lora_for(name, **fields)).double().eval()
    wanted = {f"base_model.model.{n.removeprefix(OWN)}": w for n, w in own.items()}
    assert not twin.load_state_dict(wanted, strict=False).unexpected_keys
    twin.requires_grad_(True)
    answers = twin(**inputs_of(batch)).logits
    cross_entropy(answers, batch["labels"]).backward()
    torch.testing.assert_close(logits, answers, rtol=1e-12, atol=1e-14)
    for part in own:
        expected = twin.get_parameter(f"base_model.model.{part.removeprefix(OWN)}").grad
        torch.testing.assert_close(found[part], expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", EVERY)
def test_drawn_adapters_are_distributed_as_peft_initialises_them(name) -> None:
    model, lora = tiny_model(name, hidden=32), lora_for(name, r=16)
    drawn = Skeleton(heads.skeleton(model, 5), model, lora=lora).draw(0, device=torch.device("cpu"))
    fresh = get_peft_model(copy.deepcopy(model), lora_for(name, r=16))
    downs = [n for n in drawn if "lora_A" in n]
    for part in downs:
        expected = fresh.get_parameter(f"base_model.model.{part}").detach()
        assert drawn[part].std().item() == pytest.approx(expected.std().item(), rel=0.15), part
        assert drawn[part].abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.1), part
    assert len({drawn[n].sum().item() for n in downs}) == len(downs)


def test_the_wanted_initialisation_is_drawn() -> None:
    model = tiny_model("bert", hidden=32)

    def drawn(wanted) -> torch.Tensor:
        lora = lora_for("bert", r=16, init_lora_weights=wanted)
        own = Skeleton(heads.skeleton(model, 5), model, lora=lora).draw(0, device=torch.device("cpu"))
        assert not any(w.any() for n, w in own.items() if "lora_B" in n)
        return torch.cat([w.reshape(-1) for n, w in own.items() if "lora_A" in n])

    assert drawn("gaussian").std().item() == pytest.approx(1 / 16, rel=0.1)
    assert drawn(True).abs().max().item() == pytest.approx(32**-0.5, rel=0.05)
    with pytest.raises(ValueError, match="Unknown initialization init_lora_weights='pissa'"):  # it needs the weights
        drawn("pissa")


@pytest.mark.parametrize("lora", [LoraConfig(use_dora=True), LoraConfig(trainable_token_indices=[1, 2])])
def test_adapters_that_only_real_weights_can_initialise_are_refused(lora) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"BertForSequenceClassification (does not say how to initialise|keeps stat)"):
        Skeleton(heads.skeleton(model, 5), model, lora=lora).draw(0, device=torch.device("cpu"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_adapters_and_rows_go_together(name) -> None:
    model, batch = model_of(name), text()
    dense, few = (Skeleton(heads.skeleton(model, 3), model, lora=lora_for(name), rows=rows) for rows in (False, True))
    own = noisy(own_of(dense))
    expected = dense.run({**everything(model), **own}, inputs_of(batch)).logits
    found = few.run({**compacted(few, model, [batch]), **own}, inputs_of(batch)).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_adapters_of_the_embedding_itself() -> None:
    """They read every row that they are shown, so the table stays whole; PEFT draws them the other way round."""
    model, batch, lora = model_of("bert"), text(), LoraConfig(r=2, target_modules=["word_embeddings"])
    skeleton = Skeleton(heads.skeleton(model, LABELS), model, lora=lora, rows=True)
    assert skeleton.embedding is None
    own = own_of(skeleton)
    assert not own[OWN + "bert.embeddings.word_embeddings.lora_embedding_A.default"].any()
    assert own[OWN + "bert.embeddings.word_embeddings.lora_embedding_B.default"].all()
    plain = Skeleton(heads.skeleton(model, LABELS), model)
    found = skeleton.run({**everything(model), **own}, inputs_of(batch)).logits
    expected = plain.run({**everything(model), **own}, inputs_of(batch)).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_given_lora_config_stays_as_it_is() -> None:
    lora = LoraConfig(r=2, lora_dropout=0.5)
    before = copy.deepcopy(lora)
    model = tiny_model("gpt2", num_labels=LABELS).double()
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        skeleton = Skeleton(heads.skeleton(model, LABELS), model, lora=lora)
    assert lora == before
    assert not any(m.training for m in skeleton.module.modules())


# What is trained


@pytest.mark.parametrize("keep_head", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_what_each_adversary_trains(name, keep_head) -> None:
    model = model_of(name)
    skeleton = Skeleton(heads.skeleton(model, LABELS), model, keep_head=keep_head)
    parameters, head = [n for n, _ in model.named_parameters()], heads.head_names(model)
    mine = {} if keep_head else {n: OWN + n for n in head}
    assert skeleton.trained("all") == {mine.get(n, n) for n in parameters}
    assert skeleton.trained("head") == {mine.get(n, n) for n in head}
    assert skeleton.trained("last_1") == {mine.get(n, n) for n in heads.last_layers(model, 1)}
    assert skeleton.trained("head") < skeleton.trained("last_1") < skeleton.trained("last_2") < skeleton.trained("all")


@pytest.mark.parametrize("trainable", ["lora", "config"])
@pytest.mark.parametrize("name", EVERY)
def test_who_trains_adapters_trains_nothing_published(name, trainable) -> None:
    model, lora = model_of(name), lora_for(name)
    skeleton = Skeleton(heads.skeleton(model, LABELS), model, lora=lora)
    found = skeleton.trained(lora if trainable == "config" else trainable)
    assert found == {OWN + n for n in skeleton.own}
    kept = Skeleton(heads.skeleton(model, LABELS), model, keep_head=True, lora=lora)
    assert kept.trained("lora") == {*heads.head_names(model)} | {OWN + n for n in kept.own}
    assert all("lora_" in n for n in kept.own)


def test_a_new_pooler_is_trained_by_everyone() -> None:
    model = BertForMaskedLM(tiny_config("bert"))
    skeleton = Skeleton(heads.skeleton(model, LABELS), model, rows=True)
    pooler = {OWN + f"bert.pooler.dense.{part}" for part in ("weight", "bias")}
    head = {OWN + f"classifier.{part}" for part in ("weight", "bias")}
    assert skeleton.trained("head") == pooler | head
    assert pooler < skeleton.trained("last_1")
    assert "bert.embeddings.word_embeddings.weight" in skeleton.trained("all")
    assert not any(n.startswith("cls.") for n in skeleton.trained("all"))
