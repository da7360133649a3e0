"""The attacker's best linear recalibration of the logits: ``argmin_W CE(z W, y)`` over a box, batched.

The problem is smooth and convex, but close to a linear program for large logits. A primal-dual interior-point method
solves it: about ten Newton steps at unit scale, a few dozen at any scale. The solver stops on a certificate, not on a
small step: ``<G, W> + |G|_1``, with G the gradient, bounds the distance of the value at W from the optimum.

The barrier also makes the solution unique. Adding a constant to a row of W does not change the softmax, so the
minimisers form a flat face. The barrier selects the centre of that face, a smooth function of the logits; its
derivative is one more solve with the Newton matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import one_hot

MOST_DENSE_CLASSES = 20  # up to 400 unknowns, Cholesky is faster than conjugate gradients
_SHRINK = 0.05  # factor on the barrier per Newton step
_REACH = 0.99  # maximum share of the distance to the nearest bound per step
_NOISE = 1e-13  # rounding error of comparing float64 values of order 1


def best_adjustment(logits: Tensor, labels: Tensor, *, tolerance: float = 1e-6, iterations: int = 100) -> Tensor:
    """``argmin_W CE(logits W, labels)`` over matrices with entries in [-1, 1], one for each leading index.

    For any number of ``iterations``, the result is feasible and not worse than W = 0. For non-finite logits, W = 0.
    Gradients flow through the minimiser; detach the logits to avoid this.

    Args:
        logits: Shape ``(*, rows, classes)``.
        labels: Shape ``(*, rows)``, integers.
        tolerance: The solver stops when every cross-entropy is within this distance of its optimum. It always reaches
            1e-9; for smaller values and large logits, rounding may prevent convergence.
        iterations: Maximum number of Newton steps.

    Returns:
        Shape ``(*, classes, classes)``.

    Example:
        >>> flipped = torch.tensor([[-9.0, 9.0], [9.0, -9.0]])
        >>> best_adjustment(flipped, torch.tensor([0, 1])).sign()
        tensor([[-1.,  1.],
                [ 1., -1.]])
    """
    if logits.requires_grad and torch.is_grad_enabled():
        adjustment: Tensor = _BestAdjustment.apply(logits, labels, tolerance, iterations)
        return adjustment
    return _shaped(_solve(_Problem(logits, labels), tolerance, iterations)[0], logits)


def first_adjustment(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient step from ``W = 0`` that reaches the box: where rows are few, :func:`best_adjustment` fits noise.

    It is the direction of the minimiser under a strong ridge penalty: the covariance of logits and labels, which needs
    no more rows than there are classes to point the right way. It permutes with the logits, as the minimiser does.

    Args:
        logits: Shape ``(rows, classes)``.
        labels: Shape ``(rows,)``, integers.

    Returns:
        Shape ``(classes, classes)``, the largest entry 1 in size; gradients flow through it, but not through its scale.

    Example:
        >>> first_adjustment(torch.tensor([[-9.0, 9.0], [9.0, -9.0]]), torch.tensor([0, 1]))
        tensor([[-1.,  1.],
                [ 1., -1.]])
    """
    classes = logits.shape[-1]
    step = logits.mT @ (one_hot(labels, classes).to(logits) - 1 / classes)
    return step / step.detach().abs().amax().clamp(min=torch.finfo(step.dtype).tiny)


def best_scale(logits: Tensor, labels: Tensor) -> Tensor:
    """``argmin_a CE(a logits, labels)`` over a in [0, 1], by bisection of the derivative; without gradient.

    Args:
        logits: Shape ``(rows, classes)``.
        labels: Shape ``(rows,)``, integers.

    Returns:
        Scalar tensor. At the minimum the cross-entropy is at most log C, its value at a = 0.
    """
    z = logits.detach()
    target = one_hot(labels, z.shape[-1])
    low, high = z.new_zeros(()), z.new_ones(())
    for _ in range(24):  # to the resolution of float32
        middle = (low + high) / 2
        beyond = (((middle * z).softmax(-1) - target) * z).sum() > 0
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    return low


