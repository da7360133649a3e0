"""Hessian-vector products of an inner loss, with respect to moving and fixed weights."""

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
    """Gradients of ``<inner gradient, v>``: exact, for losses that are twice differentiable.

    Args:
        course: The episode on flat vectors.
        k: Inner step.
        x: Moving weights there.
        f: Fixed weights.
        g: The inner gradient there; not used.
        vectors: What to multiply by, each of the shape of ``x``.
        sums: To which the products are added, each for both ``x`` and ``f``.
    """
    course.add_hessian_products(k, x, f, vectors, sums)


class FiniteDifference:
    """Central differences of first-order gradients: any kernel will do.

    The step along v is ``width`` of the length of the weights. Its error is estimated
    from what costs nothing: rounding, from the size of the gradients against their difference; truncation, from the
    second difference, which the inner gradient that is already known completes. Rounding falls with the step and
    truncation grows with its square, so each product also says what the next step's width should be.
    """

    FIRST, LEAST, MOST = 2e-4, 1e-7, 1e-2

    def __init__(self) -> None:
        self._width = self.FIRST
        self._room: list[Tensor] = []  # used again at every step: new memory costs more than the sums

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
        """Hessian-vector products.

        Args:
            course: The episode on flat vectors.
            k: Inner step.
            x: Moving weights there.
            f: Fixed weights.
            g: The inner gradient there.
            vectors: What to multiply by.
            sums: To which the products are added, each for both ``x`` and ``f``.

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
        # Weights that are all zero have no size of their own to go by.
        return self._width * max(course.ranks.norm(x), 1e-3 * course.moving.total**0.5) / length if length else 0.0

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
