"""An episode in the live model's own sharded weights, which FSDP gathers for one layer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..models.distributed import Processes
from ..models.functional import Weights, local
from .episode import MetaGradient
from .in_place_episode import InPlaceEpisode


@dataclass(frozen=True)
class Shards(Processes):
    """Processes whose vectors consist of their shards of each weight, instead of a piece of one long vector."""

    def length(self, total: int) -> int:  # noqa: D102
        return total

    def piece(self, full: Tensor) -> Tensor:  # noqa: D102
        return full

    def full(self, piece: Tensor, total: int) -> Tensor:  # noqa: D102
        return piece


@dataclass
class ShardedEpisode(InPlaceEpisode):
    """An episode whose weights the shards of the live parameters hold during each forward and backward pass.

    The vectors consist of this process's shards. Before a pass, those of ``x`` are written to the shards of the live
    parameters; the live model then runs as FSDP2 runs it, gathers one layer at a time, and leaves each process its
    shard of the mean of all gradients. After the pass, and after a loss that fails, the shards, the gradients and their
    places are bitwise what they were. The adversary's own weights (head, adapters) are gathered for the pass.

    Args:
        episode: The episode, with ``live``.
        held: See :class:`Episode`.

    Raises:
        ValueError: The adversary trains a weight that the model does not.
    """

    _everyone: Processes = field(init=False)
    _published: Weights = field(init=False)
    _own: Weights = field(init=False)

    def __post_init__(self) -> None:
        """Replace whole weights by this process's shards."""
        asked, self._everyone = self.episode, self.episode.ranks
        for name, weight in asked.live.items():
            if name in asked.moving and not weight.requires_grad:
                raise ValueError(
                    f"the adversary trains {name}, which is frozen in the model: set requires_grad, leave it out by "
                    "adversary={'trainable': ...}, or set method_options={'episode': 'flat'}."
                )
        self._own = dict(asked.own)
        self.episode = replace(
            asked,
            published=self._shards(asked.published),
            own=self._shards(asked.own),
            moments={kind: self._shards(values) for kind, values in asked.moments.items()},
            ranks=Shards(self._everyone.rank, self._everyone.size, sharded=True),
        )
        super().__post_init__()
        self.count = sum(w.numel() for n, w in {**asked.published, **asked.own}.items() if n in asked.moving)
        here = {name: local(weight.detach()) for name, weight in asked.live.items()}
        # A pool's adversary may start away from the published weights where it does not train, too.
        away = {name for name, shard in here.items() if self._start[name].data_ptr() != shard.data_ptr()}
        self._published = {name: shard.clone() for name, shard in here.items() if name in asked.moving | away}

    def leaves(self, x: Tensor, f: Tensor, *, fixed: bool = True) -> tuple[Weights, list[Tensor]]:
        """Return shards of the published weights and whole own ones, by name, and what gets a gradient for each."""
        moving, others = self.moving.split(x.detach()), {n: self._start[n] for n in self.fixed.shapes}
        found = {**moving, **others}
        for name in self._own:
            if name in found:
                found[name] = self._gathered(name, found[name]).requires_grad_(fixed or name in moving)
        names = [*moving, *(others if fixed else ())]
        return {**self._constant, **found}, [self.episode.live.get(name, found[name]) for name in names]

    @contextmanager
    def holding(self, weights: Weights, k: int | None) -> Iterator[None]:  # noqa: D102
        live = self.episode.live
        gradients = {name: parameter.grad for name, parameter in live.items()}
        try:
            self._write_shards(weights)
            with self.held({n: w for n, w in weights.items() if n not in live}, k):
                yield
        finally:
            self._write_shards(self._published)
            for name, parameter in live.items():
                parameter.grad = gradients[name]

    def result(
        self, blocked: Tensor, own: Tensor | None, rate: Tensor | None, hvp_error: float | None = None
    ) -> MetaGradient:
        """Return the gradients by name: sharded as the live parameters are, and whole for the adversary's own."""
        found = super().result(blocked, own, rate, hvp_error)
        return replace(
            found,
            weights=self._together_again(found.weights),
            own=self._together_again(found.own),
            fast=self._together_again(found.fast),
            moments={kind: self._together_again(values) for kind, values in found.moments.items()},
        )

    def _backward(self, loss: Tensor, leaves: Sequence[Tensor], total: Tensor, *, keep: bool = False) -> None:
        for leaf in [*leaves, *self.episode.live.values()]:
            leaf.grad = None
        if loss.requires_grad:
            loss.backward(retain_graph=keep)
            if not any(leaf.grad is not None for leaf in leaves if isinstance(leaf, DTensor)) and self._published:
                raise ValueError(
                    "FSDP left no gradient of an inner step: call model.set_requires_gradient_sync(True) before it, or "
                    "set sync_each_batch=True where accelerate accumulates gradients."
                )
        for leaf, part in zip(leaves, self._parts(total), strict=True):
            if isinstance(leaf, DTensor):
                if leaf.grad is not None:
                    part.add_(local(leaf.grad), alpha=self._everyone.size)  # FSDP leaves the mean
                continue
            whole = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            dist.all_reduce(whole)
            part.add_(self._everyone.piece(whole.reshape(-1)))

    def _write_shards(self, weights: Mapping[str, Tensor]) -> None:
        for name in self._published:
            local(self.episode.live[name].detach()).copy_(weights[name])

    def _shards(self, weights: Mapping[str, Tensor]) -> Weights:
        return {
            n: local(w.detach()) if isinstance(w, DTensor) else self._everyone.piece(w.detach().reshape(-1))
            for n, w in weights.items()
        }

    def _gathered(self, name: str, piece: Tensor) -> Tensor:
        like = self._own[name]
        return self._everyone.full(piece, like.numel()).view(like.shape)

    def _together_again(self, weights: Weights) -> Weights:
        """Shards as parts of one tensor over all processes, and the adversary's own weights whole."""
        found: Weights = {}
        for name, value in weights.items():
            live = self.episode.live.get(name)
            if isinstance(live, DTensor):
                found[name] = DTensor.from_local(
                    value, live.device_mesh, live.placements, run_check=False, shape=live.shape, stride=live.stride()
                )
            else:
                found[name] = self._gathered(name, value)
        return found
