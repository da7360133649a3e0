"""One simulated fine-tuning as a mathematical object: what moves, by which losses, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .functional import Layout, Weights
from .inner_optimizer import InnerOptimizer


@dataclass(frozen=True)
class Reading:
    """What is measured at one theta_k, on blocked rows that no adversary trains on.

    Attributes:
        loss: Blocking loss, a scalar with its graph.
        entropy: Cross-entropy of the blocked task, with its graph: what the adversary itself minimises.
        accuracy: Blocked accuracy.
    """

    loss: Tensor
    entropy: Tensor
    accuracy: float


@dataclass(frozen=True)
class Episode:
    """One simulated fine-tuning of K inner steps, start to end.

    Args:
        published: Weights of the model that the adversary starts from, by name.
        own: The adversary's own weights (its head, its adapters), by name; no name of ``published``.
        moving: Names the adversary trains; the others stay where they are.
        inner_losses: K functions from weights to the scalar that each inner step descends.
        measure: From weights to a :class:`Reading`.
        shares: K+1 weights of the blocking losses at theta_0 .. theta_K; ``None`` where nothing is measured.
        optimizer: Inner optimizer.
        learning_rate: Its rate.
        learns: Whether gradients for ``own`` are wanted.
        learns_rate: Whether a gradient for the rate is wanted.
        wanted: Names of published weights whose meta-gradient is wanted; all by default.
    """

    published: Weights
    own: Weights
    moving: frozenset[str]
    inner_losses: Sequence[Callable[[Weights], Tensor]]
    measure: Callable[[Weights], Reading]
    shares: Sequence[float | None]
    optimizer: InnerOptimizer
    learning_rate: float
    learns: bool = False
    learns_rate: bool = False
    wanted: frozenset[str] | None = None

    def __post_init__(self) -> None:
        """Check the lengths against each other."""
        if len(self.shares) != len(self.inner_losses) + 1:
            raise ValueError(f"{len(self.inner_losses)} inner steps need one more share, got {len(self.shares)}.")

    @property
    def steps(self) -> int:
        """K."""
        return len(self.inner_losses)

    def names(self) -> list[str]:
        """Names of published weights whose meta-gradient is wanted."""
        return [n for n in self.published if self.wanted is None or n in self.wanted]


@dataclass(frozen=True)
class MetaGradient:
    """What an episode gave.

    Attributes:
        loss: Weighted blocking loss.
        weights: Its gradient with respect to the published weights, by name.
        own: Gradient of the adversary's objective (the weighted blocked cross-entropy, every weight taken as
            positive) with respect to its own weights, by name; empty unless it learns.
        learning_rate: The same for its rate, or ``None``.
        losses: Blocking loss at theta_0 .. theta_K, where measured, by k.
        accuracies: Blocked accuracy there.
        hvp_error: Estimated relative error of Hessian-vector products by finite differences (the largest of
            the episode), or ``None``.
    """

    loss: float
    weights: Weights
    own: Weights
    learning_rate: float | None
    losses: dict[int, float]
    accuracies: dict[int, float]
    hvp_error: float | None = None


@dataclass
class Course:
    """An episode on flat vectors: ``x``, the weights that move, and ``f``, those that do not but are asked about.

    Args:
        episode: The episode.
    """

    episode: Episode
    moving: Layout = field(init=False)
    fixed: Layout = field(init=False)
    losses: dict[int, Tensor] = field(init=False, default_factory=dict)
    accuracies: dict[int, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Sort the weights into those that move, those asked about, and constants."""
        episode = self.episode
        start = {**episode.published, **episode.own}
        asked = {*episode.names(), *episode.own}
        self.moving = Layout({n: w for n, w in start.items() if n in episode.moving})
        self.fixed = Layout({n: w for n, w in start.items() if n in asked and n not in episode.moving})
        rest = {n: w.detach() for n, w in start.items() if n not in asked and n not in episode.moving}
        self._constant = rest

    def start(self) -> tuple[Tensor, Tensor]:
        """New vectors ``x`` at theta_0, and ``f``."""
        start = {**self.episode.published, **self.episode.own}
        like = next(iter(start.values())).detach()
        return self.moving.flatten(start, like=like), self.fixed.flatten(start, like=like)

    def weights(self, x: Tensor, f: Tensor) -> Weights:
        """All weights by name."""
        return {**self._constant, **self.moving.split(x), **self.fixed.split(f)}

    def inner_gradient(self, k: int, x: Tensor, f: Tensor) -> Tensor:
        """Gradient of inner step k's loss with respect to ``x``, without graph."""
        leaf = x.detach().requires_grad_()
        return gradients(self.episode.inner_losses[k](self.weights(leaf, f.detach())), [leaf])[0]

    def read(self, k: int, weights: Weights) -> Reading:
        """Measure at theta_k and keep the readings."""
        reading = self.episode.measure(weights)
        self.losses[k], self.accuracies[k] = reading.loss.detach(), reading.accuracy
        return reading

    def measured(self, k: int, x: Tensor, f: Tensor, objectives: int) -> list[tuple[Tensor, Tensor]]:
        """Gradients at theta_k, each as ``(for x, for f)``: of the blocking loss and, if asked, the entropy."""
        share = self.episode.shares[k] or 0.0
        leaves = [x.detach().requires_grad_(), f.detach().requires_grad_()]
        reading = self.read(k, self.weights(*leaves))
        if share == 0:
            return [(torch.zeros_like(x), torch.zeros_like(f)) for _ in range(objectives)]
        found: list[tuple[Tensor, Tensor]] = []
        for value, factor in ((reading.loss, share), (reading.entropy, abs(share)))[:objectives]:
            gx, gf = gradients(value, leaves, keep=len(found) + 1 < objectives)
            found.append((gx.mul_(factor), gf.mul_(factor)))
        return found

    def result(
        self,
        blocked: tuple[Tensor, Tensor],
        own: tuple[Tensor, Tensor] | None,
        rate: Tensor | None,
        hvp_error: float | None = None,
    ) -> MetaGradient:
        """Name the gradients.

        Args:
            blocked: Of the blocking loss, for ``x`` and ``f``.
            own: Of the adversary's objective, likewise.
            rate: Of the adversary's objective, for its rate.
            hvp_error: See :class:`MetaGradient`.
        """
        episode = self.episode
        toward = {**self.moving.split(blocked[0]), **self.fixed.split(blocked[1])}
        theirs = {**self.moving.split(own[0]), **self.fixed.split(own[1])} if own else {}
        losses = {k: self.losses[k].item() for k in sorted(self.losses)}
        return MetaGradient(
            loss=sum((episode.shares[k] or 0.0) * value for k, value in losses.items()),
            weights={n: toward[n] for n in episode.names()},
            own={n: theirs[n] for n in episode.own} if episode.learns else {},
            learning_rate=rate.item() if rate is not None and episode.learns_rate else None,
            losses=losses,
            accuracies={k: self.accuracies[k] for k in losses},
            hvp_error=hvp_error,
        )


def gradients(loss: Tensor, inputs: Sequence[Tensor], *, keep: bool = False, graph: bool = False) -> list[Tensor]:
    """``torch.autograd.grad`` with zeros for what takes no part; empty tensors take none."""
    return list(
        torch.autograd.grad(
            loss, inputs, retain_graph=keep or graph, create_graph=graph, allow_unused=True, materialize_grads=True
        )
    )
