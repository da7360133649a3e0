"""One outer step: the desired loss plus a blocking loss whose gradient is the meta-gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from .episode import MetaGradient

STEP_WEIGHTS = ("uniform", "last", "exponential", "drop")


@dataclass(frozen=True)
class MetaLoss:
    """What one outer step minimises.

    Attributes:
        total: ``desired + blocking_weight * blocking``, ready for one backward.
        terms: Readings by their logged names.
    """

    total: Tensor
    terms: dict[str, float]


def step_shares(kind: str, steps: int, every: int = 1) -> list[float | None]:
    """Weights of the K+1 blocking losses; those above 0 sum to 1.

    Args:
        kind: ``uniform``, ``last`` (theta_K alone), ``exponential`` (``exp((k - K) / 16)``, TAR's rate) or ``drop``
            (+1 at theta_0, -1 at theta_K: what the adversary has gained, Booster).
        steps: K.
        every: Measure at every so many steps and at theta_K only.

    Returns:
        K+1 numbers; ``None`` where nothing is measured.
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
) -> MetaLoss:
    """Join the desired loss and a meta-gradient into one scalar.

    The blocking loss enters as its value plus a term that is linear in the live parameters and zero in
    value; its gradient is the meta-gradient, exactly or clipped. One backward then serves both, which is what
    gradient accumulation, scaling and data-parallel reduction expect.

    Args:
        desired: Desired loss with its graph, scalar.
        parameters: The live parameters, by name.
        gradient: What the adversary's episode gave.
        blocking_weight: Weight of the blocking loss.
        max_norm: What the meta-gradient's norm is clipped to before it is weighted; ``None`` leaves it.
        score: What the blocked task's score is called in the readings.

    Returns:
        The total and the readings.
    """
    linear = torch.zeros((), device=desired.device)
    for name, value in gradient.weights.items():
        live, value = _here(parameters[name], value)
        linear = linear + torch.dot(live.reshape(-1).to(value.dtype), value.reshape(-1).to(live.device))
    norms = list(torch._foreach_norm(list(gradient.weights.values()))) if gradient.weights else []
    norm = torch.stack(norms).norm().item() if norms else 0.0
    if max_norm is not None and norm > max_norm:
        linear = linear * (max_norm / norm)
    blocking = gradient.loss + (linear - linear.detach())  # in this order: exactly the loss
    terms = {
        "blocking_loss": gradient.loss,
        "meta_grad_norm": norm,
        **{f"blocked_{score}/step_{k}": value for k, value in gradient.scores.items()},
    }
    if gradient.hvp_error is not None:
        terms["hvp_error"] = gradient.hvp_error
    return MetaLoss(desired + blocking_weight * blocking, terms)


def _here(live: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """A parameter and a whole value for it, both as far as this process keeps them."""
    if not isinstance(live, DTensor):
        return live, value
    value = distribute_tensor(value, live.device_mesh, live.placements, src_data_rank=None)
    return live.to_local(), value.to_local()