class _BestAdjustment(torch.autograd.Function):
    """Implicit differentiation of ``G(z, W) + barrier'(W) = 0``, which holds at the minimiser.

    ``dW = -(H + D)^-1 (dG/dz) dz``, with H and D the Hessians of the cross-entropy and of the barrier. D is huge for
    entries at a bound, which fixes them, and tiny for free entries, where it centres flat directions. This is the
    derivative of the KKT conditions without choosing an active set.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, tolerance: float, iterations: int) -> Tensor:
        ctx.problem = _Problem(logits, labels)
        w, barrier = _solve(ctx.problem, tolerance, iterations)
        ctx.save_for_backward(logits, w, barrier)
        return _shaped(w, logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        problem, (logits, w, barrier) = ctx.problem, ctx.saved_tensors
        _, p, _ = problem.at(w)
        solve = problem.newton(p, barrier, precision=1e-10)
        a = -solve(upstream.to(w).reshape(w.shape))
        # <a, G> depends on z in two places, G = z' (softmax(z W) - y) / rows.
        a, w = problem.square(a), problem.square(w)
        q = problem.z @ a
        through = p * (q - (p * q).sum(-1, keepdim=True)) / problem.rows
        return _shaped((p / problem.rows - problem.target) @ a.mT + through @ w.mT, logits), None, None, None


class _Problem:
    """A batch of such problems in float64; W is flat, of shape ``(problems, classes * classes)``."""

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.rows, self.classes = logits.shape[-2:]
        device = "cpu" if logits.device.type == "mps" else logits.device  # mps has no float64
        z = logits.detach().to(device, torch.float64).reshape(-1, self.rows, self.classes)
        self.z = torch.where(z.isfinite().flatten(1).all(1).view(-1, 1, 1), z, 0.0)
        self.target = one_hot(labels.to(device), self.classes).view_as(z).to(z) / self.rows
        self._zt = self.z.mT / self.rows
        self._pull = -self.z.mT.bmm(self.target)
        # Rounding can make a Hessian of large entries indefinite; this shift is below the resolution of its entries.
        self._rounding = _NOISE * self.z.square().amax((1, 2)).view(-1, 1)

    @cached_property
    def _outer(self) -> Tensor:
        """Outer products of the rows of z, divided by the number of rows."""
        outer = (self.z.unsqueeze(-1) * self.z.unsqueeze(-2)).flatten(2)
        return outer.mT / self.rows

    def square(self, w: Tensor) -> Tensor:
        """W as matrices."""
        return w.view(-1, self.classes, self.classes)

    def at(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cross-entropies, probabilities, and flat gradients at W."""
        logp = self.z.bmm(self.square(w)).log_softmax(-1)
        p = logp.exp()
        gradient = torch.baddbmm(self._pull, self._zt, p)
        return -(logp * self.target).sum((1, 2)), p, gradient.flatten(1)

    def newton(self, p: Tensor, barrier: Tensor, *, precision: float = 1e-4) -> Callable[[Tensor], Tensor]:
        """Return a solver of ``(H + diag(barrier)) x = right`` for flat right-hand sides; ``precision`` is relative."""
        if self.classes <= MOST_DENSE_CLASSES:
            return self._by_cholesky(p, barrier)
        return self._by_conjugate_gradients(p, barrier, precision)

    def _by_cholesky(self, p: Tensor, barrier: Tensor) -> Callable[[Tensor], Tensor]:
        # sum_i z z' (x) (diag(p) - p p'), over the rows i of z and p.
        pairs = (self.z.unsqueeze(-1) * p.unsqueeze(-2)).flatten(2)
        hessian = pairs.mT.bmm(pairs * (-1 / self.rows))
        same_column = hessian.view(-1, *4 * [self.classes]).diagonal(0, 2, 4)
        same_column += self._outer.bmm(p).view_as(same_column)
        hessian.diagonal(0, 1, 2).add_(barrier + self._rounding)
        factor, _ = torch.linalg.cholesky_ex(hessian)
        return lambda right: torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)

    def _by_conjugate_gradients(self, p: Tensor, barrier: Tensor, precision: float) -> Callable[[Tensor], Tensor]:
        z, zt = self.z, self.z.mT / self.rows
        diagonal = ((zt * z.mT) @ (p * (1 - p))).flatten(1) + barrier

        def times(x: Tensor) -> Tensor:
            u = p * (z @ self.square(x))
            return (zt @ (u - p * u.sum(-1, keepdim=True))).flatten(1) + barrier * x

        def solve(right: Tensor) -> Tensor:
            x, left, ahead = torch.zeros_like(right), right, right / diagonal
            size = start = (left * ahead).sum(1, keepdim=True)
            going = size > 0
            for _ in range(10 * self.classes):
                image = times(ahead)
                step = going * size / (ahead * image).sum(1, keepdim=True).clamp(min=1e-300)
                x, left = x + step * ahead, left - step * image
                scaled = left / diagonal
                size, before = (left * scaled).sum(1, keepdim=True), size
                going = size > precision**2 * start
                if not going.any():
                    break
                ahead = scaled + size / before.clamp(min=1e-300) * ahead
            return x

        return solve


