"""Three ways to a meta-gradient: of blocking losses at the fast weights, with respect to published weights.

Each turns an :class:`~hf_selfdestruct.episode.Episode` into a :class:`~hf_selfdestruct.episode.MetaGradient`.
All return gradients, not graphs, so that memory is free again before the desired task's backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .adjoint import exact
from .episode import Episode, MetaGradient
from .flat_episode import FlatEpisode

META_GRADIENTS = ("exact", "unrolled", "first_order")


def unrolled(episode: Episode) -> MetaGradient:
    """Exact gradients by plain autograd through all K steps; memory grows with K. The slow twin of ``exact``.

    Args:
        episode: The simulated fine-tuning; its losses must be twice differentiable.

    Returns:
        Exact gradients for the published weights and, where it learns, for the adversary.

    Raises:
        ValueError: Several processes share the episode: no graph goes through what they exchange.
    """
    if episode.ranks.size > 1:
        raise ValueError("an unrolled meta-gradient is one process's own; use 'exact', which gives the same.")
    course = FlatEpisode(episode)
    leaves = [value.requires_grad_() for value in course.start()]
    x, f = leaves
    rate = torch.tensor(episode.learning_rate, dtype=x.dtype, device=x.device, requires_grad=True)
    state = episode.optimizer.init(x)
    blocked = adversarial = torch.zeros_like(rate)
    for k, share in enumerate(episode.shares):
        weights = course.weights(x, f)
        if share is not None:
            reading = course.read(k, weights)
            blocked, adversarial = blocked + share * reading.loss, adversarial + abs(share) * reading.objective
        if k < episode.steps:
            (g,) = _gradients(episode.inner_losses[k](weights), [x], graph=True)
            x, state = episode.optimizer.update(x, g, state, k + 1, rate)
    course.end(x)
    learns = episode.learns or episode.learns_rate
    toward = _gradients(blocked, leaves, graph=learns)
    own = _gradients(adversarial, [*leaves, rate]) if learns else None
    return course.result(torch.cat(toward).detach(), torch.cat(own[:2]) if own else None, own[2] if own else None)


def first_order(episode: Episode) -> MetaGradient:
    """Gradients at theta_k applied to theta_0 (FOMAML, SOPHON, TAR); memory flat in K.

    The Jacobian of theta_k with respect to theta_0 is taken as the identity. For the rate, theta_k is
    taken as ``theta_0 - rate * (sum of the update directions)`` with the directions held constant.

    Args:
        episode: The simulated fine-tuning; any attention kernel will do.

    Returns:
        Approximate gradients; exact as the inner rate goes to 0.
    """
    course = FlatEpisode(episode)
    x, f = course.start()
    start, state = x.clone() if episode.learns_rate else x, episode.optimizer.init(x)
    g, slope = torch.empty_like(x), x.new_zeros(())
    sums = [course.zeros(x, f) for _ in range(2 if episode.learns or episode.learns_rate else 1)]
    for k in range(episode.steps + 1):
        before = sums[-1][: course.size].clone() if episode.learns_rate else g
        course.measure(k, x, f, sums)
        if episode.learns_rate:
            slope += torch.dot(sums[-1][: course.size] - before, x - start) / episode.learning_rate
        if k < episode.steps:
            course.inner_gradient(k, x, f, out=g)
            episode.optimizer.advance_(x, g, state, k + 1, episode.learning_rate)
    course.end(x)
    return course.result(sums[0], sums[1] if len(sums) > 1 else None, slope)


def method(name: str, **options: Any) -> Callable[[Episode], MetaGradient]:
    """The way behind ``meta_gradient=``: ``unrolled``, ``exact`` (with its options) or ``first_order``."""
    if name == "exact":
        return lambda episode: exact(episode, **options)
    return {"unrolled": unrolled, "first_order": first_order}[name]


def _gradients(loss: Tensor, inputs: list[Tensor], *, graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(loss, inputs, create_graph=graph, allow_unused=True, materialize_grads=True)
    return list(found)
