"""A fine-tuning that continues: stretches with stored moments are one long way; a gradient goes through one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy_episodes import EPSILON, assert_same, first_order, toy_episode

from hf_selfdestruct.adversaries.optimizers import INNER_OPTIMIZERS, SGD, AdamW
from hf_selfdestruct.meta_gradient import methods
from hf_selfdestruct.meta_gradient.episode import Episode, MetaGradient

WAYS = {
    "unrolled": methods.unrolled,
    "exact": methods.exact,
    "exact, recomputed": lambda episode: methods.exact(episode, trajectory="recompute"),
    "exact, logarithmic": lambda episode: methods.exact(episode, trajectory="logarithmic"),
    "first_order": methods.first_order,
}


def long_and_short(**fields) -> tuple[Episode, Episode]:
    """A way of five steps, and its first two."""
    long = replace(toy_episode(steps=5, **fields).episode(), stores=True)
    return long, replace(long, inner_losses=long.inner_losses[:2], shares=[None, None, 1.0])


def continued(long: Episode, before: MetaGradient) -> Episode:
    """The last three steps, from where the first two ended."""
    start = {**long.published, **long.own, **before.fast}
    return replace(
        long,
        published={n: start[n] for n in long.published},
        own={n: start[n] for n in long.own},
        inner_losses=long.inner_losses[2:],
        shares=long.shares[2:],
        moments=before.moments,
        taken=2,
    )


@pytest.mark.parametrize(
    ("way", "optimizer"),
    [*((way, "adam") for way in WAYS), *(("first_order", one) for one in ("adagrad", "nesterov"))],
)
def test_two_stretches_are_one_long_way(way, optimizer) -> None:
    long, short = long_and_short(optimizer=INNER_OPTIMIZERS[optimizer], rate=0.01)
    expected = methods.first_order(long)
    before = WAYS[way](short)
    found = WAYS[way](continued(long, before))
    assert {*found.moments} == {*expected.moments} == {*long.optimizer.init(torch.zeros(1))}
    torch.testing.assert_close(found.fast, expected.fast, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.moments, expected.moments, rtol=1e-10, atol=1e-12)
    forgetful = replace(continued(long, before), moments={}, taken=0)
    gaps = [(WAYS[way](forgetful).fast[n] - end).abs().max() for n, end in expected.fast.items()]
    assert max(gaps) > 1e-4, "moments matter"


def test_a_stretch_is_torchs_adam_in_mid_course(plain_model) -> None:
    toy = toy_episode(steps=5, optimizer=AdamW(0.1, epsilon=EPSILON))
    long, short = long_and_short(optimizer=toy.optimizer)
    model = plain_model(toy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=toy.learning_rate, eps=EPSILON, weight_decay=0.1)
    for batch in toy.batches:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    found = methods.first_order(continued(long, methods.first_order(short)))
    for name, value in model.named_parameters():
        if value.grad is not None and name in found.fast:
            torch.testing.assert_close(found.fast[name], value.data, rtol=1e-8, atol=1e-10)
            assert not torch.equal(value, {**toy.published, **toy.head}[name]), name


def test_the_exact_gradient_of_a_stretch_is_its_slope() -> None:
    """Where it starts and its moments are constants; what is shifted is the published weights under them."""
    long, short = long_and_short()
    stretch = continued(long, methods.first_order(short))
    found, slow = methods.exact(stretch), methods.unrolled(stretch)
    assert_same(found, slow, rtol=1e-7, atol=1e-11)
    generator = torch.Generator().manual_seed(0)
    along = {n: torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in stretch.published.items()}

    def loss(step: float) -> float:
        moved = {n: w + step * along[n] for n, w in stretch.published.items()}
        return methods.first_order(replace(stretch, published=moved)).loss

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert sum((found.weights[n] * v).sum() for n, v in along.items()).item() == pytest.approx(slope, rel=1e-5)
    without = methods.exact(replace(stretch, moments={}, taken=0))
    assert not torch.allclose(without.weights["bert.pooler.dense.weight"], found.weights["bert.pooler.dense.weight"])


def test_moments_of_weights_that_were_not_trained_start_from_zero() -> None:
    long, short = long_and_short(optimizer=SGD(momentum=0.9))
    before = methods.first_order(short)
    name = next(iter(long.own))
    partly = {"velocity": {n: v for n, v in before.moments["velocity"].items() if n != name}}
    zeroed = {"velocity": {**partly["velocity"], name: torch.zeros_like(before.moments["velocity"][name])}}
    stretch = continued(long, before)
    found, expected = (methods.first_order(replace(stretch, moments=m)) for m in (partly, zeroed))
    assert all(torch.equal(found.fast[n], v) for n, v in expected.fast.items())


def test_nothing_is_stored_unless_requested() -> None:
    found = first_order(toy_episode(steps=2))
    assert (found.fast, found.moments) == ({}, {})
