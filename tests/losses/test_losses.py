"""Blocking losses: what counts, their values, bounds and gradients."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from loss_cases import CLASSES, EVERY_LOSS, PRECISE, SPLIT, every_loss, model_view, per_position
from test_head_adjustment import draw
from torch.nn.functional import kl_div

from hf_selfdestruct.losses.blocking import (
    IGNORED,
    Collapse,
    CrossEntropy,
    DenialOfService,
    Entropy,
    HeadAdjustedCrossEntropy,
    InverseCrossEntropy,
    NegativeCrossEntropy,
    UniformKL,
    View,
)

# Those that need no more than logits and labels.
PLAIN = [loss for loss in EVERY_LOSS if not (loss.second_order or loss.wants_hidden_states)]


every_plain_loss = pytest.mark.parametrize("loss", PLAIN, ids=repr)
TWO = torch.tensor([[0.8, 0.2], [0.5, 0.5]], dtype=torch.float64).log()


# What counts


@every_loss
def test_ignored_positions_do_not_count(loss) -> None:
    labels = per_position()
    labels[:, 3], labels[2, 1], labels[4] = IGNORED, IGNORED, IGNORED
    view = model_view(labels)
    changed = view.logits.clone(), [h.clone() for h in view.hidden_states]
    for tensor in (changed[0], *changed[1]):
        tensor.data[labels == IGNORED] = 1e3
    garbled = dataclasses.replace(view, logits=changed[0], hidden_states=changed[1])
    value = loss.forward(view)
    torch.testing.assert_close(loss.forward(garbled), value)
    if loss in PLAIN:
        (gradient,) = torch.autograd.grad(value, view.logits)
        assert gradient[labels == IGNORED].abs().max() == 0
    if loss in PLAIN and loss is not SPLIT:  # positions are so many rows
        torch.testing.assert_close(loss(*view.counted()), value)


@every_loss
def test_ignored_rows_do_not_count(loss) -> None:
    labels = per_position(10)[:, 0]
    labels[3] = labels[9] = IGNORED
    view, kept = model_view(labels), labels != IGNORED
    without = View(view.logits[kept], labels[kept], [h[kept] for h in view.hidden_states], None, view.weights)
    torch.testing.assert_close(loss.forward(view), loss.forward(without))


@every_loss
def test_masked_positions_count_as_little_as_ignored_ones(loss) -> None:
    labels = per_position()
    mask = torch.tensor([1, 1, 1, 0]).repeat(8, 1)
    mask[3], mask[:2, 0] = 0, 0
    ignored = labels.where(mask.bool(), IGNORED)
    torch.testing.assert_close(loss.forward(model_view(labels, mask=mask)), loss.forward(model_view(ignored)))


def test_where_nothing_counts_is_an_error() -> None:
    with pytest.raises(ValueError, match="no position counts"):
        UniformKL()(torch.zeros(3, 2), torch.full((3,), IGNORED))


def test_halves_are_alternate_rows_and_split_no_row() -> None:
    labels = torch.tensor([[0, 1], [IGNORED, IGNORED], [0, IGNORED], [1, 1], [0, 1]])
    assert View(torch.zeros(5, 2, 3), labels).half().tolist() == [True, True, False, True, True, False, False]
    assert View(torch.zeros(4, 3), torch.tensor([0, IGNORED, 1, 1])).half().tolist() == [True, False, True]


# Values by hand, and slow twins


def test_values_by_hand() -> None:
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 1])
    kl = (0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2) + 0.0) / 2
    ce = -(math.log(0.8) + math.log(0.5)) / 2
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2) + math.log(0.5)) / 2
    for loss, labels, expected in (
        (UniformKL(), right, kl),
        (CrossEntropy(), right, ce),
        (NegativeCrossEntropy(), right, math.log(2) - ce),
        (NegativeCrossEntropy(), wrong, 0.0),  # worse than chance counts as chance
        (NegativeCrossEntropy(ceiling=2.0), right, 2.0 - ce),
        (NegativeCrossEntropy(ceiling=0.1), right, 0.0),
        (InverseCrossEntropy(), right, -(math.log(0.2) + math.log(0.5)) / 2),
        (Entropy(), right, math.log(2) - entropy),
        (DenialOfService(), right, (math.log(0.8) ** 2 + math.log(0.2) ** 2 + 2 * math.log(0.5) ** 2) / 4),
        (Collapse(), right, -(math.log(0.8) + math.log(0.5)) / 2),
        (Collapse(target=1), right, -(math.log(0.2) + math.log(0.5)) / 2),
    ):
        assert loss(TWO, labels).item() == pytest.approx(expected, abs=1e-12), loss


def test_a_loss_above_its_ceiling_is_pushed_no_further() -> None:
    logits = TWO.clone().requires_grad_()
    for ceiling, moves in ((2.0, True), (0.1, False)):
        (gradient,) = torch.autograd.grad(NegativeCrossEntropy(ceiling=ceiling)(logits, torch.tensor([0, 1])), logits)
        assert bool(gradient.any()) == moves


@pytest.mark.parametrize("ceiling", [0.0, -1.0, math.inf, math.nan])
def test_a_ceiling_that_is_none_is_refused(ceiling) -> None:
    with pytest.raises(ValueError, match="ceiling must be finite and above 0"):
        NegativeCrossEntropy(ceiling=ceiling)


@pytest.mark.parametrize("classes", CLASSES)
def test_slow_twins(classes) -> None:
    logits, labels = draw(classes)
    p = logits.softmax(-1)
    uniform = torch.full_like(p, 1 / classes)
    torch.testing.assert_close(UniformKL()(logits, labels), kl_div(p.log(), uniform, reduction="batchmean"))
    of_label = p[torch.arange(len(p)), labels]
    torch.testing.assert_close(InverseCrossEntropy()(logits, labels), -(1 - of_label).log().mean())
    entropy = torch.distributions.Categorical(p).entropy().mean()
    torch.testing.assert_close(Entropy()(logits, labels), math.log(classes) - entropy)
    torch.testing.assert_close(CrossEntropy()(logits, labels), -of_label.log().mean())


def test_head_adjusted_cross_entropy_by_hand() -> None:
    logits, labels = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64), torch.tensor([0, 1])
    # The best map in the box is [[1, -1], [-1, 1]]: logits (2, -2), so CE = log(1 + e^-4).
    expected = math.log(2) - math.log1p(math.exp(-4))
    loss = HeadAdjustedCrossEntropy(normalize=False, split=False, **PRECISE)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-9)
    same = torch.tensor([[1.0, -1.0]] * 2, dtype=torch.float64)
    assert loss(same, labels).item() == pytest.approx(0, abs=1e-9)  # one input, two labels: nothing to read


# Bounds


@every_plain_loss
@pytest.mark.parametrize("classes", CLASSES)
def test_bounds(loss, classes) -> None:
    bounded = isinstance(loss, NegativeCrossEntropy | Entropy | HeadAdjustedCrossEntropy)
    most = math.log(classes) if bounded else math.inf
    for scale in (0.0, 1e-12, 1e-3, 1.0, 30.0, 1e3):
        for signal in (-5.0, 0.0, 5.0):
            logits, labels = draw(classes, signal=signal, scale=scale)
            assert -1e-6 <= loss(logits.float(), labels).item() <= most + 1e-6, (scale, signal)


@pytest.mark.parametrize("loss", [UniformKL(), Entropy(), DenialOfService(), Collapse()], ids=repr)
def test_label_free_losses(loss) -> None:
    logits, labels = draw(5)
    assert torch.equal(loss(logits, (labels + 1) % 5), loss(logits, labels))


def test_where_the_least_value_is() -> None:
    labels = torch.tensor([0, 1, 2])
    for loss in (UniformKL(), Entropy()):
        assert loss(torch.full((3, 3), 2.5, dtype=torch.float64), labels).abs() < 1e-12
        assert loss(*draw(3)) > 0.01
    assert DenialOfService()(torch.zeros(3, 3), labels) == 0
    assert Collapse(target=1)(torch.tensor([[-99.0, 99.0, 0.0]] * 3), labels) < 1e-6
    assert CrossEntropy()(99.0 * torch.eye(3), labels) < 1e-6
    assert InverseCrossEntropy()(-99.0 * torch.eye(3), labels) < 1e-6


def test_collapse_says_which_target_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"target=-1.*0 or more"):
        Collapse(target=-1)
    with pytest.raises(ValueError, match=r"target=5.*in 0\.\.2"):
        Collapse(target=5)(*draw(3))


# Gradients


@every_plain_loss
def test_gradients_equal_finite_differences(loss) -> None:
    if isinstance(loss, HeadAdjustedCrossEntropy):
        loss = dataclasses.replace(loss, **PRECISE)
    for classes in (2, 3):
        logits, labels = draw(classes, rows=24, seed=3)
        assert torch.autograd.gradcheck(lambda z, y=labels: loss(z, y), logits.requires_grad_(), atol=1e-5, rtol=1e-3)
        assert torch.autograd.grad(loss(logits, labels), logits)[0].abs().max() > 1e-3


@every_plain_loss
@pytest.mark.parametrize("shape", ["right", "wrong", "constant", "zero", "tiny"])
def test_values_and_gradients_are_finite_at_extremes_and_at_the_optimum(loss, shape) -> None:
    labels = torch.arange(12) % 3
    of_label = torch.eye(3)[labels]
    logits = {
        "right": 1e4 * (2 * of_label - 1),
        "wrong": 1e4 * (1 - 2 * of_label),
        "constant": torch.full((12, 3), 1e4),
        "zero": torch.zeros(12, 3),
        "tiny": 1e-20 * torch.randn(12, 3, generator=torch.Generator().manual_seed(0)),
    }[shape].requires_grad_()
    value = loss(logits, labels)
    assert value.isfinite()
    assert torch.autograd.grad(value, logits)[0].isfinite().all()
    if shape in ("zero", "tiny") and not isinstance(loss, CrossEntropy | InverseCrossEntropy | Collapse):
        assert value.item() == pytest.approx(0, abs=1e-5)


def test_inverse_cross_entropy_is_exact_where_the_label_is_certain_or_impossible() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0], [-50.0, 0.0, 0.0]], dtype=torch.float64)
    for row, expected in zip(logits, (50 - math.log(2), math.exp(-50) / 2), strict=True):
        value = InverseCrossEntropy()(row[None], torch.tensor([0])).item()
        assert value == pytest.approx(expected, rel=1e-9)


@every_plain_loss
def test_logits_that_are_not_finite_give_a_loss_that_is_not_finite(loss) -> None:
    """So that the trainer can stop and name the term."""
    for bad in (math.nan, math.inf):
        logits, labels = draw(3)
        logits[0, 0] = bad
        labels[0] = 1
        value = loss(logits, labels).item()
        # An infinite cross-entropy is clamped to chance; an impossible label is what the inverse one wants.
        in_the_limit = isinstance(loss, NegativeCrossEntropy | InverseCrossEntropy)
        assert not math.isfinite(value) or (bad == math.inf and in_the_limit)
