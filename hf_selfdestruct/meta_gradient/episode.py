"""One simulated fine-tuning as a mathematical object: trained weights, inner losses, and measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from torch import Tensor

from ..adversaries.optimizer import InnerOptimizer
from ..models.distributed import ALONE, Processes
from ..models.functional import Weights, norm_of

Held = Callable[[Weights, int | None], AbstractContextManager[None]]


@dataclass(frozen=True)
class Reading:
    """Measurements at one theta_k, on blocked rows that no adversary trains on.

    Attributes:
        loss: Blocking loss, a scalar with its graph.
        objective: The blocked task's loss, with its graph: the adversary's own objective.
        score: The blocked task's score.
    """

    loss: Tensor
    objective: Tensor
    score: float


@dataclass(frozen=True)
class Episode:
    """One simulated fine-tuning of K inner steps.

    Args:
        published: Weights of the model that the adversary starts from, by name.
        own: The adversary's own weights (head, adapters), by name; the names differ from those in ``published``.
        moving: Names of the weights that the adversary trains; the others are constant.
        inner_losses: K functions from weights to the loss of each inner step.
        measure: Function from weights to a :class:`Reading`.
        shares: K+1 weights of the blocking losses at theta_0 .. theta_K; ``None`` at steps without a measurement.
        optimizer: Inner optimizer.
        learning_rate: Inner learning rate.
        learns: Whether to compute gradients for ``own``.
        learns_rate: Whether to compute a gradient for the learning rate.
        wanted: Names of published weights to compute the meta-gradient for; by default all.
        moments: The optimizer's moments before the first step, by the moment's name and then by weight; where one is
            missing it is 0. Like the weights that an adversary starts from, they are constants to a gradient.
        taken: Number of steps the optimizer has taken before the first step.
        stores: Whether to return the fast weights and the moments after the last inner step.
        ranks: The processes that share the episode. The inner losses of each process are its part of a sum; the
            readings of each process are those of all rows, with the graph of its own rows.
        held: Function from weights and the number of the inner step, or ``None`` for a measurement, to the context in
            which the live model's modules have these weights; if given, the episode runs in place.
        live: The live parameters by name, if they are sharded and the episode runs in place.

    Raises:
        ValueError: The numbers of steps and shares do not match, or the optimizer needs whole weights but each process
            has only a shard.
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
    moments: Mapping[str, Weights] = field(default_factory=dict)
    taken: int = 0
    stores: bool = False
    ranks: Processes = ALONE
    held: Held | None = None
    live: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the lengths against each other."""
        if len(self.shares) != len(self.inner_losses) + 1:
            raise ValueError(
                f"{len(self.inner_losses)} inner steps need {len(self.inner_losses) + 1} shares, got "
                f"{len(self.shares)}."
            )
        if self.ranks.sharded and not self.optimizer.elementwise:
            raise ValueError(
                f"{self.optimizer} needs the whole gradient, but each process has only a shard; use an elementwise "
                "optimizer."
            )

    @property
    def steps(self) -> int:
        """The number of inner steps, K."""
        return len(self.inner_losses)

    def names(self) -> list[str]:
        """Return the names of published weights to compute the meta-gradient for."""
        return [n for n in self.published if self.wanted is None or n in self.wanted]


@dataclass(frozen=True)
class MetaGradient:
    """The result of an episode.

    Attributes:
        loss: Weighted blocking loss.
        weights: Gradient of ``loss`` with respect to the published weights, by name.
        own: Gradient of the adversary's objective (the blocked task's loss, weighted by absolute values) with respect
            to its own weights, by name; empty unless the adversary learns.
        learning_rate: Gradient of the adversary's objective with respect to its learning rate, or ``None``.
        losses: Blocking loss at the measured steps of theta_0 .. theta_K, by k.
        scores: The blocked task's score at the same steps.
        hvp_error: Largest estimated relative error of Hessian-vector products by finite differences, or ``None``.
        fast: Fast weights after the last inner step; empty unless requested.
        moments: The optimizer's moments then, by the moment's name and by weight; likewise.
    """

    loss: float
    weights: Weights
    own: Weights
    learning_rate: float | None
    losses: dict[int, float]
    scores: dict[int, float]
    hvp_error: float | None = None
    fast: Weights = field(default_factory=dict)
    moments: dict[str, Weights] = field(default_factory=dict)

    def finite(self) -> bool:
        """Whether an episode ended well: its loss, its meta-gradient and its fast weights are finite."""
        norm = norm_of([*self.weights.values(), *self.fast.values()]).item()
        return math.isfinite(self.loss) and math.isfinite(norm)
