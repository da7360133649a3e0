"""One simulated fine-tuning as a mathematical object: what moves, by which losses, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..adversaries.optimizer import InnerOptimizer
from ..models.distributed import ALONE, Processes
from ..models.functional import Weights


@dataclass(frozen=True)
class Reading:
    """What is measured at one theta_k, on blocked rows that no adversary trains on.

    Attributes:
        loss: Blocking loss, a scalar with its graph.
        objective: The blocked task's loss, with its graph: what the adversary itself minimises.
        score: The blocked task's score.
    """

    loss: Tensor
    objective: Tensor
    score: float


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
        carries: Whether the fast weights at the end are wanted.
        ranks: The processes that share it. Each one's inner losses are its part of a sum, and each one's readings are
            the whole's with the graph of its own rows.

    Raises:
        ValueError: The numbers of steps and shares do not fit, or an optimizer that needs the whole gradient is asked
            to work on pieces.
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
    carries: bool = False
    ranks: Processes = ALONE

    def __post_init__(self) -> None:
        """Check the lengths against each other."""
        if len(self.shares) != len(self.inner_losses) + 1:
            raise ValueError(f"{len(self.inner_losses)} inner steps need one more share, got {len(self.shares)}.")
        if self.ranks.sharded and not self.optimizer.elementwise:
            raise ValueError(
                f"{self.optimizer} needs the whole gradient, of which each process has a piece; use another one."
            )

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
        own: Gradient of the adversary's objective (the weighted blocked loss, every weight taken as
            positive) with respect to its own weights, by name; empty unless it learns.
        learning_rate: The same for its rate, or ``None``.
        losses: Blocking loss at theta_0 .. theta_K, where measured, by k.
        scores: The blocked task's score there.
        hvp_error: Estimated relative error of Hessian-vector products by finite differences (the largest of
            the episode), or ``None``.
        fast: The weights that moved, as they were after the last inner step; empty unless asked for.
    """

    loss: float
    weights: Weights
    own: Weights
    learning_rate: float | None
    losses: dict[int, float]
    scores: dict[int, float]
    hvp_error: float | None = None
    fast: Weights = field(default_factory=dict)
