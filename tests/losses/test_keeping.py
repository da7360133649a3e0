"""Keeping losses against slow twins, one number at a time, and what their values mean."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from keeping_cases import LENGTH, MASKS, ROWS, STATES, WIDTH, batch_of, draw, made
from torch import Tensor

from hf_selfdestruct.losses.keeping import POOLINGS, EmbeddingDistillation, HiddenStateDistillation, LogitDistillation

TOLERANCE = {"rtol": 1e-11, "atol": 1e-13}
DISTILLATIONS = (
    LogitDistillation(),
    LogitDistillation(temperature=2.5),
    HiddenStateDistillation(),
    HiddenStateDistillation(layers=(0, -1)),
    *(EmbeddingDistillation(pooling=pooling) for pooling in POOLINGS),
)


ALL_DISTILLATIONS = pytest.mark.parametrize("loss", DISTILLATIONS, ids=repr)


def counted(mask: list[list[int]] | None) -> list[list[int]]:
    """The counted positions of every row."""
    return [[p for p in range(LENGTH) if mask is None or mask[row][p]] for row in range(ROWS)]


# Twins: one number at a time


def slow_kl(ours: Tensor, theirs: Tensor, temperature: float) -> float:
    q, p = ((z / temperature).exp() / (z / temperature).exp().sum() for z in (ours, theirs))
    return temperature**2 * sum(float(p[c] * math.log(p[c] / q[c])) for c in range(len(p)))


def slow_squares(vector: Tensor) -> float:
    return sum(float(value) ** 2 for value in vector)


def slow_distance(ours: Tensor, theirs: Tensor, places: list[tuple[int, ...]]) -> float:
    return sum(slow_squares(ours[at] - theirs[at]) for at in places) / sum(slow_squares(theirs[at]) for at in places)


def slow_pooled(states: Tensor, positions: list[int], pooling: str) -> Tensor:
    chosen = {"mean": positions, "first": positions[:1], "last": positions[-1:]}[pooling]
    return sum(states[p] for p in chosen) / len(chosen)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_logit_distillation_of_rows_equals_its_twin_and_needs_no_mask(temperature) -> None:
    ours, theirs = (SimpleNamespace(logits=draw(ROWS, 4, seed=seed)) for seed in (0, 1))
    expected = sum(slow_kl(ours.logits[i], theirs.logits[i], temperature) for i in range(ROWS)) / ROWS
    value = LogitDistillation(temperature)(ours, theirs, batch_of(MASKS["left"]))
    assert value.shape == ()
    assert value.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logit_distillation_of_tokens_equals_its_twin(mask, temperature) -> None:
    ours, theirs = made(0), made(1)
    terms = [
        slow_kl(ours.logits[row, p], theirs.logits[row, p], temperature)
        for row, positions in enumerate(counted(mask))
        for p in positions
    ]
    value = LogitDistillation(temperature)(ours, theirs, batch_of(mask))
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-11)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("layers", [None, (-1,), (0, 2), (-3,)])
def test_hidden_state_distillation_equals_its_twin(mask, layers) -> None:
    ours, theirs = made(0), made(1)
    places = [(row, p) for row, positions in enumerate(counted(mask)) for p in positions]
    chosen = range(STATES) if layers is None else layers
    terms = [slow_distance(ours.hidden_states[i], theirs.hidden_states[i], places) for i in chosen]
    value = HiddenStateDistillation(layers)(ours, theirs, batch_of(mask))
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-11)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_embedding_distillation_equals_its_twin(mask, pooling) -> None:
    ours, theirs = made(0), made(1)
    terms = []
    for row, positions in enumerate(counted(mask)):
        if positions:
            e, o = (slow_pooled(given.hidden_states[-1][row], positions, pooling) for given in (ours, theirs))
            terms.append(slow_squares(e - o) / slow_squares(o))
    value = EmbeddingDistillation(pooling)(ours, theirs, batch_of(mask))
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-11)


def test_feature_maps_equal_their_twins() -> None:
    """Logits and states of shape (batch, channels, height, width)."""
    ours, theirs = (
        SimpleNamespace(logits=draw(2, 3, 4, 5, seed=seed), hidden_states=(draw(2, 3, 4, 5, seed=seed),))
        for seed in (0, 1)
    )
    places = [(row, slice(None), h, w) for row in range(2) for h in range(4) for w in range(5)]
    kl = sum(slow_kl(ours.logits[at], theirs.logits[at], 1.0) for at in places) / len(places)
    assert LogitDistillation()(ours, theirs, {}).item() == pytest.approx(kl, rel=1e-11)
    distance = slow_distance(ours.logits, theirs.logits, places)
    assert HiddenStateDistillation()(ours, theirs, {}).item() == pytest.approx(distance, rel=1e-11)
    rows = [slow_distance(ours.logits[i].mean((1, 2)), theirs.logits[i].mean((1, 2)), [(...,)]) for i in range(2)]
    assert EmbeddingDistillation()(ours, theirs, {}).item() == pytest.approx(sum(rows) / 2, rel=1e-11)


# What the values mean


@ALL_DISTILLATIONS
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_zero_at_equality_only_and_no_gradient_there(loss, mask) -> None:
    batch, there = batch_of(mask), made(0)
    here = made(0)
    leaves = [here.logits.requires_grad_(), *(state.requires_grad_() for state in here.hidden_states)]
    value = loss(here, there, batch)
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, leaves, allow_unused=True):
        assert gradient is None or gradient.abs().max() < 1e-12
    assert loss(made(1), there, batch) > 0.1


def test_hidden_state_distance_has_no_unit() -> None:
    ours, theirs = made(0), made(1)
    small, little = (SimpleNamespace(hidden_states=[1e-3 * s for s in o.hidden_states]) for o in (ours, theirs))
    for loss in (HiddenStateDistillation(), EmbeddingDistillation()):
        torch.testing.assert_close(loss(small, little, {}), loss(ours, theirs, {}))
        zeros = SimpleNamespace(hidden_states=[torch.zeros_like(s) for s in theirs.hidden_states])
        assert loss(zeros, theirs, {}).item() == pytest.approx(1.0)
        assert loss(zeros, zeros, {}).item() == 0  # a dead layer is no division by zero
        assert loss(theirs, zeros, {}).isfinite()


def test_embedding_distance_bounds_the_angle_and_sees_the_length() -> None:
    for seed in range(20):
        here, there = draw(1, 1, WIDTH, seed=seed), draw(1, 1, WIDTH, seed=seed + 100)
        value = EmbeddingDistillation()(*(SimpleNamespace(hidden_states=(s,)) for s in (here, there)), {})
        assert 1 - torch.cosine_similarity(here, there, dim=-1).square() <= value + 1e-12
    longer = SimpleNamespace(hidden_states=(2 * there,))  # the cosine is 1
    assert EmbeddingDistillation()(longer, SimpleNamespace(hidden_states=(there,)), {}).item() == pytest.approx(1.0)


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    """For T far above the logits, T^2 KL tends to half their centred squared distance over C, whatever T."""
    ours, theirs = (SimpleNamespace(logits=draw(ROWS, 4, seed=seed)) for seed in (0, 1))
    gap = ours.logits - theirs.logits
    limit = (gap - gap.mean(-1, keepdim=True)).square().mean(-1).mean() / 2
    assert LogitDistillation(1e3)(ours, theirs, {}).item() == pytest.approx(limit.item(), rel=1e-2)


@ALL_DISTILLATIONS
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("garbage", [1e3, math.inf, math.nan])
def test_more_padding_changes_nothing(loss, side, garbage) -> None:
    mask = torch.tensor(MASKS[side])
    before = loss(made(0), made(1), {"attention_mask": mask})
    extra = (3, 0) if side == "left" else (0, 3)

    def padded(seed: int) -> tuple[SimpleNamespace, list[Tensor]]:
        given = made(seed)
        leaves = [
            torch.nn.functional.pad(values, (0, 0, *extra), value=garbage).requires_grad_()
            for values in (given.logits, *given.hidden_states)
        ]
        return SimpleNamespace(logits=leaves[0], hidden_states=tuple(leaves[1:])), leaves

    ours, leaves = padded(0)
    wider = torch.nn.functional.pad(mask, extra)
    value = loss(ours, padded(1)[0], {"attention_mask": wider})
    torch.testing.assert_close(value, before, **TOLERANCE)
    for gradient in torch.autograd.grad(value, leaves, allow_unused=True):
        if gradient is not None:
            assert gradient.isfinite().all()
            assert gradient[wider == 0].abs().sum() == 0


def test_half_precision_outputs_are_compared_in_float32() -> None:
    ours, theirs = (SimpleNamespace(logits=draw(ROWS, 4, seed=seed).bfloat16()) for seed in (0, 1))
    value = LogitDistillation()(ours, theirs, {})
    exact = LogitDistillation()(*(SimpleNamespace(logits=o.logits.double()) for o in (ours, theirs)), {})
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def test_no_gradient_reaches_the_original() -> None:
    for loss in DISTILLATIONS:
        ours, theirs = made(0), made(1)
        for values in (ours.logits, theirs.logits, *ours.hidden_states, *theirs.hidden_states):
            values.requires_grad_()
        loss(ours, theirs, {}).backward()
        assert all(values.grad is None for values in (theirs.logits, *theirs.hidden_states))
