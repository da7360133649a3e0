"""Heads are found, built and kept generically."""

from __future__ import annotations

import pytest
import torch
from head_cases import EVERY, HEADLESS, LANGUAGE, everything, made
from torch import nn
from toy_models import VOCABULARY, tiny_config, tiny_model, toy_batch, toy_images
from transformers import (
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertGenerationConfig,
    BertGenerationEncoder,
    BertModel,
)

from hf_selfdestruct.models import heads
from hf_selfdestruct.models.functional import call


def logits(model, weights, batch) -> torch.Tensor:
    return call(model, weights, {n: v for n, v in batch.items() if n != "labels"}).logits


def inputs_for(model) -> dict[str, torch.Tensor]:
    if model.main_input_name == "pixel_values":
        return {"pixel_values": toy_images(7)["pixel_values"].float()}
    return {n: v for n, v in toy_batch(7).items() if n != "labels"}


def body(outputs) -> torch.Tensor:
    return outputs.hidden_states[-1]


# Models with a task head


@pytest.mark.parametrize("attention", [None, "eager", "sdpa"])
def test_a_skeleton_with_the_live_weights_is_the_live_model(architecture, attention) -> None:
    model = tiny_model(architecture, num_labels=3, dropout=0.3)
    if attention is not None:
        model.set_attn_implementation(attention)
    kernel = model.config._attn_implementation
    model.train()
    model.base_model.requires_grad_(False)
    bones = heads.skeleton(model, 3)
    batch = toy_batch(7)
    found = logits(bones, everything(model), batch)
    assert all(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.base_model.parameters())
    assert bones.config._attn_implementation == model.config._attn_implementation == kernel
    inputs = {n: v for n, v in batch.items() if n != "labels"}
    assert torch.equal(found, model.eval()(**inputs).logits)
    assert found.std() > 1e-4
    assert torch.equal(logits(bones, everything(model), batch), found)  # no dropout


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_twice_differentiable_is_torchs_attention_and_the_live_kernel_stays(architecture, attention) -> None:
    model = tiny_model(architecture).eval()
    model.set_attn_implementation(attention)
    for make in (lambda: heads.skeleton(model, 2, twice=True), lambda: heads.live_skeleton(model, twice=True)):
        bones = make()
        assert (model.config._attn_implementation, bones.config._attn_implementation) == (attention, "sdpa")
        assert all(m.config._attn_implementation == attention for m in model.modules() if hasattr(m, "config"))
        found, expected = logits(bones, everything(model), toy_batch(7)), model(**inputs_for(model)).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_without_torchs_attention_twice_differentiable_is_eager(monkeypatch) -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    monkeypatch.setattr(type(model), "_supports_sdpa", False)
    assert heads.skeleton(model, 2, twice=True).config._attn_implementation == "eager"


