"""Inner optimizers step as torch's do, with a graph or without."""

from __future__ import annotations

import pytest
import torch
from optimizer_cases import (
    RATE,
    SIZE,
    VARIANTS,
    every_variant,
    objective,
    same,
    scalar,
    some_gradient,
    some_state,
    vector,
)
from torch import Tensor, nn

from hf_selfdestruct.adversaries import optimizer as inner_optimizer
from hf_selfdestruct.adversaries.optimizers import INNER_OPTIMIZERS, NormalizedSGD
from hf_selfdestruct.hardening.config import HardeningConfig


def gradient_at(weights: Tensor, step: int) -> Tensor:
    leaf = weights.detach().requires_grad_()
    return torch.autograd.grad(objective(leaf, step), leaf)[0]


# The same as torch


TWINS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=RATE),
    "momentum": lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=RATE, eps=1e-6),
    "adamw": lambda p: torch.optim.AdamW(p, lr=RATE, eps=1e-6),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=RATE, eps=1e-6),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=RATE, eps=1e-6),
    "sgd-decay": lambda p: torch.optim.SGD(p, lr=RATE, weight_decay=0.2),
    "momentum-decay": lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.8, weight_decay=0.2),
    "nesterov-decay": lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.8, nesterov=True, weight_decay=0.2),
    "adam-betas-epsilon": lambda p: torch.optim.Adam(p, lr=RATE, betas=(0.7, 0.9), eps=1e-2),
    "adam-decay": lambda p: torch.optim.Adam(p, lr=RATE, eps=1e-6, weight_decay=0.3),
    "adamw-decay": lambda p: torch.optim.AdamW(p, lr=RATE, eps=1e-6, weight_decay=0.3),
    "rmsprop-decay": lambda p: torch.optim.RMSprop(p, lr=RATE, alpha=0.8, eps=1e-3, weight_decay=0.3),
    "rmsprop-momentum": lambda p: torch.optim.RMSprop(p, lr=RATE, momentum=0.9, eps=1e-6),
    "rmsprop-momentum-decay": lambda p: torch.optim.RMSprop(p, lr=RATE, momentum=0.7, eps=1e-6, weight_decay=0.3),
    "adagrad-decay": lambda p: torch.optim.Adagrad(p, lr=RATE, eps=1e-3, weight_decay=0.3),
}


def test_every_variant_but_those_torch_lacks_has_a_twin() -> None:
    assert {*VARIANTS} - {*TWINS} == {"normalized_sgd", "normalized_sgd-decay"}


@pytest.mark.parametrize("rate", [RATE, scalar(RATE)], ids=["number", "tensor"])
@pytest.mark.parametrize("name", TWINS)
def test_equals_torch_step_for_step(name, rate) -> None:
    ours, weights = VARIANTS[name], vector(0)
    theirs = nn.Parameter(vector(0))
    optimizer, state = TWINS[name]([theirs]), ours.init(weights)
    for step in range(1, 11):
        optimizer.zero_grad()
        objective(theirs, step).backward()
        optimizer.step()
        moved, state = ours.update(weights, gradient_at(weights, step), state, step, rate)
        assert not torch.equal(moved, weights)
        torch.testing.assert_close(moved, theirs.data, rtol=1e-12, atol=1e-14)
        weights = moved


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_normalized_sgd_goes_its_rate_against_the_unit_gradient(decay) -> None:
    weights = vector(0)
    for step in range(1, 11):
        gradient = gradient_at(weights, step)
        whole = [g + decay * w for g, w in zip(gradient.tolist(), weights.tolist(), strict=True)]
        norm = sum(g * g for g in whole) ** 0.5
        expected = [w - RATE * g / norm for g, w in zip(whole, weights.tolist(), strict=True)]
        moved, state = NormalizedSGD(weight_decay=decay).update(weights, gradient, {}, step, RATE)
        torch.testing.assert_close(moved, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)
        assert state == {}
        if not decay:
            assert (moved - weights).norm().item() == pytest.approx(RATE)
        weights = moved


def test_names_are_those_of_the_training_arguments() -> None:
    for name, optimizer in INNER_OPTIMIZERS.items():
        assert HardeningConfig(adversary={"optimizer": name}).adversary_settings.adversary().optimizer is optimizer
    assert len(set(INNER_OPTIMIZERS.values())) == len(INNER_OPTIMIZERS)


@every_variant
def test_state_starts_at_zero_and_keeps_its_names_and_shapes(optimizer) -> None:
    state = optimizer.init(vector(0))
    assert all(torch.equal(value, torch.zeros(SIZE, dtype=torch.float64)) for value in state.values())
    _, after = optimizer.update(vector(0), vector(1), state, 1, RATE)
    assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in state.items()}


@every_variant
def test_an_update_changes_nothing_in_place(optimizer) -> None:
    weights, gradient, state = vector(0), vector(1), some_state(optimizer)
    moved, after = optimizer.update(weights, gradient, state, 3, RATE)
    moved.zero_()
    for value in after.values():
        value.zero_()
    assert torch.equal(weights, vector(0))
    assert torch.equal(gradient, vector(1))
    assert same(state, some_state(optimizer))


# Without a graph


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk", [1, 4, 5, 1 << 17])
@every_variant
def test_advance_is_update_bitwise_however_long_its_pieces(optimizer, chunk, dtype, monkeypatch) -> None:
    monkeypatch.setattr(inner_optimizer, "CHUNK", chunk)
    size = 21
    weights, gradient = vector(0, size).to(dtype), some_gradient(size).to(dtype).requires_grad_()
    state = {name: value.to(dtype) for name, value in some_state(optimizer, size).items()}
    expected, after = optimizer.update(weights, gradient, state, 4, RATE)
    assert optimizer.advance_(weights, gradient, state, 4, RATE) is None
    assert torch.equal(weights, expected)
    assert same(state, after)
    assert torch.equal(gradient, some_gradient(size).to(dtype))
    assert not any(value.requires_grad for value in (weights, *state.values()))


@every_variant
def test_ten_advances_are_ten_updates(optimizer, monkeypatch) -> None:
    monkeypatch.setattr(inner_optimizer, "CHUNK", 4)
    fast, slow = vector(0), vector(0)
    fast_state, slow_state = optimizer.init(fast), optimizer.init(slow)
    for step in range(1, 11):
        optimizer.advance_(fast, gradient_at(fast, step), fast_state, step, RATE)
        slow, slow_state = optimizer.update(slow, gradient_at(slow, step), slow_state, step, RATE)
    assert torch.equal(fast, slow)


@every_variant
def test_a_vector_longer_than_a_piece(optimizer) -> None:
    size = inner_optimizer.CHUNK + 3
    weights, gradient, state = vector(0, size), vector(1, size), some_state(optimizer, size)
    expected, _ = optimizer.update(weights, gradient, state, 2, RATE)
    optimizer.advance_(weights, gradient, state, 2, RATE)
    assert torch.equal(weights, expected)
    assert not (expected == vector(0, size)).any()


@every_variant
def test_no_weights_at_all(optimizer) -> None:
    none = vector(0, 0)
    state = optimizer.init(none)
    optimizer.advance_(none, none, state, 1, RATE)
    onto = torch.empty_like(none)
    rate = optimizer.adjoint_(none, none, state, 1, RATE, vector(0, 0), optimizer.init(none), out=onto)
    assert onto.shape == (0,)
    assert rate == 0
