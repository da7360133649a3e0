"""An episode in the live model's own modules, whose backward passes write gradients to the vectors themselves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.functional import Weights
from .episode import Held
from .flat_episode import FlatEpisode

EPISODES = ("flat", "in_place")


@dataclass
class InPlaceEpisode(FlatEpisode):
    """An episode whose weights the live modules hold during each forward and backward pass.

    The trained weights are views of ``x``, so an optimizer step on ``x`` moves the modules' weights, and their
    gradients are views of the vector that a gradient is added to, so no gradient exists twice. Weights that the
    adversary does not train are the live model's own memory, and the vector ``f`` is empty.

    The passes are ``backward`` passes on leaves of this episode alone: any activation checkpointing works, and no
    gradient or hook of a live parameter takes part.

    Args:
        episode: The episode.
        held: See :class:`Episode`.
    """

    held: Held

    def start(self) -> tuple[Tensor, Tensor]:  # noqa: D102
        x = self.moving.flatten(self._start, like=self._like)
        return x, x.new_empty(0)

    def zeros(self, x: Tensor, f: Tensor) -> Tensor:  # noqa: D102
        return x.new_zeros(len(x) + self.fixed.total)

    def empty(self, x: Tensor, f: Tensor) -> Tensor:  # noqa: D102
        return x.new_empty(len(x) + self.fixed.total)

    def leaves(self, x: Tensor, f: Tensor, *, fixed: bool = True) -> tuple[Weights, list[Tensor]]:  # noqa: D102
        moving = {n: w.detach().requires_grad_() for n, w in self._split(self.moving, x).items()}
        others = {n: self._start[n].detach().requires_grad_(fixed) for n in self.fixed.shapes}
        return {**self._constant, **moving, **others}, [*moving.values(), *(others.values() if fixed else ())]

    def inner_gradient(self, k: int, x: Tensor, f: Tensor, *, out: Tensor) -> Tensor:  # noqa: D102
        weights, leaves = self.leaves(x, f, fixed=len(out) > len(x))
        with self.holding(weights, k):
            self._backward(self.episode.inner_losses[k](weights), leaves, out.zero_())
        return out

    def measure(self, k: int, x: Tensor, f: Tensor, sums: Sequence[Tensor]) -> None:  # noqa: D102
        share = self.episode.shares[k]
        if share is None:
            return
        weights, leaves = self.leaves(x, f)
        with self.holding(weights, None):
            reading = self.read(k, weights)
            for total, value, factor in zip(sums, (reading.loss, reading.objective), (share, abs(share)), strict=False):
                if factor:
                    keep = value is reading.loss and len(sums) > 1
                    self._backward(factor * value, leaves, total, keep=keep)

    def holding(self, weights: Weights, k: int | None) -> AbstractContextManager[None]:
        """Let the live modules hold the weights inside the context (see :class:`Episode`)."""
        return self.held(weights, k)

    def _backward(self, loss: Tensor, leaves: Sequence[Tensor], total: Tensor, *, keep: bool = False) -> None:
        """Add the gradient of a loss to a vector, in its memory."""
        alone = self.ranks.size == 1
        onto = total if alone else torch.zeros_like(total)
        for leaf, part in zip(leaves, self._parts(onto), strict=True):
            leaf.grad = part
        if loss.requires_grad:
            loss.backward(retain_graph=keep)
        if not alone:
            total.add_(self.ranks.summed(lambda start, stop: onto[start:stop], len(onto)))
