"""Derivatives of inner optimizers."""

from __future__ import annotations

import dataclasses

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
from torch import Tensor

from hf_selfdestruct.adversaries import optimizer as inner_optimizer

# Derivatives


@pytest.mark.parametrize("step", [1, 7])
@every_variant
def test_adjoint_is_autograds(optimizer, step) -> None:
    """At step 1 from an empty state, later from one in the middle of a run; 0/0 is met in both."""
    weights, gradient, rate = vector(0).requires_grad_(), some_gradient().requires_grad_(), scalar(RATE)
    start = optimizer.init(weights) if step == 1 else some_state(optimizer)
    state = {name: value.detach().requires_grad_() for name, value in start.items()}
    toward, onward = vector(4), {name: vector(5 + i) for i, name in enumerate(state)}
    moved, after = optimizer.update(weights, gradient, state, step, rate.requires_grad_())
    total = torch.dot(moved, toward) + sum(torch.dot(after[name], onward[name]) for name in state)
    wanted = (weights, gradient, rate, *state.values())
    expected = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
    onto = torch.empty_like(weights)
    slope = optimizer.adjoint_(weights, gradient, state, step, RATE, toward, onward, out=onto)
    assert {*onward} == {*state}
    for value, theirs in zip((toward, onto, slope, *onward.values()), expected, strict=True):
        assert theirs.count_nonzero() >= theirs.numel() * 0.7
        torch.testing.assert_close(value, theirs, rtol=1e-11, atol=1e-12)
    assert torch.equal(weights, vector(0))
    assert torch.equal(gradient, some_gradient())
    again = torch.empty_like(weights)
    toward, onward = vector(4), {name: vector(6 + i) for i, name in enumerate(state)}
    assert optimizer.adjoint_(weights, gradient, state, step, RATE, toward, onward, out=again, slope=False) == 0
    assert same(state, start)


@pytest.mark.parametrize("chunk", [1, 4])
@every_variant
def test_adjoint_does_not_depend_on_the_pieces(optimizer, chunk, monkeypatch) -> None:
    found = []
    for length in (inner_optimizer.CHUNK, chunk):
        monkeypatch.setattr(inner_optimizer, "CHUNK", length)
        toward, onward = vector(4), {name: vector(6) for name in some_state(optimizer)}
        given = (vector(0), some_gradient(), some_state(optimizer), 3, RATE)
        onto = torch.empty_like(toward)
        rate = optimizer.adjoint_(*given, toward, onward, out=onto)
        found.append(((toward, onto, *onward.values()), rate))
    assert all(torch.equal(one, other) for one, other in zip(found[0][0], found[1][0], strict=True))
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-12, atol=1e-14)


@every_variant
def test_three_steps_are_differentiable_in_weights_and_rate(optimizer) -> None:
    if hasattr(optimizer, "epsilon"):  # finite differences cannot follow a kink of width 1e-6
        optimizer = dataclasses.replace(optimizer, epsilon=1e-2)

    def three_steps(rate: Tensor, weights: Tensor) -> Tensor:
        state = optimizer.init(weights)
        for step in range(1, 4):
            (gradient,) = torch.autograd.grad(objective(weights, step), weights, create_graph=True)
            weights, state = optimizer.update(weights, gradient, state, step, rate)
        return weights

    assert torch.autograd.gradcheck(three_steps, (scalar(0.05).requires_grad_(), vector(0).requires_grad_()))


@every_variant
def test_zero_gradients_move_nothing_and_have_finite_second_derivatives(optimizer) -> None:
    """What gets no gradient stays, passes gradients straight on, and meets no derivative of a root at 0."""
    optimizer = dataclasses.replace(optimizer, weight_decay=0.0)
    start = vector(0).requires_grad_()
    rate = scalar(0.1).requires_grad_()
    weights, state, zero = start, optimizer.init(start), torch.zeros(4, dtype=torch.float64)
    for step in range(1, 4):
        # The gradient of the last four is 0 and yet depends on them, so that 1/0 would reach them.
        loss = weights[:3].pow(3).sum() + (weights[-4:] * zero).square().sum()
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights, state = optimizer.update(weights, gradient, state, step, rate)
    assert torch.equal(weights[3:], start[3:])
    assert not (weights[:3] == start[:3]).any()
    found = torch.autograd.grad(weights.sin().sum(), (start, rate))
    assert all(g.isfinite().all() for g in found)
    torch.testing.assert_close(found[0][3:], start[3:].cos())
    assert found[1] != 0


@every_variant
def test_no_gradient_at_all_moves_nothing(optimizer) -> None:
    optimizer = dataclasses.replace(optimizer, weight_decay=0.0)
    start, zero = vector(0).requires_grad_(), torch.zeros(SIZE, dtype=torch.float64)
    moved, _ = optimizer.update(start, start * zero, optimizer.init(zero), 1, RATE)
    assert torch.equal(moved, start)
    assert torch.autograd.grad(moved.sum(), start)[0].isfinite().all()
    toward, nothing = vector(1), optimizer.init(zero)
    onto = torch.empty_like(zero)
    rate = optimizer.adjoint_(start.detach(), zero, optimizer.init(zero), 1, RATE, toward, nothing, out=onto)
    assert torch.equal(toward, vector(1))
    assert rate == 0
    assert onto.isfinite().all()


@pytest.mark.parametrize("name", ["adamw", "adamw-decay"])
def test_decoupled_decay_shrinks_what_gets_no_gradient(name) -> None:
    optimizer, weights = VARIANTS[name], vector(0)
    moved, _ = optimizer.update(weights, torch.zeros_like(weights), optimizer.init(weights), 1, RATE)
    torch.testing.assert_close(moved, (1 - RATE * optimizer.weight_decay) * weights)
