"""Hessian-vector products of an inner loss, with respect to moving and fixed weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .episode import Course, gradients

Product = tuple[Tensor, Tensor]
Products = tuple[list[Product], float | None]


def double_backward(course: Course, k: int, x: Tensor, f: Tensor, g: Tensor, vectors: Sequence[Tensor]) -> Products:
    """Gradients of ``<inner gradient, v>``: exact, for losses that are twice differentiable.

    Args:
        course: The episode on flat vectors.
        k: Inner step.
        x: Moving weights there.
        f: Fixed weights.
        g: The inner gradient there; not used.
        vectors: What to multiply by, each of the shape of ``x``.

    Returns:
        For each vector the products for ``x`` and ``f``; and no error estimate.
    """
    leaves = [x.detach().requires_grad_(), f.detach().requires_grad_()]
    (inner,) = gradients(course.episode.inner_losses[k](course.weights(*leaves)), leaves[:1], graph=True)
    found = []
    for i, vector in enumerate(vectors):
        hx, hf = gradients(torch.dot(inner, vector), leaves, keep=i + 1 < len(vectors))
        found.append((hx, hf))
    return found, None


class FiniteDifference:
    """Central differences of first-order gradients: any kernel will do.

    The step along v moves the entries that v moves by ``width`` of their root mean square. Its error is estimated
    from what costs nothing: rounding, from the size of the gradients against their difference; truncation, from the
    second difference, which the inner gradient that is already known completes. Rounding falls with the step and
    truncation grows with its square, so each product also says what the next step's width should be.
    """

    FIRST, LEAST, MOST = 2e-4, 1e-7, 1e-2

    def __init__(self) -> None:
        self._width = self.FIRST

    def __call__(self, course: Course, k: int, x: Tensor, f: Tensor, g: Tensor, vectors: Sequence[Tensor]) -> Products:
        """Hessian-vector products.

        Args:
            course: The episode on flat vectors.
            k: Inner step.
            x: Moving weights there.
            f: Fixed weights.
            g: The inner gradient there.
            vectors: What to multiply by.

        Returns:
            For each vector the products for ``x`` and ``f``; and the largest estimated relative error.
        """
        found: list[Product] = []
        worst = 0.0
        for v in vectors:
            step = self._step(x, v)
            if step == 0:
                found.append((torch.zeros_like(x), torch.zeros_like(f)))
                continue
            high = _both(course, k, torch.add(x, v, alpha=step), f)
            low = _both(course, k, torch.sub(x, v, alpha=step), f)
            worst = max(worst, self._error(g, high[0], low[0]))
            hx, hf = (above.sub_(below).div_(2 * step) for above, below in zip(high, low, strict=True))
            found.append((hx, hf))
        return found, worst

    def _step(self, x: Tensor, v: Tensor) -> float:
        length = v.norm().item()
        if length == 0:
            return 0.0
        size = torch.where(v != 0, x, 0.0).norm().item()
        # Weights that are all zero (new adapters, biases) have no size of their own to go by.
        return self._width * max(size, 1e-3 * v.count_nonzero().item() ** 0.5) / length

    def _error(self, g: Tensor, high: Tensor, low: Tensor) -> float:
        first = (high - low).norm().item()
        if first == 0:
            return 0.0
        rounding = torch.finfo(g.dtype).eps * g.norm().item() / first
        truncation = ((high + low).sub_(g, alpha=2).norm().item() / first) ** 2
        best = (rounding / (2 * truncation)) ** (1 / 3) if truncation else 1.0
        self._width = min(max(self._width * best, self.LEAST), self.MOST)
        return rounding + truncation


def _both(course: Course, k: int, x: Tensor, f: Tensor) -> list[Tensor]:
    leaves = [x.requires_grad_(), f.detach().requires_grad_()]
    return gradients(course.episode.inner_losses[k](course.weights(*leaves)), leaves)


HVPS: dict[str, Callable[[], Callable[[Course, int, Tensor, Tensor, Tensor, Sequence[Tensor]], Products]]] = {
    "double_backward": lambda: double_backward,
    "finite_difference": FiniteDifference,
}
