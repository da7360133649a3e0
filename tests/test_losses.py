"""Blocking losses: values by hand, bounds, what fools them and what does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy

from hf_selfdestruct.losses import (
    HeadAdjustedCrossEntropy,
    NegativeCrossEntropy,
    UniformKL,
    best_adjustment,
    blocking_loss,
)
from hf_selfdestruct.training_args import BLOCKING_LOSSES

CLASSES = (2, 3, 5, 10)
PRECISE = {"iterations": 50_000, "tolerance": 1e-12}


def draw(classes: int, *, rows: int = 32, seed: int = 0, signal: float = 1.0, scale: float = 1.0):
    """Logits that know something of the labels, in float64."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), labels] += signal
    return scale * logits, labels


# Values by hand


def test_uniform_kl_by_hand() -> None:
    logits = torch.tensor([[0.8, 0.2], [0.5, 0.5]], dtype=torch.float64).log()
    expected = (0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2) + 0.0) / 2
    assert UniformKL()(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", CLASSES)
def test_uniform_kl_is_label_free_not_negative_and_zero_only_at_uniform(classes) -> None:
    logits, labels = draw(classes)
    value = UniformKL()(logits, labels)
    assert torch.equal(UniformKL()(logits, (labels + 1) % classes), value)
    assert value > 0.01
    torch.testing.assert_close(UniformKL()(logits + 3.0, labels), value)
    assert UniformKL()(torch.full((4, classes), 2.5, dtype=torch.float64), labels[:4]).abs() < 1e-12
    target = torch.full_like(logits, 1 / classes)
    twin = torch.nn.functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
    torch.testing.assert_close(value, twin)


def test_negative_cross_entropy_by_hand_and_its_clamp() -> None:
    logits = torch.tensor([[0.8, 0.2], [0.5, 0.5]], dtype=torch.float64).log()
    right = NegativeCrossEntropy()(logits, torch.tensor([0, 1]))
    assert right.item() == pytest.approx(math.log(2) + (math.log(0.8) + math.log(0.5)) / 2, rel=1e-12)
    wrong = NegativeCrossEntropy()(logits.requires_grad_(), torch.tensor([1, 1]))
    assert wrong.item() == 0  # worse than chance counts as chance
    assert torch.autograd.grad(wrong, logits)[0].abs().max() == 0


@pytest.mark.parametrize("classes", CLASSES)
def test_negative_cross_entropy_stays_between_zero_and_log_c(classes) -> None:
    for signal in (-20.0, -1.0, 0.0, 1.0, 100.0):
        value = NegativeCrossEntropy()(*draw(classes, signal=signal)).item()
        assert 0 <= value <= math.log(classes) + 1e-12
    assert value == pytest.approx(math.log(classes), abs=1e-9)


def test_head_adjusted_cross_entropy_by_hand() -> None:
    logits, labels = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64), torch.tensor([0, 1])
    # The best map in the box is [[1, -1], [-1, 1]]: logits (2, -2), so CE = log(1 + e^-4).
    expected = math.log(2) - math.log1p(math.exp(-4))
    loss = HeadAdjustedCrossEntropy(normalize=False, **PRECISE)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-9)
    same = torch.tensor([[1.0, -1.0]] * 2, dtype=torch.float64)
    assert loss(same, labels).item() == pytest.approx(0, abs=1e-9)  # one input, two labels: nothing to read


# The head adjustment


def scipy_optimum(logits: np.ndarray, labels: np.ndarray) -> float:
    """min_W CE(z W, y) over the box, by L-BFGS-B."""
    rows, classes = logits.shape
    target = np.eye(classes)[labels]

    def objective(flat):
        z = logits @ flat.reshape(classes, classes)
        z = z - z.max(1, keepdims=True)
        logp = z - np.log(np.exp(z).sum(1, keepdims=True))
        return -(logp * target).sum() / rows, (logits.T @ (np.exp(logp) - target) / rows).ravel()

    options = {"maxiter": 5000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10}
    start = np.zeros(classes * classes)
    return minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(-1, 1)] * len(start), options=options).fun


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("scale", "iterations"), [(0.1, 500), (1.0, 500), (10.0, 50_000)])
@pytest.mark.parametrize("classes", CLASSES)
def test_the_solver_finds_the_optimum(classes, scale, iterations, dtype) -> None:
    for seed in range(5):
        logits, labels = draw(classes, seed=seed, scale=scale, signal=seed / 2)
        # Large logits, which only the form without normalisation ever sees, need more steps.
        weights = best_adjustment(
            logits.to(dtype), labels, iterations=iterations, tolerance=1e-5 if scale <= 1 else 1e-9
        )
        assert weights.dtype == dtype
        assert weights.abs().max() <= 1
        found = cross_entropy(logits @ weights.double(), labels).item()
        best = scipy_optimum(logits.numpy(), labels.numpy())
        assert best - 1e-6 <= found <= best + 1e-4, (seed, found, best)


