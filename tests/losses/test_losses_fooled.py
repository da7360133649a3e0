"""What fools blocking losses and what does not; what a report gets of them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from loss_cases import CLASSES, PRECISE, SPLIT, every_loss, model_view, per_position
from test_head_adjustment import draw
from torch.nn.functional import cross_entropy

from hf_selfdestruct import HardeningConfig
from hf_selfdestruct.losses.blocking import (
    BLOCKING_LOSSES,
    BlockingLoss,
    CrossEntropy,
    DenialOfService,
    Entropy,
    HeadAdjustedCrossEntropy,
    InverseCrossEntropy,
    NegativeCrossEntropy,
    UniformKL,
)
from hf_selfdestruct.losses.head_adjustment import best_adjustment, best_scale

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


def test_with_few_rows_the_gradient_points_from_the_labels() -> None:
    """18 classes and 48 rows: fitted to 24 of them, a map of 324 entries is noise, and so is a gradient through it."""

    def by_the_minimiser(logits, labels):
        z = logits - logits.mean(0)
        z = z / z.square().mean().sqrt()
        adjusted = z[1::2] @ best_adjustment(z[::2], labels[::2])
        return -cross_entropy(best_scale(adjusted, labels[1::2]) * adjusted, labels[1::2])

    def cosine(loss, rows):
        found = []
        for seed in range(4):
            logits, labels = draw(18, rows=rows, seed=seed)
            (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), labels), logits)
            wanted = torch.nn.functional.one_hot(labels, 18).double()
            wanted = wanted - wanted.mean(1, keepdim=True) - wanted.mean(0) + wanted.mean()
            found.append(torch.nn.functional.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0).item())
        return sum(found) / 4

    assert cosine(by_the_minimiser, 48) < 0.1
    assert cosine(HeadAdjustedCrossEntropy(), 48) > 0.15
    assert cosine(HeadAdjustedCrossEntropy(split=False), 800) > 0.7


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
    with pytest.raises(ValueError, match="one to score"):
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
    with pytest.raises(ValueError, match=r"uniform_kl.*got 'entropie'"):
        HardeningConfig(blocking_loss="entropie")
