"""The solver behind the head adjustment: its optimum, its certificate, its gradient, its speed."""

from __future__ import annotations

import math
import time
import warnings

import cvxpy
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hf_selfdestruct.losses import head_adjustment
from hf_selfdestruct.losses.head_adjustment import best_adjustment


def draw(classes: int, *, rows: int = 32, seed: int = 0, signal: float = 1.0, scale: float = 1.0):
    """Logits that know something of the labels, in float64."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), labels] += signal
    return scale * logits, labels


def draw_many(classes: int, count: int = 17, **rest):
    """As many problems as a run of 16 inner steps has, stacked."""
    logits, labels = zip(*(draw(classes, seed=seed, **rest) for seed in range(count)), strict=True)
    return torch.stack(logits), torch.stack(labels)


def by_cvxpy(logits: Tensor, labels: Tensor) -> float:
    """min_W CE(z W, y) over the box, as a conic program."""
    rows, classes = logits.shape
    weights = cvxpy.Variable((classes, classes))
    adjusted = logits.numpy() @ weights
    right = cvxpy.sum(cvxpy.multiply(adjusted, np.eye(classes)[labels.numpy()]))
    loss = (cvxpy.sum(cvxpy.log_sum_exp(adjusted, axis=1)) - right) / rows
    problem = cvxpy.Problem(cvxpy.Minimize(loss), [weights >= -1, weights <= 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "may be inaccurate" means 1e-6 here
        return float(problem.solve())


def above_optimum(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """A bound by convexity: f(W) - f(V) <= <G, W - V>, which is greatest at the corner V = -sign(G)."""
    rows, classes = logits.shape
    gradient = logits.T @ ((logits @ weights).softmax(-1) - torch.eye(classes).double()[labels]) / rows
    return (gradient * weights + gradient.abs()).sum().item()


# The optimum


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("rows", [16, 32, 100])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_it_finds_what_cvxpy_finds(classes, rows, scale) -> None:
    logits, labels = draw(classes, rows=rows, scale=scale, seed=rows)
    weights = best_adjustment(logits, labels)
    assert weights.shape == (classes, classes)
    assert weights.abs().max() <= 1
    found = cross_entropy(logits @ weights, labels).item()
    assert found == pytest.approx(by_cvxpy(logits, labels), abs=1e-5)


@pytest.mark.parametrize("signal", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("scale", [1e-8, 0.1, 1.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 10, 20])
def test_it_stops_on_a_certificate_at_any_scale(classes, scale, signal) -> None:
    logits, labels = draw_many(classes, 5, scale=scale, signal=signal)
    # One problem far easier than the rest, and one that no map can help.
    logits[0], logits[1] = 1e-9 * logits[0], 0.0
    for single in zip(logits, labels, best_adjustment(logits, labels), strict=True):
        assert above_optimum(*single) <= 2e-6  # the solver's 1e-6, and rounding at 1e4


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-11])
def test_the_tolerance_is_kept(tolerance) -> None:
    logits, labels = draw(5)
    assert above_optimum(logits, labels, best_adjustment(logits, labels, tolerance=tolerance)) <= tolerance


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e8])
def test_however_few_the_steps_it_is_feasible_and_not_worse_than_chance(iterations, scale) -> None:
    for signal in (-3.0, 0.0, 3.0):
        logits, labels = draw(4, scale=scale, signal=signal)
        weights = best_adjustment(logits, labels, iterations=iterations)
        assert weights.abs().max() <= 1
        assert cross_entropy(logits @ weights, labels) <= math.log(4) + 1e-10


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_conjugate_gradients_end_where_cholesky_does(classes, monkeypatch) -> None:
    logits, labels = draw(classes, scale=3.0)
    dense = best_adjustment(logits, labels, tolerance=1e-9)
    monkeypatch.setattr(head_adjustment, "MOST_DENSE_CLASSES", 0)
    matrix_free = best_adjustment(logits, labels, tolerance=1e-9)
    assert above_optimum(logits, labels, matrix_free) <= 1e-9
    torch.testing.assert_close((logits @ matrix_free).softmax(-1), (logits @ dense).softmax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("classes", "rows"), [(28, 16), (28, 100), (77, 32), (150, 64)])
def test_many_classes(classes, rows) -> None:
    logits, labels = draw(classes, rows=rows)
    assert above_optimum(logits, labels, best_adjustment(logits, labels)) <= 1e-6


def test_where_minimisers_are_many_it_takes_the_centre() -> None:
    """Adding a constant to a row of W changes nothing; free rows sum to 0."""
    logits, labels = draw(3, signal=0.2, rows=100)
    weights = best_adjustment(logits, labels, tolerance=1e-9)
    free = weights.abs().amax(1) < 0.9
    assert free.any()
    assert weights[free].mean(1).abs().max() < 0.05
    unused = torch.cat([logits, torch.zeros(100, 1).double()], 1)  # a class whose logit says nothing
    assert best_adjustment(unused, labels)[3].abs().max() < 1e-6


# Shapes and types


@pytest.mark.parametrize("classes", [2, 10, 28])
def test_a_batch_equals_one_by_one(classes) -> None:
    logits, labels = draw_many(classes, 6, signal=0.5)
    together = best_adjustment(logits.unflatten(0, (2, 3)), labels.unflatten(0, (2, 3)), tolerance=1e-9)
    assert together.shape == (2, 3, classes, classes)
    for weights, z, y in zip(together.flatten(0, 1), logits, labels, strict=True):
        torch.testing.assert_close(weights, best_adjustment(z, y, tolerance=1e-9), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_are_solved_in_float64(dtype) -> None:
    logits, labels = draw(3)
    weights = best_adjustment(logits.to(dtype), labels)
    assert weights.dtype == dtype
    torch.testing.assert_close(weights, best_adjustment(logits.to(dtype).double(), labels).to(dtype))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_give_zero_at_once(bad) -> None:
    logits, labels = draw_many(3, 2)
    expected = best_adjustment(logits[1], labels[1], tolerance=1e-9)
    logits[0, 5, 1] = bad
    start = time.perf_counter()
    weights = best_adjustment(logits, labels, tolerance=1e-9)
    assert time.perf_counter() - start < 1
    assert weights[0].abs().max() == 0
    torch.testing.assert_close(weights[1], expected, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("classes", [2, 10, 28])
def test_a_gpu_finds_the_same(classes) -> None:
    logits, labels = draw_many(classes)
    weights = best_adjustment(logits.cuda(), labels.cuda(), tolerance=1e-9).cpu()
    torch.testing.assert_close(weights, best_adjustment(logits, labels, tolerance=1e-9), rtol=0, atol=1e-5)


# The gradient through the minimiser


def held_out(logits: Tensor, labels: Tensor, **limits) -> Tensor:
    """Fitted on the even rows, scored on the odd ones."""
    return cross_entropy(logits[1::2] @ best_adjustment(logits[::2], labels[::2], **limits), labels[1::2])


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_implicit_gradient_equals_finite_differences(classes, scale, monkeypatch) -> None:
    for seed in range(3):
        logits, labels = draw(classes, rows=40, seed=seed, scale=scale)
        logits.requires_grad_()
        (found,) = torch.autograd.grad(held_out(logits, labels, tolerance=1e-12), logits)
        monkeypatch.setattr(head_adjustment, "MOST_DENSE_CLASSES", 0)
        (by_conjugate_gradients,) = torch.autograd.grad(held_out(logits, labels, tolerance=1e-12), logits)
        monkeypatch.undo()
        torch.testing.assert_close(by_conjugate_gradients, found, rtol=1e-4, atol=1e-7)
        for row, column in ((0, 0), (4, 1), (10, classes - 1), (7, 0)):  # three rows that fit, one that scores
            step = torch.zeros_like(logits)
            step[row, column] = 1e-5
            with torch.no_grad():
                ends = [held_out(logits + sign * step, labels, tolerance=1e-12).item() for sign in (1, -1)]
            slope = (ends[0] - ends[1]) / 2e-5
            assert found[row, column].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)
        # Rows that only fit matter too, unless the minimiser is a corner, which no small change moves.
        inside = best_adjustment(logits[::2].detach(), labels[::2]).abs().min() < 0.9
        assert (found[::2].abs().max() > 1e-4) == inside


def test_the_implicit_gradient_is_batched() -> None:
    logits, labels = draw_many(3, 4)
    together, apart = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    upstream = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    # As from any softmax: what is added to a row of W changes nothing. Along it rounding decides where W ends.
    upstream -= upstream.mean(-1, keepdim=True)
    (best_adjustment(together, labels, tolerance=1e-10) * upstream).sum().backward()
    for z, y, up in zip(apart, labels, upstream, strict=True):
        (best_adjustment(z, y, tolerance=1e-10) * up).sum().backward()
    torch.testing.assert_close(together.grad, apart.grad)


def test_no_graph_is_made_where_none_is_wanted() -> None:
    logits, labels = draw(3)
    logits.requires_grad_()
    assert best_adjustment(logits, labels).requires_grad
    assert not best_adjustment(logits.detach(), labels).requires_grad
    with torch.no_grad():
        assert not best_adjustment(logits, labels).requires_grad


# Speed


@pytest.mark.parametrize("classes", [2, 10])
def test_it_is_much_faster_than_cvxpy_on_the_steps_of_one_episode(classes) -> None:
    logits, labels = draw_many(classes)
    best_adjustment(logits, labels)
    by_cvxpy(logits[0], labels[0])

    start = time.perf_counter()
    expected = [by_cvxpy(z, y) for z, y in zip(logits, labels, strict=True)]
    slow = time.perf_counter() - start

    fast = math.inf
    for _ in range(5):
        start = time.perf_counter()
        weights = best_adjustment(logits, labels)
        fast = min(fast, time.perf_counter() - start)

    found = [cross_entropy(z @ w, y).item() for z, y, w in zip(logits, labels, weights, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert slow > 20 * fast
