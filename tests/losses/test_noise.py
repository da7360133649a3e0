"""The blocking loss of diffusion models: its value by hand, its bounds, what does not change it, its gradient."""

from __future__ import annotations

import pytest
import torch

from hf_selfdestruct.losses import ExplainedNoise
from hf_selfdestruct.losses.base import View

LOSS = ExplainedNoise()


def drawn(rows: int = 3, pixels: int = 16, *, signal: float = 0.5):
    """Answers that know something of the noise, in float64."""
    generator = torch.Generator().manual_seed(0)
    noise, own = torch.randn(2, rows, pixels, generator=generator, dtype=torch.float64)
    return (signal * noise + own)[..., None], noise


def test_it_is_the_share_that_least_squares_explain_row_by_row() -> None:
    answers, noise = drawn()
    shares = []
    for x, e in zip(answers, noise, strict=True):
        factor = torch.linalg.lstsq(x, e[:, None]).solution
        shares.append(1 - (x @ factor - e[:, None]).square().sum() / e.square().sum())
    assert LOSS(answers, noise).item() == pytest.approx(torch.stack(shares).mean().item(), rel=1e-6)


def test_by_hand() -> None:
    noise = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    answers = torch.tensor([[3.0, -3.0], [1.0, 1.0]])[..., None]
    assert LOSS(answers, noise).item() == pytest.approx((1 + 0.5) / 2, rel=1e-6)


@pytest.mark.parametrize("factors", [[-1.0, -1.0, -1.0], [1e-2, 1.0, 1e3], [-1.0, 1.0, 1.0]])
def test_negated_and_rescaled_answers_block_nothing(factors) -> None:
    """Nor does it help to negate some rows alone."""
    answers, noise = drawn()
    changed = answers * torch.tensor(factors, dtype=torch.float64)[:, None, None]
    assert LOSS(changed, noise).item() == pytest.approx(LOSS(answers, noise).item(), rel=1e-3)


def test_bounds() -> None:
    answers, noise = drawn(400, signal=0.0)
    assert LOSS(noise[..., None], noise).item() == pytest.approx(1.0, abs=1e-6)
    assert LOSS(answers, noise).item() == pytest.approx(1 / 16, abs=0.02), "answers that know nothing"
    assert LOSS(torch.zeros_like(answers), noise).item() == 0.0


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
def test_the_gradient_is_that_of_finite_differences(scale) -> None:
    answers, noise = drawn()
    answers = (scale * answers).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSS(x, noise), answers, eps=1e-6 * scale, atol=1e-6 / scale, rtol=1e-5)
    assert torch.autograd.grad(LOSS(answers, noise), answers)[0].abs().max() > 1e-4 / max(scale, 1.0)


def test_a_model_without_answers_has_a_finite_gradient() -> None:
    answers, noise = torch.zeros(2, 4, 1, requires_grad=True), torch.randn(2, 4)
    (gradient,) = torch.autograd.grad(LOSS.forward(View(answers, noise)), answers)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("epsilon", [0.0, -1.0])
def test_an_epsilon_that_is_none_is_refused(epsilon) -> None:
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        ExplainedNoise(epsilon=epsilon)
