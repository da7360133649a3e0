"""While live modules are held, they are the adversary's model; afterwards they are what they were."""

from __future__ import annotations

import pytest
import torch
from head_cases import made
from live_episodes import state, tensors
from skeleton_cases import (
    EVERY,
    LABELS,
    batch_for,
    compacted,
    everything,
    inputs_of,
    lora_for,
    model_of,
    noisy,
    own_of,
    text,
)
from toy_models import ARCHITECTURES
from transformers import AutoModelForTokenClassification, BartConfig, BartForSequenceClassification
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_selfdestruct.models import heads
from hf_selfdestruct.models.in_place import held
from hf_selfdestruct.models.stateless import StatelessModel

KINDS = ("plain", "lora", "rows")


def other(weights, seed: int = 3):
    """Weights that the live model does not have."""
    generator = torch.Generator().manual_seed(seed)
    return {
        n: w.detach() + 0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype) if w.is_floating_point() else w
        for n, w in weights.items()
    }


def assert_same_outputs(skeleton, model, weights, inputs) -> None:
    """In place as without the live model, hidden states included, twice; the live model then answers as before."""
    before, answer = state(model), model(**inputs)[0]
    calls = []
    expected = skeleton.run(weights, inputs)
    hooks = [m.register_forward_hook(lambda *_: calls.append(1)) for m in model.modules() if [*m.parameters(False)]]
    for _ in range(2):
        with skeleton.held(model, weights, training=False):
            found = skeleton.run(weights, inputs)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=0)
        torch.testing.assert_close(found.hidden_states, expected.hidden_states, rtol=0, atol=0)
    assert calls  # the live modules ran
    for hook in hooks:
        hook.remove()
    assert_as_before(model, before)
    torch.testing.assert_close(model(**inputs)[0], answer, rtol=0, atol=0)


def assert_as_before(model, before) -> None:
    for (one, bits), (same, now) in zip(before["tensors"], tensors(model), strict=True):
        assert one is same
        assert torch.equal(bits, now)
    after = state(model)
    assert [before[n] for n in ("training", "requires_grad")] == [after[n] for n in ("training", "requires_grad")]
    assert {n: m[:2] for n, m in before["modules"].items()} == {n: m[:2] for n, m in after["modules"].items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
def test_live_modules_are_the_adversarys_model(name, kind) -> None:
    model, batch = model_of(name), batch_for(name)
    skeleton = StatelessModel(
        heads.skeleton(model, LABELS), model, lora=lora_for(name) if kind == "lora" else None, rows=kind == "rows"
    )
    weights = other(compacted(skeleton, model, [batch]) if kind == "rows" else everything(model))
    inputs = inputs_of(batch) | ({"output_hidden_states": True} if name in ARCHITECTURES else {})
    assert_same_outputs(skeleton, model, {**weights, **noisy(own_of(skeleton))}, inputs)


@pytest.mark.parametrize("name", ["bert trunk", "BertForMaskedLM", "GPT2LMHeadModel", "LlamaForCausalLM"])
@pytest.mark.parametrize("head", ["classes", "tokens", "keep"])
def test_heads_go_onto_live_trunks_and_poolers_come_and_go(name, head) -> None:
    model = made(name).eval()
    if head == "keep" and "trunk" in name:
        return
    keep = head == "keep"
    auto_class = AutoModelForTokenClassification if head == "tokens" else None
    module = heads.live_skeleton(model) if keep else heads.skeleton(model, LABELS, auto_class=auto_class)
    skeleton = StatelessModel(module, model, keep_head=keep)
    # A launcher wraps the whole model for mixed precision, which is for the outer step.
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    inputs = inputs_of(text()) | {"output_hidden_states": True}
    own = {n: w.float() for n, w in own_of(skeleton).items()}
    assert_same_outputs(skeleton, model, {**other(everything(model)), **own}, inputs)


def test_a_layers_own_dropout_is_off_where_it_checkpoints() -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60}
    parts = {"attention_heads": 2, "ffn_dim": 16}
    sides = {f"{side}_{part}": value for side in ("encoder", "decoder") for part, value in parts.items()}
    model = BartForSequenceClassification(BartConfig(**sizes, **sides, dropout=0.5, eos_token_id=2)).double().train()
    batch = text()
    batch["input_ids"][:, -1] = 2
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model)
    weights = {**everything(model), **own_of(skeleton)}
    gradients = []
    for checkpoints in (False, True):
        if checkpoints:
            model.activation_checkpointing_enable()
        leaves = {n: w.detach().requires_grad_(w.is_floating_point()) for n, w in weights.items()}
        with skeleton.held(model, leaves, training=False):
            skeleton.run(leaves, inputs_of(batch)).logits.square().sum().backward()
            layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
            assert [layer.training for layer in layers] == [checkpoints] * 2
        gradients.append({n: w.grad for n, w in leaves.items() if w.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    assert all(layer.training for layer in layers)


class Packed(torch.nn.Parameter):
    """Like a quantized weight: the object has what the tensor lacks."""


class PackedLinear(torch.nn.Linear):
    def forward(self, value):
        assert type(self.weight) is Packed
        return super().forward(value)


def test_a_frozen_weight_that_is_more_than_a_tensor_stays_the_live_object() -> None:
    model = model_of("bert")
    layer = model.bert.encoder.layer[0].intermediate
    packed = PackedLinear(16, 32).double()
    packed.weight = Packed(layer.dense.weight.detach(), requires_grad=False)
    layer.dense = packed
    skeleton = StatelessModel(heads.skeleton(model, LABELS), model)
    weights = {**{n: w.detach() for n, w in everything(model).items()}, **own_of(skeleton)}
    expected = skeleton.run(weights, inputs_of(text())).logits
    with skeleton.held(model, weights, training=False):
        torch.testing.assert_close(skeleton.run(weights, inputs_of(text())).logits, expected)


def test_nothing_is_held_after_a_failure() -> None:
    model = model_of("bert")
    before = state(model)
    module = heads.skeleton(model, LABELS)
    names = heads.names_between(module, model)
    with (
        pytest.raises(KeyError, match="no such weight"),
        held(module, model, {"no such weight": torch.zeros(1)}, published=names),
    ):
        pass
    assert_as_before(model, before)
    assert {p.device.type for p in module.parameters()} == {"meta"}