def test_a_skeleton_weighs_nothing_and_has_its_own_number_of_labels(architecture) -> None:
    model = tiny_model(architecture, num_labels=3)
    before = {n: v.clone() for n, v in everything(model).items()}
    state = torch.random.get_rng_state()
    bones = heads.skeleton(model, 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {value.device.type for value in everything(bones).values()} == {"meta"}
    assert {*everything(bones)} == {*everything(model)}
    assert (bones.config.num_labels, model.config.num_labels) == (5, 3)
    assert not any(module.training for module in bones.modules())
    head = heads.draw(bones, heads.head_names(bones), 0)
    assert {*head} == {*heads.head_names(bones)} == {*heads.head_names(model)}
    trunk = {n: v for n, v in everything(model).items() if n not in head}
    assert logits(bones, {**trunk, **head}, toy_batch(7)).shape == (7, 5)
    assert all(torch.equal(v, before[n]) for n, v in everything(model).items())


@pytest.mark.parametrize("name", EVERY)
def test_trunk_and_head_are_the_whole_model(name) -> None:
    model = tiny_model(name)
    prefix = heads.trunk_prefix(model)
    trunk = {f"{prefix}{name}" for name, _ in model.base_model.named_parameters()}
    head = heads.head_names(model)
    assert trunk.isdisjoint(head)
    assert trunk | {*head} == {name for name, _ in model.named_parameters()}
    assert len(head) >= 1


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_a_classifier_has_a_task_head_and_keeps_its_class(name, labels) -> None:
    model = tiny_model(name, num_labels=labels)
    assert heads.has_task_head(model)
    assert model.config.num_labels == labels
    assert type(heads.skeleton(model, 5)) is type(model)


@pytest.mark.parametrize("auto_class", [AutoModelForTokenClassification, AutoModelForQuestionAnswering])
@pytest.mark.parametrize("name", ["bert", "gpt2", "modernbert"])
def test_a_head_that_labels_parts_of_a_row_gives_way_to_one_for_rows(name, auto_class) -> None:
    parts = auto_class.from_config(tiny_config(name))
    assert not heads.has_task_head(parts)
    assert type(heads.skeleton(parts, 5)) is type(tiny_model(name))
    assert type(heads.live_skeleton(parts)) is type(parts)


def test_names_between_is_the_trunk_and_on_request_the_head(architecture) -> None:
    model = tiny_model(architecture, num_labels=3)
    head = {*heads.head_names(model)}
    found = heads.names_between(heads.skeleton(model, 3), model)
    assert found == {n: n for n in everything(model) if n not in head}
    assert heads.names_between(heads.live_skeleton(model), model, keep_head=True) == {n: n for n in everything(model)}
    other = heads.names_between(heads.skeleton(model, 5), model, keep_head=True)  # the outputs are not of one shape
    assert {*found} < {*other} | head
    assert any(name not in other for name in head)


# Models without


@pytest.mark.parametrize("name", HEADLESS)
def test_what_has_no_task_head_gets_the_class_that_classifies_its_inputs(name) -> None:
    model = made(name)
    before = {n: v.clone() for n, v in everything(model).items()}
    assert not heads.has_task_head(model)
    pictures = model.main_input_name == "pixel_values"
    auto_class = AutoModelForImageClassification if pictures else AutoModelForSequenceClassification
    bones = heads.skeleton(model, 5)
    assert type(bones) is type(auto_class.from_config(model.config))
    assert {value.device.type for value in everything(bones).values()} == {"meta"}
    assert bones.config.num_labels == 5
    assert all(torch.equal(v, before[n]) for n, v in everything(model).items())


@pytest.mark.parametrize("name", HEADLESS)
def test_the_new_head_stands_on_the_live_trunk(name) -> None:
    """The skeleton's last hidden states are the live ones; every live weight that it reads is found by name."""
    model = made(name)
    bones = heads.skeleton(model, 5)
    found = heads.names_between(bones, model)
    own = [n for n, _ in bones.named_parameters() if n not in found]
    pooler = ["bert.pooler.dense.weight", "bert.pooler.dense.bias"] if name == "BertForMaskedLM" else []
    assert own == [*pooler, *heads.head_names(bones)]
    assert not [n for n, _ in bones.named_buffers() if n not in found]
    assert len({*found.values()}) == len(found)
    weights = {n: everything(model)[outer] for n, outer in found.items()}
    inputs = {**inputs_for(model), "output_hidden_states": True}
    outputs = call(bones, {**weights, **heads.draw(bones, own, 0)}, inputs)
    assert outputs.logits.shape == (7, 5)
    assert outputs.logits.std() > 0
    assert torch.equal(body(outputs), body(model(**inputs)))


@pytest.mark.parametrize("name", [n for n in HEADLESS if n.endswith("trunk")])
def test_a_bare_trunk_is_all_trunk(name) -> None:
    model = made(name)
    assert heads.trunk_prefix(model) == ""
    assert heads.head_names(model) == []
    alive = heads.live_skeleton(model)
    assert type(alive) is type(model)
    assert heads.names_between(alive, model) == {n: n for n in everything(model)}


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_models_head_is_never_the_tasks(name) -> None:
    model = made(name)
    bones = heads.skeleton(model, VOCABULARY)  # even where the shapes agree
    mapped = heads.names_between(bones, model)
    assert not {*mapped.values()} & {*heads.head_names(model)}
    assert not {*mapped} & {*heads.head_names(bones)}


def test_a_pooler_that_a_masked_language_model_lacks_is_drawn_as_bert_initialises_it() -> None:
    bones = heads.skeleton(made("BertForMaskedLM", hidden=128, layers=1), 5)
    drawn = heads.draw(bones, ["bert.pooler.dense.weight", "bert.pooler.dense.bias"], 0)
    assert drawn["bert.pooler.dense.weight"].std().item() == pytest.approx(bones.config.initializer_range, rel=0.05)
    assert not drawn["bert.pooler.dense.bias"].any()


@pytest.mark.parametrize("name", ["bert", "BertForMaskedLM", "bert trunk"])
def test_another_class_of_head_on_request(name) -> None:
    model = tiny_model(name) if name == "bert" else made(name)
    bones = heads.skeleton(model, 5, auto_class=AutoModelForTokenClassification)
    assert type(bones).__name__ == "BertForTokenClassification"
    found = heads.names_between(bones, model)
    own = [n for n, _ in bones.named_parameters() if n not in found]
    assert own == ["classifier.weight", "classifier.bias"]
    weights = {n: everything(model)[outer] for n, outer in found.items()}
    assert call(bones, {**weights, **heads.draw(bones, own, 0)}, inputs_for(model)).logits.shape == (7, 8, 5)


def test_what_cannot_be_classified_is_refused_with_the_cure() -> None:
    config = BertGenerationConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    with pytest.raises(
        ValueError, match=r"BertGenerationEncoder has no classification .* model_class=\).* BertGenerationConfig"
    ):
        heads.skeleton(BertGenerationEncoder(config), 2)
    with pytest.raises(ValueError, match="has no classification head"):
        heads.skeleton(tiny_model("bert"), 2, auto_class=AutoModelForImageClassification)


# Layers


LAST = {
    "bert": ("bert.encoder.layer.2.", ("bert.pooler.", "classifier.")),
    "distilbert": ("distilbert.transformer.layer.2.", ("pre_classifier.", "classifier.")),
    "roberta": ("roberta.encoder.layer.2.", ("classifier.",)),
    "modernbert": ("model.layers.2.", ("model.final_norm.", "head.", "classifier.")),
    "gpt2": ("transformer.h.2.", ("transformer.ln_f.", "score.")),
    "llama": ("model.layers.2.", ("model.norm.", "score.")),
    "vit": ("vit.layers.2.", ("vit.layernorm.", "classifier.")),
    "resnet": ("resnet.encoder.stages.1.", ("classifier.",)),
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_layer_and_what_follows(name) -> None:
    model = tiny_model(name, layers=2 if name == "resnet" else 3)
    layer, after = LAST[name]
    found = heads.last_layers(model, 1)
    assert found == [n for n, _ in model.named_parameters() if n.startswith((layer, *after))]
    assert all(any(n.startswith(start) for n in found) for start in (layer, *after))


def test_more_layers_are_more_of_them_and_all_are_not_the_embeddings(architecture) -> None:
    model = tiny_model(architecture, layers=3)
    counts = [{*heads.last_layers(model, count)} for count in (1, 2, 3)]
    assert counts[0] < counts[1] < counts[2]
    sizes = [len(names) for names in counts]
    if architecture != "modernbert":  # its first layer has one norm less
        assert sizes[2] - sizes[1] == sizes[1] - sizes[0]
    left = {n for n, _ in model.named_parameters()} - counts[2]
    assert left
    assert all("embed" in n or "wte" in n or "wpe" in n for n in left)


def test_more_layers_than_there_are_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"trainable='last_3': BertForSequenceClassification has 2 layers; use fewer"):
        heads.last_layers(tiny_model(), 3)
    with pytest.raises(ValueError, match=r"trainable='last_1': Linear has 0 layers; use fewer"):
        heads.last_layers(nn.Linear(2, 2), 1)


def test_a_skeleton_of_a_bare_trunk_counts_layers_alike() -> None:
    bones = heads.skeleton(made("bert trunk"), 3)
    assert heads.last_layers(bones, 1) == heads.last_layers(tiny_model(), 1)
    assert isinstance(made("bert trunk"), BertModel)
