"""Skeletons and heads of six architectures."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_selfdestruct import heads
from hf_selfdestruct.functional import logits


def everything(model) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("attention", [None, "eager", "sdpa"])
def test_a_skeleton_with_the_live_weights_is_the_live_model(tiny_model, toy_batch, architecture, attention) -> None:
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


def test_another_kernel_leaves_the_live_one_alone_and_gives_the_same_logits(
    tiny_model, toy_batch, architecture
) -> None:
    model = tiny_model(architecture).eval()
    model.set_attn_implementation("sdpa")
    bones = heads.skeleton(model, 2, attention="eager")
    assert (model.config._attn_implementation, bones.config._attn_implementation) == ("sdpa", "eager")
    assert all(m.config._attn_implementation == "sdpa" for m in model.modules() if hasattr(m, "config"))
    batch = toy_batch(7)
    inputs = {n: v for n, v in batch.items() if n != "labels"}
    torch.testing.assert_close(logits(bones, everything(model), batch), model(**inputs).logits, rtol=1e-4, atol=1e-6)


def test_a_skeleton_weighs_nothing_and_has_its_own_number_of_labels(tiny_model, toy_batch, architecture) -> None:
    model = tiny_model(architecture, num_labels=3)
    before = {n: v.clone() for n, v in everything(model).items()}
    state = torch.random.get_rng_state()
    bones = heads.skeleton(model, 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {value.device.type for value in everything(bones).values()} == {"meta"}
    assert set(everything(bones)) == set(everything(model))
    assert (bones.config.num_labels, model.config.num_labels) == (5, 3)
    assert not any(module.training for module in bones.modules())
    head = heads.draw_head(bones, 0)
    assert set(head) == set(heads.head_names(bones)) == set(heads.head_names(model))
    trunk = {n: v for n, v in everything(model).items() if n not in head}
    assert logits(bones, {**trunk, **head}, toy_batch(7)).shape == (7, 5)
    assert all(torch.equal(v, before[n]) for n, v in everything(model).items())


def test_trunk_and_head_are_the_whole_model(tiny_model, architecture) -> None:
    model = tiny_model(architecture)
    prefix = heads.trunk_prefix(model)
    trunk = {f"{prefix}{name}" for name, _ in model.base_model.named_parameters()}
    head = heads.head_names(model)
    assert trunk.isdisjoint(head)
    assert trunk | set(head) == {name for name, _ in model.named_parameters()}
    assert len(head) >= 1


def test_drawn_heads_depend_on_the_seed_alone(tiny_model, architecture) -> None:
    bones = heads.skeleton(tiny_model(architecture), 5)
    state = torch.random.get_rng_state()
    one = heads.draw_head(bones, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    junk = [torch.full((64, 64), 7.0) for _ in range(50)]  # what an uninitialised tensor might pick up
    del junk
    again, other = heads.draw_head(bones, 3), heads.draw_head(bones, 4)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not any(torch.equal(one[n], other[n]) for n in one if one[n].dim() > 1)
    assert all(not value.requires_grad and value.device.type == "cpu" for value in one.values())


def test_drawn_heads_are_distributed_as_the_architecture_initialises_them(tiny_model, architecture) -> None:
    size = 128
    bones = heads.skeleton(tiny_model(architecture, hidden=size, layers=1), 40)
    fresh = AutoModelForSequenceClassification.from_config(bones.config)
    drawn = heads.draw_head(bones, 0)
    for name in heads.head_names(fresh):
        expected = fresh.get_parameter(name).detach()
        if expected.dim() > 1:
            assert drawn[name].std().item() == pytest.approx(expected.std().item(), rel=0.1), name
            assert abs(drawn[name].mean().item()) < 0.1 * expected.std().item(), name
        else:
            assert torch.equal(drawn[name], expected), name


def test_a_bare_trunk_is_refused_with_the_cure(tiny_model, architecture) -> None:
    for call in (heads.trunk_prefix, heads.head_names, lambda model: heads.draw_head(model, 0)):
        with pytest.raises(ValueError, match=r"not a trunk with a task head; load it with AutoModelForSequence"):
            call(tiny_model(architecture).base_model)
