"""Blocking losses: values by hand, bounds, gradients, what counts, what fools them and what does not."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from test_head_adjustment import draw
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from hf_selfdestruct.head_adjustment import best_adjustment, best_scale
from hf_selfdestruct.losses import (
    BLOCKING_LOSSES,
    IGNORED,
    BlockingLoss,
    Collapse,
    CrossEntropy,
    DenialOfService,
    Entropy,
    HeadAdjustedCrossEntropy,
    InverseCrossEntropy,
    NegativeCrossEntropy,
    UniformKL,
    View,
    blocking_loss,
)

CLASSES = (2, 3, 5, 10)
PRECISE = {"tolerance": 1e-12}
SPLIT = HeadAdjustedCrossEntropy(split=True)
EVERY_LOSS = [*(loss() for loss in BLOCKING_LOSSES.values()), SPLIT, HeadAdjustedCrossEntropy(normalize=False)]
every_loss = pytest.mark.parametrize("loss", EVERY_LOSS, ids=repr)
# Those that need no more than logits and labels.
PLAIN = [loss for loss in EVERY_LOSS if not (loss.second_order or loss.wants_hidden_states)]
every_plain_loss = pytest.mark.parametrize("loss", PLAIN, ids=repr)
TWO = torch.tensor([[0.8, 0.2], [0.5, 0.5]], dtype=torch.float64).log()


def model_view(labels: Tensor, *, scale: float = 1.0, seed: int = 0, mask: Tensor | None = None) -> View:
    """A linear model of 3 classes on random inputs of 4 positions, labelled once per row or at each position."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(labels), 4, 6, generator=generator, dtype=torch.float64)
    weights = scale * torch.randn(6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    inputs = hidden if labels.dim() == 2 else hidden[:, 0]
    return View(inputs @ weights, labels, (hidden, hidden.tanh()), mask, (weights, unused))


def per_position(rows: int = 8) -> Tensor:
    return torch.randint(3, (rows, 4), generator=torch.Generator().manual_seed(5))


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
        (InverseCrossEntropy(), right, -(math.log(0.2) + math.log(0.5)) / 2),
        (Entropy(), right, math.log(2) - entropy),
        (DenialOfService(), right, (math.log(0.8) ** 2 + math.log(0.2) ** 2 + 2 * math.log(0.5) ** 2) / 4),
        (Collapse(), right, -(math.log(0.8) + math.log(0.5)) / 2),
        (Collapse(target=1), right, -(math.log(0.2) + math.log(0.5)) / 2),
    ):
        assert loss(TWO, labels).item() == pytest.approx(expected, abs=1e-12), loss


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


# What fools them, and what does not


def test_a_label_flip_is_rewarded_by_plain_losses_only() -> None:
    logits, labels = draw(2, signal=3.0, rows=64)
    assert NegativeCrossEntropy()(-logits, labels) == 0 < NegativeCrossEntropy()(logits, labels)
    torch.testing.assert_close(InverseCrossEntropy()(-logits, labels), CrossEntropy()(logits, labels))
    for loss in (UniformKL(), Entropy(), DenialOfService(), HeadAdjustedCrossEntropy(), SPLIT):
        torch.testing.assert_close(loss(-logits, labels), loss(logits, labels), rtol=1e-5, atol=1e-5)
        assert loss(logits, labels) > 0.3


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("classes", CLASSES)
def test_permuted_answers_gain_nothing(classes, split) -> None:
    logits, labels = draw(classes, signal=5.0, rows=128)
    permutation = torch.randperm(classes, generator=torch.Generator().manual_seed(1))
    loss = HeadAdjustedCrossEntropy(split=split, tolerance=1e-9)
    honest = loss(logits, labels)
    torch.testing.assert_close(loss(logits[:, permutation], labels), honest, rtol=1e-5, atol=1e-6)
    assert honest > 0.4


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("classes", CLASSES)
def test_scaling_and_shifting_gain_nothing_when_normalised(classes, split) -> None:
    logits, labels = draw(classes, rows=64, signal=2.0)
    shift = torch.linspace(-4, 4, classes, dtype=torch.float64)
    ours = HeadAdjustedCrossEntropy(split=split, tolerance=1e-9, epsilon=1e-12)
    for scale in (1e-3, 0.1, 100.0):
        torch.testing.assert_close(ours(scale * logits + shift, labels), ours(logits, labels), rtol=1e-5, atol=1e-6)
    ours = HeadAdjustedCrossEntropy(split=split)
    assert ours(1e-3 * logits, labels) > 0.9 * ours(logits, labels)
    papers = HeadAdjustedCrossEntropy(split=split, normalize=False)
    assert papers(1e-3 * logits, labels) < 0.05 * papers(logits, labels)
    assert (papers(logits + shift, labels) - papers(logits, labels)).abs() > 1e-4


