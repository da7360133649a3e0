"""The attacker's optimizers by name: those of torch, and one that takes signs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Factory = Callable[..., torch.optim.Optimizer]


class SignSGD(torch.optim.Optimizer):
    """``w <- w - lr * sign(m)`` with m a running mean of gradients (signum, 1802.04434).

    Args:
        parameters: What to train.
        lr: Size of every step of every weight.
        momentum: Of the running mean.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-4, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; a closure is not supported."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                weight.sub_(mean.sign(), alpha=group["lr"])


OPTIMIZERS: dict[str, Factory] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "adamw": partial(torch.optim.AdamW, fused=True),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
    "sign": SignSGD,
}


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The weights that require gradients."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def bound(weights: list[nn.Parameter], how: str) -> None:
    """Clip gradients to norm 1, or bring them to it: a gradient that was made small is as good as any other."""
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    if how == "normalise" and 0 < norm < 1:
        for weight in weights:
            if weight.grad is not None:
                weight.grad.div_(norm)
