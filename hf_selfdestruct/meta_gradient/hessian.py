"""Hessian-vector products of an inner loss, with respect to trained and fixed weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models.distributed import Processes
from .flat_episode import FlatEpisode

Products = Callable[[FlatEpisode, int, Tensor, Tensor, Tensor, Sequence[Tensor], Sequence[Tensor]], float | None]


def double_backward(
    course: FlatEpisode, k: int, x: Tensor, f: Tensor, g: Tensor, vectors: Sequence[Tensor], sums: Sequence[Tensor]
) -> None:
    """Exact gradients of ``<inner gradient, v>``, for twice differentiable losses.

    Args:
        course: The episode on flat vectors.
        k: Inner step.
        x: Trained weights at step k.
        f: Fixed weights.
        g: Inner gradient at step k; not used.
        vectors: Vectors to multiply by, each of the shape of ``x``.
        sums: Accumulators of the products, each for both ``x`` and ``f``.
    """
    course.add_hessian_products(k, x, f, vectors, sums)


class FiniteDifference:
    """Central differences of first-order gradients, for any kernel.

    The step along v is the norm of the weights times ``width``. The error estimate needs no further passes: the
    rounding error follows from the norm of the gradients relative to their difference, and the truncation error from
    the second difference with the known inner gradient. Rounding decreases with the step and truncation grows with its
    square, so each product also determines the width of the next step.
    """

    FIRST, LEAST, MOST = 2e-4, 1e-7, 1e-2

    def __init__(self) -> None:
        self._width = self.FIRST
        self._room: list[Tensor] = []  # reused at every step: allocation costs more than the sums

    def __call__(
        self,
        course: FlatEpisode,
        k: int,
        x: Tensor,
        f: Tensor,
        g: Tensor,
        vectors: Sequence[Tensor],
        sums: Sequence[Tensor],
    ) -> float:
        """Add Hessian-vector products.

        Args:
            course: The episode on flat vectors.
            k: Inner step.
            x: Trained weights at step k.
            f: Fixed weights.
            g: Inner gradient at step k.
            vectors: Vectors to multiply by.
            sums: Accumulators of the products, each for both ``x`` and ``f``.

        Returns:
            The largest estimated relative error.
        """
        self._room = self._room or [torch.empty_like(x), course.empty(x, f), course.empty(x, f)]
        moved, high, low = self._room
        worst = 0.0
        for v, total in zip(vectors, sums, strict=True):
            step = self._step(course, x, v)
            if step == 0:
                continue
            course.inner_gradient(k, torch.add(x, v, alpha=step, out=moved), f, out=high)
            course.inner_gradient(k, torch.sub(x, v, alpha=step, out=moved), f, out=low)
            high.sub_(low)
            total.add_(high, alpha=1 / (2 * step))
            worst = max(worst, self._error(course.ranks, g, high[: len(x)], low[: len(x)]))
        return worst

    def _step(self, course: FlatEpisode, x: Tensor, v: Tensor) -> float:
        length = course.ranks.norm(v)
        # All-zero weights have norm 0: use a lower limit.
        return self._width * max(course.ranks.norm(x), 1e-3 * course.count**0.5) / length if length else 0.0

    def _error(self, ranks: Processes, g: Tensor, difference: Tensor, low: Tensor) -> float:
        first = ranks.norm(difference)
        if first == 0:
            return 0.0
        rounding = torch.finfo(g.dtype).eps * ranks.norm(g) / first
        # high + low - 2 g, in the memory of low
        second = ranks.norm(low.sub_(g).mul_(2).add_(difference))
        truncation = (second / first) ** 2
        best = (rounding / (2 * truncation)) ** (1 / 3) if truncation else 1.0
        self._width = min(max(self._width * best, self.LEAST), self.MOST)
        return rounding + truncation


HVPS: dict[str, Callable[[], Products]] = {
    "double_backward": lambda: double_backward,
    "finite_difference": FiniteDifference,
}