@pytest.mark.parametrize("classes", CLASSES)
def test_the_loss_is_the_optimum_for_normalised_logits(classes) -> None:
    logits, labels = draw(classes, scale=7.0)
    z = logits - logits.mean(0)
    z = z / z.square().mean().sqrt()
    expected = math.log(classes) - cross_entropy(z @ best_adjustment(z, labels, **PRECISE), labels)
    assert HeadAdjustedCrossEntropy(split=False)(logits, labels).item() == pytest.approx(expected.item(), abs=1e-5)


def test_split_does_not_mistake_noise_for_knowledge_nor_lose_knowledge_in_it() -> None:
    noise = [HeadAdjustedCrossEntropy(split=s)(*draw(10, signal=0.0, seed=2)).item() for s in (False, True)]
    assert noise[0] > 1  # 100 unknowns fit 32 rows of noise
    assert noise[1] < 0.1
    # Scored as it is, the map would be worse than chance, and the loss blind.
    logits, labels = draw(10, signal=2.0, seed=1)
    z = (logits - logits.mean(0)) / (logits - logits.mean(0)).square().mean().sqrt()
    adjusted = z[1::2] @ best_adjustment(z[::2], labels[::2])
    assert cross_entropy(adjusted, labels[1::2]) > math.log(10)
    assert SPLIT(logits, labels) > 0.2


@pytest.mark.parametrize(("classes", "rows", "split"), [(2, 7, True), (2, 8, False), (10, 199, True), (10, 200, False)])
def test_by_default_it_splits_where_rows_are_few(classes, rows, split) -> None:
    logits, labels = draw(classes, rows=rows)
    default, chosen = HeadAdjustedCrossEntropy(), HeadAdjustedCrossEntropy(split=split)
    assert default(logits, labels) == chosen(logits, labels)
    assert default(logits, labels) != HeadAdjustedCrossEntropy(split=not split)(logits, labels)


def test_best_scale() -> None:
    logits, labels = draw(3, signal=1.0)
    assert best_scale(logits / 10, labels).item() == pytest.approx(1)
    assert best_scale(-logits, labels) == 0
    found = best_scale(30 * logits, labels)
    values = [cross_entropy(a * 30 * logits, labels).item() for a in torch.linspace(0, 1, 10_001)]
    assert found.item() == pytest.approx(values.index(min(values)) / 10_000, abs=1e-4)


def test_split_needs_two_rows() -> None:
    with pytest.raises(ValueError, match="another to score"):
        SPLIT(torch.zeros(1, 4, 3), torch.zeros(1, 4, dtype=torch.long))


# What a report gets


@every_loss
def test_every_loss_says_what_it_is(loss) -> None:
    assert loss.config()["name"] == type(loss).__name__
    assert loss.config()["weight"] == 1.0
    assert "arXiv:" in loss.citation
    assert type(loss).__doc__
    view = model_view(per_position())
    value = loss.forward(view)
    assert value.shape == ()
    rest = {"hidden_states": view.hidden_states, "weights": view.weights}
    assert torch.equal(loss(view.logits, view.labels, **rest), value)
    assert torch.equal(dataclasses.replace(loss, weight=3.0).forward(view), value)  # whoever adds them up multiplies


def test_what_the_engine_reads() -> None:
    assert {name for name, loss in BLOCKING_LOSSES.items() if loss.second_order} == {"gradient_norm"}
    assert {name for name, loss in BLOCKING_LOSSES.items() if loss.on_general} == {"collapse"}
    assert {name for name, loss in BLOCKING_LOSSES.items() if loss.wants_hidden_states} == {"representation_probe"}
    assert [BlockingLoss.second_order, BlockingLoss.on_general, BlockingLoss.wants_hidden_states] == 3 * [False]


def test_config_lists_the_arguments() -> None:
    assert HeadAdjustedCrossEntropy(normalize=False, split=False, iterations=9, weight=2.0).config() == {
        "name": "HeadAdjustedCrossEntropy",
        "weight": 2.0,
        "normalize": False,
        "split": False,
        "iterations": 9,
        "tolerance": 1e-6,
        "epsilon": 1e-4,
    }


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weights_are_finite_and_positive(weight) -> None:
    for loss in BLOCKING_LOSSES.values():
        with pytest.raises(ValueError, match=rf"{loss.__name__}\(weight={weight}\)"):
            loss(weight=weight)


@pytest.mark.parametrize("name", ["iterations", "tolerance", "epsilon"])
def test_head_adjusted_cross_entropy_checks_its_arguments(name) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        HeadAdjustedCrossEntropy(**{name: 0})


def test_names() -> None:
    for name, loss in BLOCKING_LOSSES.items():
        assert name.replace("_", "").lower() == loss.__name__.lower()
        assert blocking_loss(name) == loss()
    with pytest.raises(ValueError, match=r"'entropie'.*uniform_kl"):
        blocking_loss("entropie")
