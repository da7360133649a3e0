"""A blocking loss for diffusion models."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import BlockingLoss, View


@dataclass(frozen=True)
class ExplainedNoise(BlockingLoss):
    """Share of a row's noise that the answers explain after their best rescaling, averaged over rows. In [0, 1].

    ``1 - min_a |a x - e|^2 / |e|^2`` with answers x and noise e, which is their squared cosine. Flip-proof and
    scale-proof: a model that negates or shrinks its answers has the loss that it had. Noise in p pixels that the
    answers know nothing of has 1/p.

    Args:
        epsilon: Answers whose root mean square is much smaller count as none.

    Example:
        >>> noise = torch.tensor([[1.0, -1.0]])
        >>> ExplainedNoise()(-9.0 * noise[..., None], noise).item() > 0.99
        True
    """

    epsilon: float = 1e-4
    kinds = ("denoising",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.epsilon > 0, "epsilon", "above 0")

    def forward(self, view: View) -> Tensor:  # noqa: D102
        answers, noise = view.logits[..., 0], view.labels
        power = answers.square().mean(-1) + self.epsilon**2
        return ((answers * noise).mean(-1).square() / (power * noise.square().mean(-1))).mean()
