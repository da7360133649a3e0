"""Adapters of a weightless twin are PEFT's."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from skeleton_cases import (
    EVERY,
    LABELS,
    TARGETS,
    batch_for,
    compacted,
    everything,
    inputs_of,
    lora_for,
    loss_and_gradients,
    model_of,
    noisy,
    own_of,
    text,
)
from torch.nn.functional import cross_entropy
from toy_models import ARCHITECTURES, tiny_model

from hf_selfdestruct.models import heads
from hf_selfdestruct.models.stateless import OWN, StatelessModel


@pytest.mark.parametrize("name", EVERY)
def test_fresh_adapters_change_no_answer(name) -> None:
    model, batch = model_of(name), batch_for(name)
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model, lora=lora_for(name))
    plain = StatelessModel(heads.skeleton(model, LABELS), model)
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
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model, lora=lora_for(name))
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
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model, lora=lora)
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
    drawn = StatelessModel(heads.skeleton(model, 5), model, lora=lora).draw(0, device=torch.device("cpu"))
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
        own = StatelessModel(heads.skeleton(model, 5), model, lora=lora).draw(0, device=torch.device("cpu"))
        assert not any(w.any() for n, w in own.items() if "lora_B" in n)
        return torch.cat([w.reshape(-1) for n, w in own.items() if "lora_A" in n])

    assert drawn("gaussian").std().item() == pytest.approx(1 / 16, rel=0.1)
    assert drawn(True).abs().max().item() == pytest.approx(32**-0.5, rel=0.05)
    with pytest.raises(ValueError, match="Unknown initialization init_lora_weights='pissa'"):  # it needs the weights
        drawn("pissa")


@pytest.mark.parametrize("lora", [LoraConfig(use_dora=True), LoraConfig(trainable_token_indices=[1, 2])])
def test_adapters_that_only_real_weights_can_initialise_are_refused(lora) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"BertForSequenceClassification (does not initialise|has buffers)"):
        StatelessModel(heads.skeleton(model, 5), model, lora=lora).draw(0, device=torch.device("cpu"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_adapters_and_rows_go_together(name) -> None:
    model, batch = model_of(name), text()
    dense, few = (
        StatelessModel(heads.skeleton(model, 3), model, lora=lora_for(name), rows=rows) for rows in (False, True)
    )
    own = noisy(own_of(dense))
    expected = dense.run({**everything(model), **own}, inputs_of(batch)).logits
    found = few.run({**compacted(few, model, [batch]), **own}, inputs_of(batch)).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_adapters_of_the_embedding_itself() -> None:
    """They read every row that they are shown, so the table stays whole; PEFT draws them the other way round."""
    model, batch, lora = model_of("bert"), text(), LoraConfig(r=2, target_modules=["word_embeddings"])
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model, lora=lora, rows=True)
    assert skeleton.embedding is None
    own = own_of(skeleton)
    assert not own[OWN + "bert.embeddings.word_embeddings.lora_embedding_A.default"].any()
    assert own[OWN + "bert.embeddings.word_embeddings.lora_embedding_B.default"].all()
    plain = StatelessModel(heads.skeleton(model, LABELS), model)
    found = skeleton.run({**everything(model), **own}, inputs_of(batch)).logits
    expected = plain.run({**everything(model), **own}, inputs_of(batch)).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_given_lora_config_stays_as_it_is() -> None:
    lora = LoraConfig(r=2, lora_dropout=0.5)
    before = copy.deepcopy(lora)
    model = tiny_model("gpt2", num_labels=LABELS).double()
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        skeleton = StatelessModel(heads.skeleton(model, LABELS), model, lora=lora)
    assert lora == before
    assert not any(m.training for m in skeleton.module.modules())
