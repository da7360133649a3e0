"""Does a step against the meta-gradient reduce the blocking loss as much as the meta-gradient predicts?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..models.functional import norm_of
from .episode import Episode, MetaGradient
from .methods import first_order


def reduction_ratio(way: Callable[[Episode], MetaGradient], episode: Episode, *, length: float = 1e-3) -> float:
    """Compute the actual over the predicted reduction of the blocking loss, as trust-region methods do.

    The published weights take a step of ``length`` times their norm against the meta-gradient, and the adversary's K
    inner steps are simulated again from there. A gradient through many inner steps can be exact and yet predict little
    of what a step does, where the loss is rough (see metasmoothness in 2503.13751, which is defined otherwise); one of
    first order leaves parts out, and its ratio differs from 1 on smooth losses too.

    Args:
        way: What computes the meta-gradient (see :func:`~hf_selfdestruct.meta_gradient.methods.method`).
        episode: The simulated fine-tuning, on whole weights.
        length: Length of the step, relative to the norm of the published weights.

    Returns:
        1 where the loss falls as predicted; 0 where the step changes nothing; below 0 where the loss grows.

    Raises:
        ValueError: Each process has only shards of the weights, the meta-gradient is 0, or ``length`` is not positive.

    Example:
        ```python
        draw = trainer.objective.simulator.draw(0)
        episode = trainer.objective.simulator.builder(trainer.model, draw).episode()
        reduction_ratio(method("first_order"), episode)
        ```
    """
    if episode.ranks.sharded:
        raise ValueError("reduction_ratio needs whole weights, and each process has only shards: launch without FSDP.")
    if length <= 0:
        raise ValueError(f"length must be above 0; got {length!r}.")
    found = way(episode)
    slope = norm_of(found.weights.values()).item()
    if slope == 0:
        raise ValueError("the meta-gradient is 0: no step lowers the blocking loss.")
    step = length * norm_of(episode.published.values()).item()
    moved = {n: episode.published[n].detach() - step / slope * g for n, g in found.weights.items()}
    there = replace(episode, published={**episode.published, **moved}, learns=False, learns_rate=False)
    return (found.loss - first_order(there).loss) / (step * slope)
