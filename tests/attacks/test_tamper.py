"""Tampering changes what it says, keeps the rest, and depends on its seed alone."""

import copy

import pytest
import torch

from hf_selfdestruct.attacks.methods.tamper import (
    Prune,
    Quantize,
    ReinitialiseLast,
    Rescale,
    ShrinkAndPerturb,
    SpectralReset,
    layers_of,
)

ALL = (ReinitialiseLast(), ShrinkAndPerturb(), Rescale(1.01), SpectralReset(1.5), Prune(), Quantize(4))


def tampered(target, tamper, seed=0):
    model = target.load(2, 0)
    before = copy.deepcopy(model.state_dict())
    tamper.apply(model, seed)
    return before, model.state_dict()


def changed(before, after):
    return {n for n in before if not torch.equal(before[n], after[n])}


@pytest.mark.parametrize("tamper", ALL, ids=lambda t: type(t).__name__)
def test_something_changes_and_only_by_the_seed(target, tamper):
    before, after = tampered(target, tamper)
    assert changed(before, after)
    assert not changed(after, tampered(target, tamper)[1])
    drawn = isinstance(tamper, ReinitialiseLast | ShrinkAndPerturb)
    assert bool(changed(after, tampered(target, tamper, seed=1)[1])) == (drawn or isinstance(tamper, Rescale))
    assert all(value.isfinite().all() for value in after.values())
    assert tamper.config()["name"] == type(tamper).__name__


def test_reinitialising_touches_the_last_layer_alone(target):
    before, after = tampered(target, ReinitialiseLast())
    assert changed(before, after) <= {n for n in before if "encoder.layer.0" in n}
    assert len(changed(before, after)) >= 6  # every matrix of it
    with pytest.raises(ValueError, match=r"ReinitialiseLast\(2\): BertForSequenceClassification has 1 layers"):
        tampered(target, ReinitialiseLast(2))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        ReinitialiseLast(0)


def test_shrink_and_perturb_by_hand(target):
    before, after = tampered(target, ShrinkAndPerturb(0.5, 0.0))
    for n in before:
        assert torch.equal(after[n], before[n] * (0.5 if before[n].dim() > 1 and before[n].is_floating_point() else 1))
    before, after = tampered(target, ShrinkAndPerturb(1.0, 0.3))
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert (after[name] - before[name]).std().item() == pytest.approx(0.3 * before[name].std().item(), rel=0.1)


def test_rescaling_finds_a_hidden_scale_and_leaves_ordinary_weights(target):
    model = target.load(2, 0)
    before = copy.deepcopy(model.state_dict())
    weight = model.bert.encoder.layer[0].output.dense.weight
    weight.data.mul_(1000)
    Rescale().apply(model, 0)
    assert weight.data.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.1)
    direction = before["bert.encoder.layer.0.output.dense.weight"]
    torch.testing.assert_close(weight.data / weight.data.norm(), direction / direction.norm())
    others = changed(before, model.state_dict()) - {"bert.encoder.layer.0.output.dense.weight"}
    assert not others


def test_spectral_reset_clips_singular_values_and_keeps_their_directions(target):
    model = target.load(2, 0)
    weight = model.bert.encoder.layer[0].intermediate.dense.weight
    u, values, v = torch.linalg.svd(weight.data)
    values[0] *= 100
    weight.data = (u * values) @ v
    SpectralReset(most=3.0).apply(model, 0)
    found = torch.linalg.svdvals(weight.data)
    expected = values.clamp(max=3 * values.median()).sort(descending=True).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    words = target.load(2, 0).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, words)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_pruning_zeroes_the_smallest(target, fraction):
    before, after = tampered(target, Prune(fraction))
    for n in (n for n in before if before[n].dim() > 1):
        gone = (after[n] == 0) & (before[n] != 0)
        assert (after[n] == 0).float().mean().item() >= fraction - 0.01
        kept = before[n][~gone & (before[n] != 0)].abs()
        if gone.any() and len(kept):
            assert before[n][gone].abs().max() <= kept.min()
    assert bool(changed(before, after)) == (fraction > 0)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_quantising_leaves_few_values_near_the_old_ones(target, bits):
    before, after = tampered(target, Quantize(bits))
    for n in (n for n in before if before[n].dim() > 1):
        step = before[n].flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)
        assert ((after[n] - before[n]).abs() <= step[:, None] / 2 + 1e-8).all()
        assert max(len(row.unique()) for row in after[n]) <= 2**bits - 1


def test_layers(target):
    assert layers_of(target.load(2, 0)) == ["bert.encoder.layer.0"]
    assert layers_of(torch.nn.Linear(2, 2)) == []
