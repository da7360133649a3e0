"""The losses that look at gradients and hidden states: twins, bounds, what fools them and what does not."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn.functional import cross_entropy

from hf_selfdestruct.losses.blocking import IGNORED, GradientNorm, RepresentationProbe
from hf_selfdestruct.losses.probe import variance_explained
from hf_selfdestruct.models.pooling import pool


def states(rows: int = 24, *, layers: int = 3, signal: float = 2.0, positions: int = 5, seed: int = 0):
    """Hidden states whose mean over positions knows something of the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (rows,), generator=generator)
    code = torch.randn(3, 8, generator=generator).double()
    noise = torch.randn(layers, rows, positions, 8, generator=generator).double()
    return [*(noise + signal * code[labels][:, None])], labels


def value(hidden: list[Tensor], labels: Tensor, *, mask: Tensor | None = None, **arguments) -> Tensor:
    return RepresentationProbe(**arguments)(torch.zeros(*labels.shape, 3), labels, hidden_states=hidden, mask=mask)


def by_sklearn(features: Tensor, labels: Tensor, ridge: float) -> float:
    """One layer's share of variance, by primal ridge regression of each fold."""
    shares, targets = [], torch.eye(int(labels.max()) + 1).double()[labels]
    even = torch.arange(len(labels)) % 2 == 0
    for fit in (even, ~even):
        x, y = features - features[fit].mean(0), targets - targets[fit].mean(0)
        x = x / x[fit].square().mean().sqrt() / math.sqrt(x.shape[1])
        fitted = Ridge(alpha=ridge, fit_intercept=False).fit(x[fit].numpy(), y[fit].numpy())
        left = y[~fit] - torch.from_numpy(fitted.predict(x[~fit].numpy()))
        shares.append(max(0.0, 1 - (left.square().sum() / y[~fit].square().sum()).item()))
    return sum(shares) / 2


# Probes


@pytest.mark.parametrize("ridge", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("rows", [12, 25, 64])
def test_a_probe_is_a_ridge_regression(rows, ridge) -> None:
    hidden, labels = states(rows)
    expected = [by_sklearn(h.mean(1), labels, ridge) for h in hidden]
    assert value(hidden, labels, ridge=ridge).item() == pytest.approx(sum(expected) / 3, abs=1e-6)
    even = torch.arange(rows) % 2 == 0
    each = variance_explained([h.mean(1) for h in hidden], labels, even, ridge=(ridge,))
    assert each.tolist() == pytest.approx(expected, abs=1e-6)


def test_layers_of_different_width() -> None:
    hidden, labels = states()
    wide = torch.cat([hidden[1], hidden[2] ** 2], -1)
    alone = [value([h], labels).item() for h in (hidden[0], wide)]
    assert value([hidden[0], wide], labels).item() == pytest.approx(sum(alone) / 2)
    maps = hidden[2].mT.unsqueeze(-1).repeat(1, 1, 1, 2)  # (batch, channels, height, width)
    assert value([maps], labels).item() == pytest.approx(value([hidden[2]], labels).item())


@pytest.mark.parametrize(("signal", "least", "most"), [(0.0, 0.0, 0.15), (1.0, 0.5, 1.0), (50.0, 0.97, 1.0)])
def test_it_is_between_0_and_1_and_grows_with_what_is_known(signal, least, most) -> None:
    for seed in range(5):
        hidden, labels = states(48, signal=signal, seed=seed)
        assert least <= value(hidden, labels).item() <= most


def test_flipping_rotating_shifting_and_scaling_gain_nothing() -> None:
    hidden, labels = states()
    honest = value(hidden, labels)
    assert honest > 0.3
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double())[0]
    for fooled in (
        [-h for h in hidden],
        [h @ rotation for h in hidden],
        [h + 100 for h in hidden],
        [1e-3 * h for h in hidden],
        [1e3 * h for h in hidden],
    ):
        torch.testing.assert_close(value(fooled, labels), honest, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(value(hidden, (labels + 1) % 3), honest)
    single = [(1e-3 * h + 1).float() for h in hidden]
    torch.testing.assert_close(value(single, labels).double(), honest, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 0, 1], [1, 0, 2, 0, 1, 0], [0, 1] * 3, [1] * 6])
def test_a_half_of_one_class_tells_nothing(labels) -> None:
    hidden, _ = states(6)
    leaves = [h.requires_grad_() for h in hidden]
    found = value(leaves, torch.tensor(labels))
    assert found == 0
    for gradient in torch.autograd.grad(found, leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("fill", [0.0, 1.0, 1e4])
def test_constant_hidden_states_are_blocked_with_a_finite_gradient(fill) -> None:
    leaf = torch.full((8, 3, 4), fill, requires_grad=True)
    found = value([leaf], torch.arange(8) // 2 % 2)
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(found, leaf)[0].isfinite().all()


def test_extreme_and_broken_hidden_states() -> None:
    hidden, labels = states()
    leaf = (1e4 * hidden[0]).float().requires_grad_()
    assert torch.autograd.grad(value([leaf], labels), leaf)[0].isfinite().all()
    for bad in (math.nan, math.inf):
        hidden[1][0, 0, 0] = bad
        assert not value(hidden, labels).isfinite()


def test_its_gradient_equals_finite_differences() -> None:
    hidden, labels = states(10, layers=2)
    leaves = [h.requires_grad_() for h in hidden]
    assert torch.autograd.gradcheck(lambda *h: value([*h], labels), leaves)
    assert torch.autograd.grad(value(leaves, labels), leaves)[0].abs().max() > 1e-4


@pytest.mark.parametrize(("pooling", "expected"), [("mean", 2.5), ("first", 2.0), ("last", 3.0)])
def test_pooling_skips_padding(pooling, expected) -> None:
    hidden = torch.tensor([[[9.0], [2.0], [3.0], [math.nan]], [[math.nan], [2.0], [9.0], [3.0]]])
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 1]])
    assert pool(hidden, mask, pooling).tolist() == [[expected], [expected]]
    whole = torch.tensor([[[2.0], [2.5], [3.0]]])
    assert pool(whole, None, pooling).tolist() == [[expected]]


