"""Inner optimizers equal torch's step for step, autograd walks through them, and their transposes are autograd's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from hf_selfdestruct import inner_optimizer, training_args
from hf_selfdestruct.inner_optimizer import InnerOptimizer
from hf_selfdestruct.inner_optimizers import (
    INNER_OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    NormalizedSGD,
    RMSprop,
)

SIZE, RATE = 11, 0.07
VARIANTS = {
    **INNER_OPTIMIZERS,
    "sgd-decay": SGD(weight_decay=0.2),
    "momentum-decay": SGD(momentum=0.8, weight_decay=0.2),
    "nesterov-decay": SGD(momentum=0.8, nesterov=True, weight_decay=0.2),
    "normalized_sgd-decay": NormalizedSGD(weight_decay=0.2),
    "adam-betas-epsilon": Adam(beta1=0.7, beta2=0.9, epsilon=1e-2),
    "adam-decay": Adam(weight_decay=0.3),
    "adamw-decay": AdamW(weight_decay=0.3),
    "rmsprop-decay": RMSprop(alpha=0.8, epsilon=1e-3, weight_decay=0.3),
    "rmsprop-momentum": RMSprop(momentum=0.9),
    "rmsprop-momentum-decay": RMSprop(momentum=0.7, weight_decay=0.3),
    "adagrad-decay": Adagrad(epsilon=1e-3, weight_decay=0.3),
}
every_variant = pytest.mark.parametrize("optimizer", VARIANTS.values(), ids=VARIANTS)


def vector(seed: int, size: int = SIZE) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def objective(weights: Tensor, step: int) -> Tensor:
    """A different non-quadratic function in every step, with gradients of very different sizes."""
    sizes = torch.logspace(-2, 1, weights.numel(), dtype=weights.dtype)
    return (sizes * ((weights - 0.3 * step).sin() + 0.1 * weights.square())).sum()


def gradient_at(weights: Tensor, step: int) -> Tensor:
    leaf = weights.detach().requires_grad_()
    return torch.autograd.grad(objective(leaf, step), leaf)[0]


def some_state(optimizer: InnerOptimizer, size: int = SIZE) -> dict[str, Tensor]:
    """A state in the middle of a run: second moments and sums are not negative, and 0 in two places."""
    state = {name: vector(50 + i, size) for i, name in enumerate(optimizer.init(vector(0, size)))}
    for name in {"second", "sum"} & {*state}:
        state[name] = state[name].square()
        state[name][2:4] = 0
    return state


def some_gradient(size: int = SIZE) -> Tensor:
    """A gradient that is 0 in three places, one of them where a second moment is 0 too."""
    gradient = vector(3, size)
    gradient[[1, 2, 7]] = 0
    return gradient


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
    assert (*INNER_OPTIMIZERS,) == training_args.INNER_OPTIMIZERS
    assert len(set(INNER_OPTIMIZERS.values())) == len(INNER_OPTIMIZERS)


@every_variant
def test_state_starts_at_zero_and_keeps_its_names_and_shapes(optimizer) -> None:
    state = optimizer.init(vector(0))
    assert all(torch.equal(value, torch.zeros(SIZE, dtype=torch.float64)) for value in state.values())
    _, after = optimizer.update(vector(0), vector(1), state, 1, RATE)
    assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in state.items()}


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return {*state} == {*other} and all(torch.equal(state[name], value) for name, value in other.items())


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
