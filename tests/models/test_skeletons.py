"""A weightless twin with the live weights is the live model, and what it trains."""

from __future__ import annotations

import copy

import pytest
import torch
from skeleton_cases import (
    EVERY,
    LABELS,
    batch_for,
    compacted,
    everything,
    inputs_of,
    leaves,
    lora_for,
    model_of,
    noisy,
    own_of,
)
from torch.nn.functional import cross_entropy
from toy_models import ARCHITECTURES, tiny_config
from transformers import BertForMaskedLM

from hf_selfdestruct.models import heads
from hf_selfdestruct.models.stateless import OWN, StatelessModel

# Live weights


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", EVERY)
def test_with_the_live_weights_it_is_the_live_model(name, side) -> None:
    model = model_of(name, dropout=0.3)
    batch = batch_for(name, **({"side": side} if name in ARCHITECTURES else {}))
    skeleton = StatelessModel(heads.live_skeleton(model), model, keep_head=True)
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
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model)
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
    skeleton = StatelessModel(heads.skeleton(model, 5), model, lora=lora_for(name), rows=True)
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
    skeleton = StatelessModel(heads.skeleton(model, LABELS, twice=True), model, lora=lora, rows=rows, twice=True)
    weights = leaves({**compacted(skeleton, model, [batch]), **noisy(own_of(skeleton))})
    loss = cross_entropy(skeleton.run(weights, inputs_of(batch)).logits, batch["labels"])
    names, asked = zip(*((n, w) for n, w in weights.items() if w.requires_grad), strict=True)
    first = torch.autograd.grad(loss, asked, create_graph=True, allow_unused=True, materialize_grads=True)
    second = torch.autograd.grad(sum(g.sin().sum() for g in first), asked, allow_unused=True)
    reached = {n for n, g in zip(names, second, strict=True) if g is not None}
    assert reached >= {*names} - {*heads.head_names(model)}
    assert all(g.isfinite().all() for g in second if g is not None)


# What is trained


@pytest.mark.parametrize("keep_head", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_what_each_adversary_trains(name, keep_head) -> None:
    model = model_of(name)
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model, keep_head=keep_head)
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
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model, lora=lora)
    found = skeleton.trained(lora if trainable == "config" else trainable)
    assert found == {OWN + n for n in skeleton.own}
    kept = StatelessModel(heads.skeleton(model, LABELS), model, keep_head=True, lora=lora)
    assert kept.trained("lora") == {*heads.head_names(model)} | {OWN + n for n in kept.own}
    assert all("lora_" in n for n in kept.own)


def test_a_new_pooler_is_trained_by_everyone() -> None:
    model = BertForMaskedLM(tiny_config("bert"))
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model, rows=True)
    pooler = {OWN + f"bert.pooler.dense.{part}" for part in ("weight", "bias")}
    head = {OWN + f"classifier.{part}" for part in ("weight", "bias")}
    assert skeleton.trained("head") == pooler | head
    assert pooler < skeleton.trained("last_1")
    assert "bert.embeddings.word_embeddings.weight" in skeleton.trained("all")
    assert not any(n.startswith("cls.") for n in skeleton.trained("all"))