def test_a_label_per_position_makes_each_position_a_row() -> None:
    hidden, _ = states(8, positions=4)
    labels = torch.randint(3, (8, 4), generator=torch.Generator().manual_seed(0))
    labels[:, 2] = IGNORED
    here = labels != IGNORED
    even = (torch.arange(8) % 2 == 0)[:, None].expand(8, 4)[here]
    expected = variance_explained([h[here] for h in hidden], labels[here], even, ridge=(0.1, 1.0)).mean()
    torch.testing.assert_close(value(hidden, labels), expected)


def test_the_penalty_that_explains_most_counts_layer_by_layer() -> None:
    """A weak one where features are clear; a strong one where a weak one overfits the many classes of a batch."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) // 4
    means, noise = torch.randn(16, 384, generator=generator), torch.randn(2, 64, 384, generator=generator)
    hidden = [means[labels] + 0.1 * noise[0], (means[labels] + noise[1])[:, :8]]  # clear and wide; noisy and narrow
    weak, strong, both = ([value([h], labels, ridge=ridge) for h in hidden] for ridge in (0.1, 1.0, (0.1, 1.0)))
    assert weak[0] > strong[0] + 0.1
    assert strong[1] > 1.5 * weak[1]
    torch.testing.assert_close(both, [weak[0], strong[1]])
    torch.testing.assert_close(value(hidden, labels), (weak[0] + strong[1]) / 2)


def test_layers_can_be_chosen() -> None:
    hidden, labels = states()
    torch.testing.assert_close(value(hidden, labels, layers=(0, -1)), value([hidden[0], hidden[2]], labels))
    with pytest.raises(ValueError, match=r"layers=\(0, 3\).*some of the 3"):
        value(hidden, labels, layers=(0, 3))


def test_probes_say_what_they_need() -> None:
    hidden, labels = states(3)
    with pytest.raises(ValueError, match=r"at least 4 rows.*got 3"):
        value(hidden, labels)
    with pytest.raises(ValueError, match="needs hidden states"):
        value([], torch.zeros(8, dtype=torch.long))
    for arguments in ({"ridge": 0.0}, {"ridge": math.inf}, {"pooling": "max"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            RepresentationProbe(**arguments)


# Gradient norm


def linear(weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    return GradientNorm()(inputs @ weights, labels, weights=[weights])


def test_gradient_norm_by_hand() -> None:
    """For a linear model the gradient is ``x' (p - y) / n``."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(9, 4, generator=generator).double(), torch.arange(9) % 3
    weights = torch.randn(4, 3, generator=generator).double().requires_grad_()
    error = (inputs @ weights).softmax(-1) - torch.eye(3).double()[labels]
    torch.testing.assert_close(linear(weights, inputs, labels), (inputs.T @ error / 9).norm())
    assert torch.autograd.gradcheck(lambda w: linear(w, inputs, labels), weights)


def test_gradient_norm_of_several_weights_some_unused() -> None:
    inputs, labels = torch.ones(4, 2), torch.tensor([0, 1, 1, 1])
    first, second, unused = (torch.ones(2, 2, requires_grad=True) for _ in range(3))
    logits = (inputs @ first).tanh() @ second
    separate = torch.autograd.grad(cross_entropy(logits, labels), [first, second], retain_graph=True)
    found = GradientNorm()(logits, labels, weights=[first, unused, second])
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in separate]).norm())
    assert GradientNorm()(logits, labels, weights=[unused]) == 0


@pytest.mark.parametrize("inputs", [torch.zeros(4, 2), 1e4 * torch.eye(4, 2)])
def test_gradient_norm_where_it_is_zero(inputs) -> None:
    weights = torch.eye(2, requires_grad=True)
    norm = linear(weights, inputs[:2], torch.tensor([0, 1]))
    assert norm == 0
    assert torch.autograd.grad(norm, weights)[0].abs().max() == 0


def test_gradient_norm_of_a_broken_model_is_not_finite() -> None:
    weights = torch.full((2, 2), math.nan, requires_grad=True)
    assert not linear(weights, torch.ones(4, 2), torch.tensor([0, 1, 1, 1])).isfinite()
    with pytest.raises(ValueError, match="needs the adversary's trained weights"):
        GradientNorm()(torch.zeros(2, 2), torch.tensor([0, 1]))
