"""Three methods for meta-gradients of blocking losses at the fast weights, with respect to published weights.

Each method maps an :class:`~.episode.Episode` to a :class:`~.episode.MetaGradient`. All return gradients, not graphs,
so their memory is free before the desired task's backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .adjoint import exact
from .course import course_of
from .episode import Episode, MetaGradient
from .flat_episode import FlatEpisode

META_GRADIENTS = ("exact", "unrolled", "first_order")


def unrolled(episode: Episode) -> MetaGradient:
    """Compute exact gradients by autograd through all K steps; memory grows with K. A slow reference for ``exact``.

    Args:
        episode: The simulated fine-tuning; its losses must be twice differentiable.

    Returns:
        Exact gradients for the published weights and, for a learning adversary, for its own weights.

    Raises:
        ValueError: Several processes share the episode: autograd does not cross their communication. Or the episode
            runs in place: the live modules hold the weights of one step only.
    """
    if episode.held is not None:
        raise ValueError(
            "meta_gradient='unrolled' does not run in place; use 'exact', which computes the same gradient."
        )
    if episode.ranks.size > 1:
        raise ValueError(
            f"meta_gradient='unrolled' works in a single process, got {episode.ranks.size}; use 'exact', which "
            "computes the same gradient."
        )
    course = FlatEpisode(episode)
    leaves = [value.requires_grad_() for value in course.start()]
    x, f = leaves
    rate = torch.tensor(episode.learning_rate, dtype=x.dtype, device=x.device, requires_grad=True)
    state = course.state(x)
    blocked = adversarial = torch.zeros_like(rate)
    for k, share in enumerate(episode.shares):
        weights = course.weights(x, f)
        if share is not None:
            reading = course.read(k, weights)
            blocked, adversarial = blocked + share * reading.loss, adversarial + abs(share) * reading.objective
        if k < episode.steps:
            (g,) = _gradients(episode.inner_losses[k](weights), [x], graph=True)
            x, state = episode.optimizer.update(x, g, state, course.number(k), rate)
    course.end(x, state)
    learns = episode.learns or episode.learns_rate
    toward = _gradients(blocked, leaves, graph=learns)
    own = _gradients(adversarial, [*leaves, rate]) if learns else None
    return course.result(torch.cat(toward).detach(), torch.cat(own[:2]) if own else None, own[2] if own else None)


def first_order(episode: Episode) -> MetaGradient:
    """Apply the gradients at theta_k to theta_0 (FOMAML, SOPHON, TAR); memory is independent of K.

    The Jacobian of theta_k with respect to theta_0 is approximated by the identity. For the gradient of the learning
    rate, theta_k is ``theta_0 - rate * (sum of the update directions)`` with constant directions.

    Args:
        episode: The simulated fine-tuning; any attention kernel works.

    Returns:
        Approximate gradients, exact in the limit of a zero learning rate.
    """
    course = course_of(episode)
    x, f = course.start()
    start, state = x.clone() if episode.learns_rate else x, course.state(x)
    g, slope = torch.empty_like(x), x.new_zeros(())
    sums = [course.zeros(x, f) for _ in range(2 if episode.learns or episode.learns_rate else 1)]
    for k in range(episode.steps + 1):
        before = sums[-1][: course.size].clone() if episode.learns_rate else g
        course.measure(k, x, f, sums)
        if episode.learns_rate:
            slope += torch.dot(sums[-1][: course.size] - before, x - start) / episode.learning_rate
        if k < episode.steps:
            course.inner_gradient(k, x, f, out=g)
            course.advance(k, x, g, state)
    course.end(x, state)
    return course.result(sums[0], sums[1] if len(sums) > 1 else None, slope)


def method(name: str, **options: Any) -> Callable[[Episode], MetaGradient]:
    """Return the method named by ``meta_gradient=``: ``unrolled``, ``exact`` (with its options) or ``first_order``."""
    if name == "exact":
        return lambda episode: exact(episode, **options)
    return {"unrolled": unrolled, "first_order": first_order}[name]


def _gradients(loss: Tensor, inputs: list[Tensor], *, graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(loss, inputs, create_graph=graph, allow_unused=True, materialize_grads=True)
    return list(found)
