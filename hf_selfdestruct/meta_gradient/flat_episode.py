"""An episode on flat vectors: leaves for differentiation, and gradients accumulated in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..adversaries.optimizer import State
from ..models.functional import Layout, Weights, whole
from .episode import Episode, MetaGradient, Reading

Place = tuple[int, Tensor, State, Tensor]  # of a trajectory: k, theta_k, the optimizer's state and the inner gradient


@dataclass
class FlatEpisode:
    """An episode on flat vectors.

    Vector ``x`` contains the trained weights, and ``f`` the fixed weights whose gradient is requested. A gradient with
    respect to both is one vector, with the part of ``x`` first. If several processes share the episode, a gradient is
    the sum over processes, and each process may store only its shard of every vector (see
    :class:`distributed.Processes`).

    Args:
        episode: The episode.

    Attributes:
        moving: Layout of ``x``.
        fixed: Layout of ``f``.
        count: Number of trained weights, in all processes together.
    """

    episode: Episode
    moving: Layout = field(init=False)
    fixed: Layout = field(init=False)
    count: int = field(init=False)

    def __post_init__(self) -> None:
        """Sort the weights into trained, fixed with a gradient, and constant."""
        episode, self.ranks = self.episode, self.episode.ranks
        self._start = {**episode.published, **episode.own}
        asked = {*episode.names(), *episode.own} - episode.moving
        self.moving = Layout({n: w for n, w in self._start.items() if n in episode.moving})
        self.count = self.moving.total
        self.fixed = Layout({n: w for n, w in self._start.items() if n in asked})
        self._constant = {n: whole(w.detach()) for n, w in self._start.items() if n not in asked | episode.moving}
        kind = next(iter(self._start.values()))
        self._like = torch.empty(0, dtype=kind.dtype, device=kind.device)
        self._losses: dict[int, Tensor] = {}
        self._scores: dict[int, float] = {}
        self._fast: Weights = {}
        self._moments: dict[str, Weights] = {}

    @property
    def size(self) -> int:
        """Length of ``x``."""
        return self.ranks.length(self.moving.total)

    def start(self) -> tuple[Tensor, Tensor]:
        """Return new vectors ``x``, at theta_0, and ``f``."""
        x, f = (layout.flatten(self._start, like=self._like) for layout in (self.moving, self.fixed))
        return self.ranks.piece(x), self.ranks.piece(f)

    def state(self, x: Tensor) -> State:
        """Return the optimizer's state before the first step, in new vectors."""
        state = self.episode.optimizer.init(x)
        for name in state.keys() & self.episode.moments.keys():
            stored = self.episode.moments[name]
            parts = [stored[n] if n in stored else torch.zeros_like(self._start[n]) for n in self.moving.shapes]
            flat = self.moving.flatten(dict(zip(self.moving.shapes, parts, strict=True)), like=self._like)
            state[name] = self.ranks.piece(flat)
        return state

    def advance(self, k: int, x: Tensor, g: Tensor, state: State) -> None:
        """Take inner step k in place."""
        episode = self.episode
        episode.optimizer.advance_(x, g, state, self.number(k), episode.learning_rate)

    def number(self, k: int) -> int:
        """Return the number of inner step k among all the steps of its optimizer, from 1."""
        return self.episode.taken + k + 1

    def zeros(self, x: Tensor, f: Tensor) -> Tensor:
        """Return a zero gradient."""
        return x.new_zeros(len(x) + len(f))

    def empty(self, x: Tensor, f: Tensor) -> Tensor:
        """Return memory for a gradient."""
        return x.new_empty(len(x) + len(f))

    def weights(self, x: Tensor, f: Tensor) -> Weights:
        """Return all weights by name, differentiable with respect to the vectors."""
        return {**self._constant, **self._split(self.moving, x), **self._split(self.fixed, f)}

    def leaves(self, x: Tensor, f: Tensor, *, fixed: bool = True) -> tuple[Weights, list[Tensor]]:
        """Return all weights by name, and the leaves among them, in the order of a gradient.

        Leaves share the vectors' memory; change a vector in place only after differentiating.
        """
        moving = {n: w.detach().requires_grad_() for n, w in self._split(self.moving, x).items()}
        others = {n: w.detach().requires_grad_(fixed) for n, w in self._split(self.fixed, f).items()}
        return {**self._constant, **moving, **others}, [*moving.values(), *(others.values() if fixed else ())]

    def inner_gradient(self, k: int, x: Tensor, f: Tensor, *, out: Tensor) -> Tensor:
        """Write the gradient of inner step k's loss to ``out``; the length of ``out`` selects ``x`` or both vectors."""
        weights, leaves = self.leaves(x, f, fixed=len(out) > len(x))
        self._write(out, grad([self.episode.inner_losses[k](weights)], leaves))
        return out

    def add_hessian_products(
        self, k: int, x: Tensor, f: Tensor, vectors: Sequence[Tensor], sums: Sequence[Tensor]
    ) -> None:
        """Add the gradient of ``<inner gradient for x, v>`` with respect to both vectors to each sum, v its vector."""
        weights, leaves = self.leaves(x, f)
        inner = grad([self.episode.inner_losses[k](weights)], leaves[: len(self.moving.sizes)], graph=True)
        used = [i for i, g in enumerate(inner) if g is not None and g.requires_grad]
        outputs = [g for g in (inner[i] for i in used) if g is not None]
        for number, (vector, total) in enumerate(zip(vectors, sums, strict=True), start=1):
            along = [*self._split(self.moving, vector).values()]
            found = grad(outputs, leaves, along=[along[i] for i in used], keep=number < len(vectors))
            self._add(total, found, 1.0)

    def read(self, k: int, weights: Weights) -> Reading:
        """Measure at theta_k and store the readings."""
        reading = self.episode.measure(weights)
        self._losses[k], self._scores[k] = reading.loss.detach(), reading.score
        return reading

    def measure(self, k: int, x: Tensor, f: Tensor, sums: Sequence[Tensor]) -> None:
        """Measure at theta_k and add the weighted gradients of the blocking loss and, if requested, the objective."""
        share = self.episode.shares[k]
        if share is None:
            return
        weights, leaves = self.leaves(x, f)
        reading = self.read(k, weights)
        for total, value, factor in zip(sums, (reading.loss, reading.objective), (share, abs(share)), strict=False):
            if factor:
                self._add(total, grad([value], leaves, keep=value is reading.loss and len(sums) > 1), factor)

    def end(self, x: Tensor, state: State) -> None:
        """Copy the fast weights and the moments after the last inner step, if requested; both may change afterwards."""
        if self.episode.stores:
            self._fast = self._split(self.moving, x.detach().clone())
            self._moments = {n: self._split(self.moving, value.detach().clone()) for n, value in state.items()}

    def result(
        self, blocked: Tensor, own: Tensor | None, rate: Tensor | None, hvp_error: float | None = None
    ) -> MetaGradient:
        """Return the gradients by name.

        Args:
            blocked: Gradient of the blocking loss.
            own: Gradient of the adversary's objective.
            rate: Gradient of the adversary's objective with respect to its learning rate.
            hvp_error: See :class:`MetaGradient`.
        """
        episode = self.episode
        losses = {k: self._losses[k].item() for k in sorted(self._losses)}
        toward, theirs = self._named(blocked), self._named(own) if own is not None else {}
        return MetaGradient(
            loss=sum((episode.shares[k] or 0.0) * value for k, value in losses.items()),
            weights={n: toward[n] for n in episode.names()},
            own={n: theirs[n] for n in episode.own} if episode.learns else {},
            learning_rate=self.ranks.total(rate).item() if rate is not None and episode.learns_rate else None,
            losses=losses,
            scores={k: self._scores[k] for k in losses},
            hvp_error=hvp_error,
            fast=self._fast,
            moments=self._moments,
        )

    def _split(self, layout: Layout, vector: Tensor) -> Weights:
        return layout.split(self.ranks.full(vector, layout.total))

    def _named(self, gradient: Tensor) -> Weights:
        x, f = gradient[: self.size], gradient[self.size :]
        return {**self._split(self.moving, x), **self._split(self.fixed, f)}

    def _parts(self, gradient: Tensor) -> list[Tensor]:
        """Split a whole gradient by weights; it may cover ``x`` alone."""
        x, f = gradient[: self.moving.total], gradient[self.moving.total :]
        return [*self.moving.split(x).values(), *(self.fixed.split(f).values() if len(f) else ())]

    def _together(self, found: Sequence[Tensor | None]) -> Tensor:
        """Sum the gradients of all processes, and return this process's part."""
        count, sums = len(self.moving.sizes), []
        for layout, values in ((self.moving, found[:count]), (self.fixed, found[count:])):
            if values:
                window = partial(layout.window, values, like=self._like)
                sums.append(self.ranks.summed(window, layout.total))
        return torch.cat(sums)

    def _write(self, gradient: Tensor, found: Sequence[Tensor | None]) -> None:
        if self.ranks.size > 1:
            gradient.copy_(self._together(found))
            return
        parts = self._parts(gradient)
        for part, value in zip(parts, found, strict=True):
            if value is None:
                part.zero_()
        pairs = [(p, v) for p, v in zip(parts, found, strict=True) if v is not None]
        torch._foreach_copy_([p for p, _ in pairs], [v for _, v in pairs])

    def _add(self, gradient: Tensor, found: Sequence[Tensor | None], factor: float) -> None:
        if self.ranks.size > 1:
            gradient.add_(self._together(found), alpha=factor)
            return
        pairs = [(p, v) for p, v in zip(self._parts(gradient), found, strict=True) if v is not None]
        torch._foreach_add_([p for p, _ in pairs], [v for _, v in pairs], alpha=factor)


def grad(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    *,
    along: Sequence[Tensor] | None = None,
    keep: bool = False,
    graph: bool = False,
) -> list[Tensor | None]:
    """As ``torch.autograd.grad``, but return ``None`` for unused inputs and for outputs without a graph."""
    if not inputs or not any(output.requires_grad for output in outputs):
        return [None] * len(inputs)
    found = torch.autograd.grad(
        outputs, inputs, grad_outputs=along, retain_graph=keep or graph, create_graph=graph, allow_unused=True
    )
    return list(found)
