"""The pure optimizers equal torch's step for step, and autograd walks through them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hf_selfdestruct.functional import SGD, Adam, InnerOptimizer, inner_optimizer, logits

SHAPES = ((3, 2), (4,), ())


def start(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def objective(values: list[Tensor], step: int) -> Tensor:
    """A different non-quadratic function in every step, with gradients of very different sizes."""
    return sum((10.0 ** (i - 1)) * ((v - 0.3 * step).sin() + 0.1 * (v * v)).sum() for i, v in enumerate(values))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(), lambda p: torch.optim.SGD(p, lr=0.07)),
        (SGD(momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.07, momentum=0.9)),
        (SGD(weight_decay=0.2), lambda p: torch.optim.SGD(p, lr=0.07, weight_decay=0.2)),
        (
            SGD(momentum=0.8, weight_decay=0.2),
            lambda p: torch.optim.SGD(p, lr=0.07, momentum=0.8, weight_decay=0.2),
        ),
        (Adam(), lambda p: torch.optim.Adam(p, lr=0.07, eps=1e-6)),
        (
            Adam(beta1=0.7, beta2=0.9, epsilon=1e-2),
            lambda p: torch.optim.Adam(p, lr=0.07, betas=(0.7, 0.9), eps=1e-2),
        ),
        (Adam(weight_decay=0.3), lambda p: torch.optim.AdamW(p, lr=0.07, eps=1e-6, weight_decay=0.3)),
    ],
    ids=["sgd", "momentum", "decay", "momentum+decay", "adam", "adam-betas", "adamw"],
)
def test_equals_torch_step_for_step(ours: InnerOptimizer, theirs) -> None:
    parameters = [nn.Parameter(v) for v in start()]
    optimizer = theirs(parameters)
    values, rate = start(), torch.tensor(0.07, dtype=torch.float64)
    state = ours.init(values)
    for step in range(10):
        optimizer.zero_grad()
        objective(parameters, step).backward()
        optimizer.step()
        leaves = [v.requires_grad_() for v in values]
        gradients = torch.autograd.grad(objective(leaves, step), leaves)
        moved, state = ours.update(values, gradients, state, rate)
        for before, after, expected in zip(values, moved, parameters, strict=True):
            assert not torch.equal(after, before)
            torch.testing.assert_close(after, expected.data, rtol=1e-12, atol=1e-14)
        values = [v.detach() for v in moved]


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9, weight_decay=0.1), Adam(epsilon=1e-3, weight_decay=0.1)])
def test_update_changes_nothing_in_place(optimizer: InnerOptimizer) -> None:
    values, gradients, rate = start(0), start(1), torch.tensor(0.1, dtype=torch.float64)
    _, state = optimizer.update(values, gradients, optimizer.init(values), rate)
    kept = {key: [t.clone() for t in v] if isinstance(v, list) else v for key, v in state.items()}
    optimizer.update(values, gradients, state, rate)
    torch.testing.assert_close(values, start(0), rtol=0, atol=0)
    torch.testing.assert_close(gradients, start(1), rtol=0, atol=0)
    torch.testing.assert_close(state, kept, rtol=0, atol=0)


@pytest.mark.parametrize(
    "optimizer",
    [SGD(), SGD(momentum=0.9, weight_decay=0.1), Adam(epsilon=1e-3), Adam(epsilon=1e-3, weight_decay=0.1)],
)
def test_three_steps_are_differentiable_in_weights_and_rate(optimizer: InnerOptimizer) -> None:
    def three_steps(rate: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        current, state = list(values), optimizer.init(values)
        for step in range(3):
            gradients = torch.autograd.grad(objective(current, step), current, create_graph=True)
            current, state = optimizer.update(current, gradients, state, rate)
        return tuple(current)

    rate = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(three_steps, (rate, *(v.requires_grad_() for v in start())))


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.9), Adam(), Adam(epsilon=1e-8)])
def test_zero_gradients_move_nothing_and_have_finite_second_derivatives(optimizer: InnerOptimizer) -> None:
    values = [v.requires_grad_() for v in start()]
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    current, state, zero = list(values), optimizer.init(values), torch.zeros(4, dtype=torch.float64)
    for _ in range(3):
        # Only one row of the first tensor is used. The second one's gradient is 0 and depends on its values,
        # so that a derivative of the square root at 0 would reach them.
        loss = current[0][0].pow(3).sum() + (current[1] * zero).pow(2).sum()
        gradients = torch.autograd.grad(loss, current, create_graph=True, allow_unused=True, materialize_grads=True)
        current, state = optimizer.update(current, gradients, state, rate)
    assert torch.equal(current[0][1:], values[0][1:])
    assert torch.equal(current[1], values[1])
    assert torch.equal(current[2], values[2])
    assert not torch.equal(current[0][0], values[0][0])
    found = torch.autograd.grad(sum(c.sin().sum() for c in current), [*values, rate])
    assert all(g.isfinite().all() for g in found)
    torch.testing.assert_close(found[0][1:], values[0][1:].cos())  # what does not move passes gradients straight on
    assert found[-1] != 0


def test_names_of_inner_optimizers() -> None:
    assert inner_optimizer("adam") == Adam()
    assert inner_optimizer("sgd") == SGD()
    with pytest.raises(KeyError):
        inner_optimizer("adamw")


def test_logits_use_the_given_weights_and_never_compute_a_loss(tiny_model, toy_batch) -> None:
    model, other = tiny_model(seed=0).eval(), tiny_model(seed=1).eval()
    batch = toy_batch()
    weights = dict(other.named_parameters()) | dict(other.named_buffers())
    found = logits(model, weights, {**batch, "labels": torch.full_like(batch["labels"], 99)})  # 99 would raise
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    assert torch.equal(found, other(**inputs).logits)
    assert not torch.equal(found, model(**inputs).logits)
