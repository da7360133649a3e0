"""Ways to a meta-gradient: of blocking losses at the fast weights, with respect to published weights.

An :class:`Episode` says what one adversary does; each way turns it into a :class:`MetaGradient`.
Both return gradients, not graphs, so that memory is free again before the desired task's backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .functional import InnerOptimizer, State, Weights

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Episode:
    """One simulated fine-tuning, start to end.

    Args:
        forward: ``(weights, batch) -> logits``, shape ``(batch, classes)``.
        published: Weights of the model that the adversary starts from, by name.
        head: The adversary's own head, by name; empty where it keeps the published head.
        moving: Names the adversary trains; the others stay where they are.
        batches: K blocked batches with ``labels``.
        held_out: The blocked batch on which losses are measured; no adversary trains on it.
        loss: Blocking loss, ``(logits, labels) -> scalar``.
        step_weights: K+1 weights of the losses at theta_0 .. theta_K.
        optimizer: Inner optimizer.
        learning_rate: Scalar tensor.
        learns_rate: Whether a gradient for the rate is wanted.
        wanted: Names of published weights whose meta-gradient is wanted; all by default.
    """

    forward: Callable[[Weights, Batch], Tensor]
    published: Weights
    head: Weights
    moving: frozenset[str]
    batches: Sequence[Batch]
    held_out: Batch
    loss: Callable[[Tensor, Tensor], Tensor]
    step_weights: Sequence[float]
    optimizer: InnerOptimizer
    learning_rate: Tensor
    learns_rate: bool = False
    wanted: frozenset[str] | None = None

    def names(self) -> list[str]:
        """Names of published weights whose meta-gradient is wanted."""
        return [n for n in self.published if self.wanted is None or n in self.wanted]


@dataclass(frozen=True)
class MetaGradient:
    """What an episode gave.

    Attributes:
        loss: Weighted blocking loss, a scalar without graph.
        weights: Its gradient with respect to the published weights, by name.
        head: Gradient of the adversary's objective (the weighted blocked cross-entropy) with respect to
            its head, by name.
        learning_rate: The same for its rate, or ``None``.
        losses: Blocking loss at theta_0 .. theta_K.
        accuracies: Held-out blocked accuracy at theta_0 .. theta_K.
    """

    loss: Tensor
    weights: Weights
    head: Weights
    learning_rate: Tensor | None
    losses: list[float]
    accuracies: list[float]


@dataclass
class _Trace:
    """Per-step readings on the held-out batch."""

    losses: list[Tensor] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def read(self, episode: Episode, weights: Weights) -> tuple[Tensor, Tensor]:
        """Blocking loss and cross-entropy at ``weights``, both with their graph."""
        labels = episode.held_out["labels"]
        logits = episode.forward(weights, episode.held_out)
        loss = episode.loss(logits, labels)
        self.losses.append(loss.detach())
        self.accuracies.append((logits.argmax(dim=-1) == labels).float().mean().item())
        return loss, cross_entropy(logits, labels)

    def result(self, episode: Episode, weights: Weights, head: Weights, learning_rate: Tensor | None) -> MetaGradient:
        total = sum(w * v for w, v in zip(episode.step_weights, self.losses, strict=True))
        values = [value.item() for value in self.losses]
        return MetaGradient(torch.as_tensor(total), weights, head, learning_rate, values, self.accuracies)


def unrolled(episode: Episode) -> MetaGradient:
    """Exact gradients by plain autograd through all K steps; memory grows with K.

    Args:
        episode: The simulated fine-tuning; its forward must be twice differentiable.

    Returns:
        Exact gradients for the weights, the adversary's head and its rate.
    """
    published, head, rate = _leaves(episode)
    weights = {**published, **head}
    state = episode.optimizer.init([weights[n] for n in weights if n in episode.moving])
    trace = _Trace()
    blocked = adversarial = torch.zeros((), dtype=rate.dtype, device=rate.device)
    for k, share in enumerate(episode.step_weights):
        loss, entropy = trace.read(episode, weights)
        blocked, adversarial = blocked + share * loss, adversarial + share * entropy
        if k < len(episode.batches):
            weights, state = _inner_step(episode, weights, state, episode.batches[k], rate, graph=True)
    names = episode.names()
    own = [*head.values(), *([rate] if episode.learns_rate else [])]
    gradients = _gradients(blocked, [published[n] for n in names], keep=bool(own))
    answers = _gradients(adversarial, own) if own else []
    return trace.result(
        episode,
        dict(zip(names, gradients, strict=True)),
        dict(zip(head, answers, strict=False)),
        answers[-1] if episode.learns_rate else None,
    )


def first_order(episode: Episode) -> MetaGradient:
    """Gradients at theta_k applied to theta_0 (FOMAML, SOPHON, TAR); memory flat in K.

    The Jacobian of theta_k with respect to theta_0 is taken as the identity. For the rate, theta_k is
    taken as ``theta_0 - rate * (sum of the update directions)`` with the directions held constant.

    Args:
        episode: The simulated fine-tuning; any attention kernel will do.

    Returns:
        Approximate gradients; exact as the inner rate goes to 0.
    """
    start = {**episode.published, **episode.head}
    weights = {name: value.detach() for name, value in start.items()}
    state = episode.optimizer.init([weights[n] for n in weights if n in episode.moving])
    trace = _Trace()
    sums = {n: torch.zeros_like(start[n]) for n in episode.names()}
    answers = {n: torch.zeros_like(value) for n, value in episode.head.items()}
    slope = torch.zeros_like(episode.learning_rate) if episode.learns_rate else None
    for k, share in enumerate(episode.step_weights):
        leaves = {name: value.requires_grad_() for name, value in weights.items()}
        loss, entropy = trace.read(episode, leaves)
        own = list(leaves if slope is not None else episode.head)
        found = _gradients(loss, [leaves[n] for n in sums], keep=bool(own))
        torch._foreach_add_(list(sums.values()), found, alpha=share)
        if own:
            toward = dict(zip(own, _gradients(entropy, [leaves[n] for n in own]), strict=True))
            for n in answers:
                answers[n] += share * toward[n]
            if slope is not None:
                moved = sum((toward[n] * (weights[n] - start[n])).sum() for n in episode.moving)
                slope += share * torch.as_tensor(moved).detach() / episode.learning_rate
        if k < len(episode.batches):
            rate = episode.learning_rate.detach()
            weights, state = _inner_step(episode, leaves, state, episode.batches[k], rate, graph=False)
    return trace.result(episode, sums, answers, slope)


MODES: dict[str, Callable[[Episode], MetaGradient]] = {"unrolled": unrolled, "first_order": first_order}


def _leaves(episode: Episode) -> tuple[Weights, Weights, Tensor]:
    def leaf(value: Tensor) -> Tensor:
        return value.detach().clone().requires_grad_()

    published = {name: leaf(value) for name, value in episode.published.items()}
    head = {name: leaf(value) for name, value in episode.head.items()}
    return published, head, leaf(episode.learning_rate)


def _inner_step(
    episode: Episode, weights: Weights, state: State, batch: Batch, rate: Tensor, *, graph: bool
) -> tuple[Weights, State]:
    """One step of the adversary: ``graph=True`` keeps the way back to where it started."""
    names = [n for n in weights if n in episode.moving]
    values = [weights[n] for n in names]
    loss = cross_entropy(episode.forward(weights, batch), batch["labels"])
    gradients = torch.autograd.grad(loss, values, create_graph=graph, allow_unused=True, materialize_grads=True)
    with torch.set_grad_enabled(graph):
        moved, state = episode.optimizer.update(values, list(gradients), state, rate)
    after = weights if graph else {name: value.detach() for name, value in weights.items()}
    return {**after, **dict(zip(names, moved, strict=True))}, state


def _gradients(loss: Tensor, inputs: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
    if not inputs:
        return []
    return list(torch.autograd.grad(loss, inputs, retain_graph=keep, allow_unused=True, materialize_grads=True))