@pytest.mark.parametrize("classes", CLASSES)
def test_the_normalised_loss_is_the_optimum_for_normalised_logits(classes) -> None:
    for seed in range(5):
        logits, labels = draw(classes, seed=seed, scale=7.0)
        z = (logits - logits.mean(0)).numpy()
        z = z / np.sqrt((z**2).mean())
        expected = math.log(classes) - scipy_optimum(z, labels.numpy())
        assert HeadAdjustedCrossEntropy()(logits, labels).item() == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("classes", CLASSES)
def test_head_adjustment_stays_between_zero_and_log_c(classes, normalize) -> None:
    loss = HeadAdjustedCrossEntropy(normalize=normalize)
    for scale in (0.0, 1e-12, 1e-3, 1.0, 30.0, 1e3):
        for signal in (-5.0, 0.0, 5.0):
            logits, labels = draw(classes, signal=signal, scale=scale)
            value = loss(logits.float(), labels).item()
            assert -1e-6 <= value <= math.log(classes) + 1e-6, (scale, signal)
    assert value > 0.5  # a strong signal at a large scale is seen


def test_flipped_and_permuted_labels_gain_nothing() -> None:
    for classes in CLASSES:
        logits, labels = draw(classes, signal=3.0, rows=64)
        permutation = torch.randperm(classes, generator=torch.Generator().manual_seed(1))
        loss = HeadAdjustedCrossEntropy(**PRECISE)
        honest = loss(logits, labels)
        torch.testing.assert_close(loss(logits[:, permutation], labels), honest, rtol=1e-6, atol=1e-7)
        assert honest > 0.3
    logits, labels = draw(2, signal=3.0, rows=64)
    torch.testing.assert_close(loss(-logits, labels), loss(logits, labels), rtol=1e-6, atol=1e-7)
    assert NegativeCrossEntropy()(-logits, labels) == 0  # which the plain loss falls for


@pytest.mark.parametrize("classes", CLASSES)
def test_scaling_and_shifting_gain_nothing_when_normalised(classes) -> None:
    logits, labels = draw(classes, rows=64)
    shift = torch.linspace(-4, 4, classes, dtype=torch.float64)
    ours = HeadAdjustedCrossEntropy(**PRECISE, epsilon=1e-12)
    papers = HeadAdjustedCrossEntropy(normalize=False, **PRECISE)
    for scale in (1e-3, 0.1, 100.0):
        torch.testing.assert_close(ours(scale * logits + shift, labels), ours(logits, labels), rtol=1e-5, atol=1e-6)
    assert papers(1e-3 * logits, labels) < 0.05 * papers(logits, labels)
    assert ours(1e-3 * logits, labels) > 0.9 * ours(logits, labels)
    assert (papers(logits + shift, labels) - papers(logits, labels)).abs() > 1e-4


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("classes", CLASSES)
def test_its_gradient_equals_finite_differences(classes, normalize) -> None:
    loss = HeadAdjustedCrossEntropy(normalize=normalize, **PRECISE)
    logits, labels = draw(classes, rows=12, seed=3)
    (found,) = torch.autograd.grad(loss(logits.requires_grad_(), labels), logits)
    logits = logits.detach()
    for entry in range(0, logits.numel(), max(1, logits.numel() // 12)):
        step = torch.zeros_like(logits).view(-1)
        step[entry] = 1e-5
        step = step.view_as(logits)
        slope = (loss(logits + step, labels) - loss(logits - step, labels)).item() / 2e-5
        assert found.view(-1)[entry].item() == pytest.approx(slope, rel=1e-3, abs=1e-7)
    assert found.abs().max() > 1e-3


def test_constant_and_tiny_logits_have_finite_gradients() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    for logits in (torch.zeros(4, 2), torch.ones(4, 2), 1e-20 * torch.randn(4, 2), torch.zeros(4, 3)):
        leaf = logits.clone().requires_grad_()
        for name in BLOCKING_LOSSES:
            value = blocking_loss(name)(leaf, labels)
            assert value.item() == pytest.approx(0, abs=1e-5)
            assert torch.autograd.grad(value, leaf)[0].isfinite().all(), name


@pytest.mark.parametrize("name", BLOCKING_LOSSES)
def test_logits_that_are_not_finite_give_a_loss_that_is_not_finite(name) -> None:
    """So that the trainer can stop and name the term."""
    for bad in (math.nan, math.inf):
        logits, labels = draw(3)
        logits[0, 0] = bad
        labels[0] = 1
        value = blocking_loss(name)(logits, labels).item()
        assert not math.isfinite(value) or name == "negative_cross_entropy"


# What a report gets


@pytest.mark.parametrize("name", BLOCKING_LOSSES)
def test_every_loss_says_what_it_is(name) -> None:
    loss = blocking_loss(name)
    assert loss.config()["name"] == type(loss).__name__
    assert "arXiv:" in loss.citation
    logits, labels = draw(2)
    assert loss.forward(logits, labels).shape == ()
    assert torch.equal(loss.forward(logits, labels), loss(logits, labels))


def test_config_lists_the_arguments() -> None:
    assert HeadAdjustedCrossEntropy(normalize=False, iterations=9).config() == {
        "name": "HeadAdjustedCrossEntropy",
        "normalize": False,
        "iterations": 9,
        "tolerance": 1e-5,
        "epsilon": 1e-4,
    }
