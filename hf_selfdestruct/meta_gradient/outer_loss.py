"""The loss of an outer step: the desired loss plus a blocking loss whose gradient is the meta-gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.distributed import sharded_like
from ..models.functional import local, norm_of
from .episode import MetaGradient

STEP_WEIGHTS = ("uniform", "last", "exponential", "drop")


@dataclass(frozen=True)
class MetaLoss:
    """The loss of one outer step.

    Attributes:
        total: ``desired + blocking_weight * blocking``, for a single backward pass.
        terms: Readings by logged name.
    """

    total: Tensor
    terms: dict[str, float]


def step_shares(kind: str, steps: int, every: int = 1) -> list[float | None]:
    """Return the weights of the K+1 blocking losses; the positive ones sum to 1.

    Args:
        kind: ``uniform``, ``last`` (theta_K alone), ``exponential`` (``exp((k - K) / 16)``, TAR's rate) or ``drop``
            (+1 at theta_0, -1 at theta_K: the adversary's gain, Booster).
        steps: K.
        every: Interval between measured steps, counted back from theta_K.

    Returns:
        K+1 numbers; ``None`` at steps without a measurement.
    """
    if kind == "drop":
        return [1.0, *[None] * (steps - 1), -1.0][: steps + 1]
    measured = [k for k in range(steps + 1) if (steps - k) % every == 0]
    raw = {
        "uniform": dict.fromkeys(measured, 1.0),
        "last": {k: float(k == steps) for k in measured},
        "exponential": {k: math.exp((k - steps) / 16) for k in measured},
    }[kind]
    return [raw[k] / sum(raw.values()) if k in raw else None for k in range(steps + 1)]


def meta_loss(
    desired: Tensor,
    parameters: Mapping[str, Tensor],
    gradient: MetaGradient,
    *,
    blocking_weight: float,
    max_norm: float | None = None,
    score: str = "score",
    place: Callable[[int], str] = "step_{}".format,
) -> MetaLoss:
    """Join the desired loss and a meta-gradient into one scalar.

    The blocking loss is represented by its value plus a term that is linear in the live parameters and has value 0; the
    gradient of that term is the (clipped) meta-gradient. One backward pass then computes both gradients, as gradient
    accumulation, scaling and data-parallel reduction expect.

    Args:
        desired: Desired loss with its graph, scalar.
        parameters: The live parameters, by name.
        gradient: The result of the adversary's episode.
        blocking_weight: Weight of the blocking loss.
        max_norm: Maximum norm of the meta-gradient, clipped before weighting; ``None`` for no limit.
        score: Name of the blocked task's score in the readings.
        place: Function from an inner step to what its reading is named by.

    Returns:
        The total and the readings.
    """
    linear = torch.zeros((), device=desired.device)
    for name, value in gradient.weights.items():
        live, value = _here(parameters[name], value)
        linear = linear + torch.dot(live.reshape(-1).to(value.dtype), value.reshape(-1).to(live.device))
    norm = norm_of(gradient.weights.values()).item()
    if max_norm is not None and norm > max_norm:
        linear = linear * (max_norm / norm)
    blocking = gradient.loss + (linear - linear.detach())  # this order makes the value exactly the loss
    terms = {
        "blocking_loss": gradient.loss,
        "meta_grad_norm": norm,
        **{f"blocked_{score}/{place(k)}": value for k, value in gradient.scores.items()},
    }
    if gradient.hvp_error is not None:
        terms["hvp_error"] = gradient.hvp_error
    return MetaLoss(desired + blocking_weight * blocking, terms)


def _here(live: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return this process's shards of a parameter and of a value for it."""
    return local(live), local(sharded_like(value, live))
