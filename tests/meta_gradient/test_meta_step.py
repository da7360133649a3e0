"""One outer step: step weights, the total's value, and what one backward leaves in ``.grad``."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from unittest.mock import ANY

import pytest
import torch

from hf_selfdestruct.meta_gradient.episode import MetaGradient
from hf_selfdestruct.meta_gradient.outer_loss import meta_loss, step_shares


@pytest.mark.parametrize("kind", ["uniform", "last", "exponential"])
@pytest.mark.parametrize("steps", [0, 1, 4, 16])
@pytest.mark.parametrize("every", [1, 3, 100])
def test_shares_sum_to_one_and_the_last_is_always_measured(kind, steps, every) -> None:
    found = step_shares(kind, steps, every)
    assert len(found) == steps + 1
    measured = [k for k, share in enumerate(found) if share is not None]
    assert measured == [k for k in range(steps + 1) if (steps - k) % every == 0]
    assert sum(found[k] for k in measured) == pytest.approx(1, rel=1e-12)
    assert all(found[k] >= 0 for k in measured)
    assert found[-1] > 0


def test_shapes_of_shares() -> None:
    assert step_shares("uniform", 3) == [0.25] * 4
    assert step_shares("last", 3) == [0, 0, 0, 1]
    exponential = step_shares("exponential", 5)
    for earlier, later in pairwise(exponential):
        assert later / earlier == pytest.approx(math.exp(1 / 16))
    assert step_shares("exponential", 4, every=4) == [pytest.approx(1 / (1 + math.exp(0.25))), *[None] * 3, ANY]
    assert step_shares("drop", 1) == [1, -1]
    assert step_shares("drop", 3) == [1, None, None, -1]
    with pytest.raises(KeyError):
        step_shares("first", 3)


READ = {0: 0.1, 1: 0.2, 2: 0.3}


def draw(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    parameters = {"a": tensor(3, 2).requires_grad_(), "b": tensor(4).requires_grad_(), "c": tensor(1).requires_grad_()}
    gradient = MetaGradient(
        tensor(()).abs().item(), {"a": tensor(3, 2), "b": tensor(4)}, {}, None, READ, {0: 0.5, 1: 0.75, 2: 1.0}
    )
    desired = sum((p**3).sum() for p in parameters.values())
    own = torch.autograd.grad(desired, list(parameters.values()), retain_graph=True)
    return parameters, gradient, desired, dict(zip(parameters, own, strict=True))


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_one_backward_gives_both_gradients_exactly(weight) -> None:
    parameters, gradient, desired, own = draw()
    step = meta_loss(desired, parameters, gradient, blocking_weight=weight)
    assert step.total.shape == ()
    assert step.total.item() == pytest.approx((desired + weight * gradient.loss).item(), rel=1e-12)
    step.total.backward()
    for name, parameter in parameters.items():
        expected = own[name] + weight * gradient.weights.get(name, torch.zeros_like(own[name]))
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(parameters["c"].grad, own["c"])


def test_scaling_the_total_scales_both_gradients() -> None:
    parameters, gradient, desired, own = draw()
    (meta_loss(desired, parameters, gradient, blocking_weight=2.0).total / 4).backward()
    expected = (own["a"] + 2 * gradient.weights["a"]) / 4
    torch.testing.assert_close(parameters["a"].grad, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("most", [0.1, 1e6])
def test_a_clipped_meta_gradient_keeps_its_direction_and_the_losses_value(most) -> None:
    parameters, gradient, desired, own = draw()
    step = meta_loss(desired, parameters, gradient, blocking_weight=3.0, max_norm=most)
    norm = torch.cat([g.reshape(-1) for g in gradient.weights.values()]).norm().item()
    assert step.total.item() == pytest.approx((desired + 3 * gradient.loss).item(), rel=1e-12)
    assert step.terms["meta_grad_norm"] == pytest.approx(norm, rel=1e-12), "as it was before"
    step.total.backward()
    for name, value in gradient.weights.items():
        expected = own[name] + 3 * value * min(1, most / norm)
        torch.testing.assert_close(parameters[name].grad, expected, rtol=1e-12, atol=1e-14)
    assert 0.1 < norm < 1e6


def test_readings() -> None:
    parameters, gradient, desired, _ = draw()
    norm = torch.cat([g.reshape(-1) for g in gradient.weights.values()]).norm().item()
    assert meta_loss(desired, parameters, gradient, blocking_weight=3.0).terms == {
        "blocking_loss": gradient.loss,
        "meta_grad_norm": pytest.approx(norm, rel=1e-12),
        "blocked_score/step_0": 0.5,
        "blocked_score/step_1": 0.75,
        "blocked_score/step_2": 1.0,
    }


def test_the_error_of_finite_differences_is_a_reading() -> None:
    parameters, gradient, desired, _ = draw()
    terms = meta_loss(desired, parameters, replace(gradient, hvp_error=1e-4), blocking_weight=1.0).terms
    assert terms["hvp_error"] == 1e-4


def test_a_model_with_a_frozen_trunk_has_no_meta_gradient() -> None:
    parameters, gradient, desired, _ = draw()
    empty = MetaGradient(gradient.loss, {}, {}, None, {0: 0.1}, {0: 0.5})
    assert meta_loss(desired, parameters, empty, blocking_weight=1.0).terms["meta_grad_norm"] == 0


def test_the_total_keeps_its_value_beside_large_meta_gradients() -> None:
    """In float32 a large linear term must cancel without a trace."""
    parameters, gradient, desired, _ = draw(torch.float32)
    large = MetaGradient(gradient.loss, {n: 1e6 * g for n, g in gradient.weights.items()}, {}, None, {0: 0.1}, {0: 0.5})
    total = meta_loss(desired, parameters, large, blocking_weight=1.0).total
    assert total.item() == pytest.approx(desired.item() + gradient.loss, rel=1e-6)


def test_half_precision_parameters_take_single_precision_gradients() -> None:
    parameters = {"a": torch.ones(3, dtype=torch.bfloat16, requires_grad=True)}
    gradient = MetaGradient(0.5, {"a": torch.tensor([1.0, -2.0, 0.5])}, {}, None, {0: 0.5}, {0: 0.5})
    desired = parameters["a"].sum()
    step = meta_loss(desired, parameters, gradient, blocking_weight=2.0)
    assert step.total.item() == pytest.approx(4.0)
    step.total.backward()
    assert parameters["a"].grad.tolist() == [3.0, -3.0, 2.0]
