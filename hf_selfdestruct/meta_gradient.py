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
from .episode import Course, Episode, MetaGradient, gradients


def unrolled(episode: Episode) -> MetaGradient:
    """Exact gradients by plain autograd through all K steps; memory grows with K. The slow twin of ``exact``.

    Args:
        episode: The simulated fine-tuning; its losses must be twice differentiable.

    Returns:
        Exact gradients for the published weights and, where it learns, for the adversary.
    """
    course = Course(episode)
    leaves = [value.requires_grad_() for value in course.start()]
    x, f = leaves
    rate = torch.tensor(episode.learning_rate, dtype=x.dtype, device=x.device, requires_grad=True)
    state = episode.optimizer.init(x)
    blocked = adversarial = torch.zeros_like(rate)
    for k, share in enumerate(episode.shares):
        weights = course.weights(x, f)
        if share is not None:
            reading = course.read(k, weights)
            blocked, adversarial = blocked + share * reading.loss, adversarial + abs(share) * reading.entropy
        if k < episode.steps:
            (g,) = gradients(episode.inner_losses[k](weights), [x], graph=True)
            x, state = episode.optimizer.update(x, g, state, k + 1, rate)
    learns = episode.learns or episode.learns_rate
    toward = gradients(blocked, leaves, keep=learns)
    own = gradients(adversarial, [*leaves, rate]) if learns else None
    return course.result((toward[0], toward[1]), (own[0], own[1]) if own else None, own[2] if own else None)


def first_order(episode: Episode) -> MetaGradient:
    """Gradients at theta_k applied to theta_0 (FOMAML, SOPHON, TAR); memory flat in K.

    The Jacobian of theta_k with respect to theta_0 is taken as the identity. For the rate, theta_k is
    taken as ``theta_0 - rate * (sum of the update directions)`` with the directions held constant.

    Args:
        episode: The simulated fine-tuning; any attention kernel will do.

    Returns:
        Approximate gradients; exact as the inner rate goes to 0.
    """
    course = Course(episode)
    x, f = course.start()
    start, state = x, episode.optimizer.init(x)
    objectives = 2 if episode.learns or episode.learns_rate else 1
    sums = [(torch.zeros_like(x), torch.zeros_like(f)) for _ in range(objectives)]
    slope: Tensor = x.new_zeros(())
    for k, share in enumerate(episode.shares):
        if share is not None:
            found = course.measured(k, x, f, objectives)
            for total, part in zip(sums, found, strict=True):
                total[0].add_(part[0])
                total[1].add_(part[1])
            if episode.learns_rate:
                slope += torch.dot(found[1][0], x - start) / episode.learning_rate
        if k < episode.steps:
            g = course.inner_gradient(k, x, f)
            x, state = episode.optimizer.advance(x, g, state, k + 1, episode.learning_rate)
    return course.result(sums[0], sums[1] if objectives == 2 else None, slope)


def method(name: str, **options: Any) -> Callable[[Episode], MetaGradient]:
    """The way behind ``meta_gradient=``: ``unrolled``, ``exact`` (with its options) or ``first_order``."""
    if name == "exact":
        return lambda episode: exact(episode, **options)
    return {"unrolled": unrolled, "first_order": first_order}[name]
