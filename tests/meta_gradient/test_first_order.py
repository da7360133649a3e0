"""First order equals fine-tuning a copy and summing gradients."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_episodes import EPSILON, Toy, assert_same, first_order, relative, run, toy_episode, unrolled

from hf_selfdestruct.losses.blocking import HeadAdjustedCrossEntropy, NegativeCrossEntropy, UniformKL
from hf_selfdestruct.meta_gradient.episode import MetaGradient


def fine_tune_and_sum(model, episode: Toy) -> MetaGradient:
    """First order, plainly: fine-tune a copy with torch's Adam, adding up gradients on the way."""
    copied = copy.deepcopy(model)
    optimizer = torch.optim.Adam(copied.parameters(), lr=episode.learning_rate, eps=EPSILON)
    toward = {n: torch.zeros_like(w) for n, w in episode.published.items()}
    own = {n: torch.zeros_like(w) for n, w in episode.head.items()}
    total, losses, accuracies = 0.0, {}, {}
    y = episode.held_out["labels"]
    inputs = {n: v for n, v in episode.held_out.items() if n != "labels"}
    for k, share in enumerate(episode.step_weights):
        z = copied(**inputs).logits
        total += share * episode.loss(z, y).item()
        losses[k] = episode.loss(z, y).item()
        accuracies[k] = (z.argmax(1) == y).double().mean().item()
        for objective, sums in ((episode.loss, toward), (cross_entropy, own)):
            copied.zero_grad()
            objective(copied(**inputs).logits, y).backward()
            for n, p in copied.named_parameters():
                if n in sums and p.grad is not None:
                    sums[n] += share * p.grad
        if k < len(episode.batches):
            copied.zero_grad()
            copied(**episode.batches[k]).loss.backward()
            optimizer.step()
    return MetaGradient(total, toward, own, None, losses, accuracies)


@pytest.mark.parametrize("loss", [UniformKL(), HeadAdjustedCrossEntropy(), NegativeCrossEntropy()])
def test_first_order_equals_fine_tuning_a_copy_and_summing_gradients(plain_model, loss) -> None:
    episode = toy_episode(loss=loss, learns_rate=False)
    if isinstance(loss, NegativeCrossEntropy):  # labels on which the adversary starts well: no clamp, a gradient
        right = episode.forward({**episode.published, **episode.head}, episode.held_out).argmax(1)
        episode = replace(episode, held_out={**episode.held_out, "labels": right})
    expected = fine_tune_and_sum(plain_model(episode), episode)
    assert_same(first_order(episode), expected, rtol=1e-7, atol=1e-11)
    assert expected.losses[0] != pytest.approx(expected.losses[3], abs=1e-3)  # the fine-tuning did something


def test_first_order_tends_to_unrolled_in_proportion_to_the_inner_rate() -> None:
    gaps = []
    for rate in (1e-4, 1e-5, 1e-6, 1e-7):
        episode = toy_episode(rate=rate)
        gaps.append(relative(first_order(episode), unrolled(episode)))
    assert gaps[-1] < 1e-3
    for wide, narrow in pairwise(gaps):
        assert wide / narrow == pytest.approx(10, rel=0.3)


@pytest.mark.parametrize("rate", [1e-2, 5e-2])
def test_the_two_ways_differ_at_a_rate_worth_taking(rate) -> None:
    episode = toy_episode(rate=rate)
    assert relative(first_order(episode), unrolled(episode)) > 0.1


def test_without_inner_steps_both_ways_are_the_same() -> None:
    episode = toy_episode(steps=0)
    assert_same(first_order(episode), unrolled(episode), rtol=1e-12, atol=1e-15)
    assert first_order(episode).learning_rate == 0


def test_first_order_rate_gradient_is_that_of_the_objective_with_fixed_directions(plain_model) -> None:
    episode = toy_episode()
    rate = episode.learning_rate
    copied = plain_model(episode)
    optimizer = torch.optim.Adam(copied.parameters(), lr=rate, eps=EPSILON)
    published = {n: p.detach().clone() for n, p in copied.named_parameters()}
    displacements = []  # of theta_k from theta_0, in units of the rate
    for k in range(len(episode.batches) + 1):
        displacements.append({n: (p.detach() - published[n]) / rate for n, p in copied.named_parameters()})
        if k < len(episode.batches):
            copied.zero_grad()
            copied(**episode.batches[k]).loss.backward()
            optimizer.step()

    def objective(other_rate: float) -> float:
        total = 0.0
        for share, displacement in zip(episode.step_weights, displacements, strict=True):
            weights = {n: w + other_rate * displacement[n] for n, w in published.items()}
            z = run(copied, weights, episode.held_out)
            total += share * cross_entropy(z, episode.held_out["labels"]).item()
        return total

    width = 1e-5
    slope = (objective(rate + width) - objective(rate - width)) / (2 * width)
    assert abs(slope) > 1e-2
    assert first_order(episode).learning_rate == pytest.approx(slope, rel=1e-5)
