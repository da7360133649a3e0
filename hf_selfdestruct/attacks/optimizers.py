"""The attacker's optimizers by name: those of torch, and one that takes signs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

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