def _solve(problem: _Problem, tolerance: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Return the minimisers and the barrier's Hessian there, both flat."""
    with torch.inference_mode():  # a fifth faster on small problems
        w, barrier = _interior_point(problem, tolerance, iterations)
    return w.clone(), barrier.clone()  # usable by autograd


def _interior_point(problem: _Problem, tolerance: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Newton's method on the barrier problem with a shrinking barrier.

    ``slack`` is the distance of W from its upper and lower bounds, and ``price`` the multiplier of each bound; at the
    optimum of the barrier problem their product equals the barrier's height everywhere. The initial prices balance the
    gradient. The barrier never grows, and each step reduces the barrier problem's value, so the cross-entropy never
    exceeds its initial value, log C at W = 0.
    """
    w = problem.z.new_zeros(problem.z.shape[0], problem.classes**2)
    value, p, gradient = problem.at(w)
    sides = w.new_tensor([1.0, -1.0]).view(2, 1, 1)
    slack, room = torch.ones_like(w).expand(2, -1, -1), torch.zeros_like(value)
    lowest = tolerance / (2 * problem.classes**2)  # here the certificate is half the tolerance
    price = (-sides * gradient).clamp(min=0) + gradient.abs().mean(1, keepdim=True) + lowest
    height = price.mean((0, 2))
    share = _SHRINK / problem.classes**2
    for _ in range(iterations):
        gap = torch.addcmul(gradient.abs(), gradient, w).sum(1)
        unsolved = gap > tolerance
        if not unsolved.any():
            break
        height = torch.minimum(height, share * gap).clamp(min=lowest)
        barrier = price / slack
        solve = problem.newton(p, barrier.sum(0))
        push = height.view(-1, 1) / slack
        direction = -solve(gradient + push[0] - push[1])
        toward = sides * direction
        dearer = push - price + barrier * toward
        # Separate step sizes for W and for the prices: within the bounds, and for W also downhill.
        fastest = torch.stack([toward / slack, -dearer / price]).amax((1, 3))
        step, price_step = (unsolved / fastest.div(_REACH).clamp(min=1)).unbind()
        start, start_slack, before = w, slack, value - height * room
        while True:
            w, slack = start + step.view(-1, 1) * direction, start_slack - step.view(-1, 1) * toward
            (value, p, gradient), room = problem.at(w), slack.log().sum((0, 2))
            uphill = value - height * room > before + _NOISE
            if not uphill.any():
                break
            step = torch.where(uphill, 0.3 * step, step)
        price = price + price_step.view(-1, 1) * dearer
    return w, (price / slack).sum(0)


def _shaped(result: Tensor, logits: Tensor) -> Tensor:
    """Reshape flat or stacked results to the leading shape, type and device of the logits."""
    return result.view(*logits.shape[:-2], -1, logits.shape[-1]).to(logits)
