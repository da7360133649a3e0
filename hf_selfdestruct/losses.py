"""Blocking losses: what hardening minimises on a held-out blocked batch, at every inner step.

Every loss maps logits ``(batch, classes)`` and labels ``(batch,)`` to a scalar to *minimise*, whose
least value 0 means "this step of the adversary is blocked".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, one_hot


class BlockingLoss(ABC):
    """A scalar to minimise so that an adversary's logits say nothing about the blocked labels."""

    citation: str = ""

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss.

        Args:
            logits: Shape ``(batch, classes)``, of the adversary on rows it has not trained on.
            labels: Shape ``(batch,)``, integers.

        Returns:
            Scalar tensor, 0 at best.
        """

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Same as :meth:`forward`."""
        return self.forward(logits, labels)

    def config(self) -> dict[str, Any]:
        """Name and arguments, for the report."""
        return {"name": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class UniformKL(BlockingLoss):
    r"""Kullback-Leibler divergence from the uniform distribution, ``KL(U || p)``, averaged over rows.

    ``-log C - (1/C) sum_c log p_c``. In [0, inf); 0 only where every class gets the same probability.
    It never looks at the labels, so flipping them gains nothing.

    Example:
        >>> UniformKL()(torch.zeros(3, 2), torch.tensor([0, 1, 1])).item()
        0.0
    """

    citation = "Deng et al. 2024, SOPHON, arXiv:2404.12699"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return -log_softmax(logits, dim=-1).mean() - math.log(logits.shape[-1])


@dataclass(frozen=True)
class NegativeCrossEntropy(BlockingLoss):
    """``log C - min(CE, log C)``: the plain adversarial loss, clamped at chance level.

    In [0, log C]. Kept to reproduce others' methods: a clamp stops it from diverging, but a model
    that flips labels still scores 0 while it knows everything.

    Example:
        >>> NegativeCrossEntropy()(torch.tensor([[-9.0, 9.0]]), torch.tensor([0])).item()
        0.0
    """

    citation = "Henderson, Mitchell et al. 2023, Self-Destructing Models, arXiv:2211.14946"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        chance = math.log(logits.shape[-1])
        return chance - cross_entropy(logits, labels).clamp(max=chance)


@dataclass(frozen=True)
class HeadAdjustedCrossEntropy(BlockingLoss):
    """Cross-entropy left after the attacker's best linear recalibration of the logits.

    ``log C - min_W CE(z W, y)`` over C x C matrices W with entries in [-1, 1], no bias. In [0, log C]:
    W = 0 is feasible, so the adjusted cross-entropy never exceeds log C, and 0 says that no linear
    map of the logits beats chance; flipped labels are found out. W* is fitted and scored on the same
    rows, so the envelope theorem gives the exact gradient with W* held constant.

    Args:
        normalize: Centre the logits over the batch and bring them to unit root mean square first, so
            that the loss cannot be fooled by shrinking or shifting them. ``False`` is the paper's form.
        iterations: Most steps of the solver.
        tolerance: The solver stops when no entry of W moves by more than this.
        epsilon: Root mean square below which logits count as constant.

    Example:
        >>> flipped = torch.tensor([[-9.0, 9.0], [9.0, -9.0]])
        >>> HeadAdjustedCrossEntropy()(flipped, torch.tensor([0, 1])).item() > 0.6
        True
    """

    normalize: bool = True
    iterations: int = 500
    tolerance: float = 1e-5
    epsilon: float = 1e-4
    citation = "Henderson, Mitchell et al. 2023, Self-Destructing Models, arXiv:2211.14946"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        if self.normalize:
            logits = logits - logits.mean(dim=0, keepdim=True)
            # Under the root, epsilon keeps the gradient finite where the logits are constant: blocked.
            logits = logits / (logits.pow(2).mean() + self.epsilon**2).sqrt()
        adjustment = best_adjustment(logits.detach(), labels, iterations=self.iterations, tolerance=self.tolerance)
        return math.log(logits.shape[-1]) - cross_entropy(logits @ adjustment, labels)


def best_adjustment(logits: Tensor, labels: Tensor, *, iterations: int = 500, tolerance: float = 1e-5) -> Tensor:
    """``argmin_W CE(logits W, labels)`` over matrices with entries in [-1, 1].

    The problem is convex with a Lipschitz gradient (constant at most half the largest eigenvalue of
    ``z'z / n``, since the softmax Hessian is at most 1/2), so accelerated projected gradient with
    restarts converges to the optimum; logits of unit scale take far fewer steps than large ones, for which
    ``iterations`` may have to be raised (at scale 10 and C = 10, 500 steps end 6e-3 above the optimum).

    Args:
        logits: Shape ``(batch, classes)``.
        labels: Shape ``(batch,)``.
        iterations: Most steps.
        tolerance: Stop when no entry moves by more than this.

    Returns:
        Shape ``(classes, classes)``, without gradient.
    """
    z = logits.detach()
    count, classes = z.shape
    target = one_hot(labels, classes).to(z.dtype)
    current = ahead = torch.zeros(classes, classes, dtype=z.dtype, device=z.device)
    if not z.isfinite().all():  # no map helps; the loss comes out non-finite and training stops there
        return current
    lipschitz = 0.5 * torch.linalg.matrix_norm(z, ord=2) ** 2 / count
    step = 1.0 / lipschitz.clamp(min=1e-12)
    momentum = 1.0
    for _ in range(iterations):
        gradient = z.T @ ((z @ ahead).softmax(dim=-1) - target) / count
        following = (ahead - step * gradient).clamp(-1.0, 1.0)
        move = following - current
        if ((ahead - following) * move).sum() > 0:  # going uphill: forget the momentum
            momentum = 1.0
        grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / grown * move
        current, momentum = following, grown
        if move.abs().max() < tolerance:
            break
    return current


def blocking_loss(name: str) -> BlockingLoss:
    """The blocking loss behind a configuration string."""
    return {
        "head_adjusted_cross_entropy": HeadAdjustedCrossEntropy(),
        "uniform_kl": UniformKL(),
        "negative_cross_entropy": NegativeCrossEntropy(),
    }[name]
