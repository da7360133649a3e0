"""Blocking losses, which hardening minimises on a held-out blocked batch at every inner step.

A loss maps a :class:`View` of the adversary's model to a scalar to *minimise*. A "flip-proof" loss does not decrease if
the model retains the information and only permutes its answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, softplus

from .base import CHOICES, BlockingLoss, View
from .base import IGNORED as IGNORED
from .head_adjustment import best_adjustment, best_scale, first_adjustment
from .probe import GradientNorm, RepresentationProbe

_MLAC = "Henderson, Mitchell et al. 2023, Self-Destructing Models, arXiv:2211.14946"
_SOPHON = "Deng et al. 2024, SOPHON, arXiv:2404.12699"


@dataclass(frozen=True)
class UniformKL(BlockingLoss):
    """``KL(U || p) = -log C - mean_c log p_c`` from the uniform distribution. In [0, inf), flip-proof: label-free.

    Example:
        >>> UniformKL()(torch.zeros(3, 2), torch.tensor([0, 1, 1])).item()
        0.0
    """

    citation = _SOPHON
    kinds = CHOICES

    def forward(self, view: View) -> Tensor:  # noqa: D102
        logits, _ = view.counted()
        return -logits.log_softmax(-1).mean() - math.log(logits.shape[-1])


@dataclass(frozen=True)
class NegativeCrossEntropy(BlockingLoss):
    """``c - min(CE, c)``: the plain adversarial loss, clamped at a ceiling, by default chance level. In [0, c].

    Of classes, it is provided to reproduce other methods: the clamp prevents divergence, but a model that flips labels
    has loss 0. Of next tokens, a ceiling below chance asks for no more ignorance than a model has that never saw the
    blocked text, and so leaves the language alone.

    Args:
        ceiling: In nats, above 0; by default ``log C``.

    Example:
        >>> NegativeCrossEntropy()(torch.tensor([[-9.0, 9.0]]), torch.tensor([0])).item()
        0.0
    """

    ceiling: float | None = None
    citation = _MLAC
    kinds = CHOICES

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        self._check(self.ceiling is None or 0 < self.ceiling < math.inf, "ceiling", "finite and above 0")

    def forward(self, view: View) -> Tensor:  # noqa: D102
        return _below(self.ceiling, *view.counted())


@dataclass(frozen=True)
class CrossEntropy(BlockingLoss):
    """``CE`` with a plus sign, in [0, inf): with step weights (1, -1), Booster's drop ``h(theta_0) - h(theta_1)``."""

    citation = "Huang et al. 2024, Booster, arXiv:2409.01586"
    kinds = CHOICES

    def forward(self, view: View) -> Tensor:  # noqa: D102
        return cross_entropy(*view.counted())


@dataclass(frozen=True)
class InverseCrossEntropy(BlockingLoss):
    """``-log(1 - p_y)``, as in the paper (its code computes ``CE(-logits)``). In [0, inf).

    Not flip-proof: a model that gives every label's probability to another label has a loss of 0. For two classes it
    is the cross-entropy of the other label, and it is refused there.
    """

    citation = _SOPHON
    fewest_classes = 3

    def forward(self, view: View) -> Tensor:  # noqa: D102
        logits, labels = view.counted()
        is_label = one_hot(labels, logits.shape[-1]).bool()
        others = logits.masked_fill(is_label, -math.inf).logsumexp(-1)
        return softplus(logits[is_label] - others).mean()  # log(e^all / e^others), exact when p_y is 0 or 1


@dataclass(frozen=True)
class Entropy(BlockingLoss):
    """``log C`` minus the mean entropy of the predictions. In [0, log C], flip-proof: label-free."""

    citation = "Tamirisa et al. 2024, TAR, arXiv:2408.00761"
    kinds = CHOICES

    def forward(self, view: View) -> Tensor:  # noqa: D102
        logits, _ = view.counted()
        logp = logits.log_softmax(-1)
        return math.log(logits.shape[-1]) + (logp.exp() * logp).sum(-1).mean()


@dataclass(frozen=True)
class DenialOfService(BlockingLoss):
    """Mean squared output, 0 if the model always outputs zero. In [0, inf), flip-proof: label-free.

    It fits any kind of task, because it reads neither classes nor labels.
    """

    citation = _SOPHON
    kinds = None

    def forward(self, view: View) -> Tensor:  # noqa: D102
        return view.counted()[0].square().mean()


@dataclass(frozen=True)
class Collapse(BlockingLoss):
    """``-log p_target`` at every counted position of general rows: the model collapses when tampered with. In [0, inf).

    Args:
        target: The class or token to predict everywhere.
    """

    target: int = 0
    citation = "Yi et al. 2025, CTRAP, arXiv:2505.16559"
    kinds = CHOICES
    on_general = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.target >= 0, "target", "0 or more")

    def forward(self, view: View) -> Tensor:  # noqa: D102
        logits, _ = view.counted()
        self._check(self.target < logits.shape[-1], "target", f"in 0..{logits.shape[-1] - 1}")
        return -logits.log_softmax(-1)[:, self.target].mean()


@dataclass(frozen=True)
class HeadAdjustedCrossEntropy(BlockingLoss):
    """Cross-entropy left after the attacker's best linear recalibration of the logits.

    ``log C - min_W CE(z W, y)`` over C x C matrices W with entries in [-1, 1], no bias. In [0, log C], flip-proof:
    W = 0 is feasible, so the adjusted cross-entropy never exceeds log C, and 0 means that no linear map of the logits
    beats chance. W* is fitted and scored on the same rows, so by the envelope theorem the gradient treats W* as
    constant.

    Args:
        normalize: Centre the logits over the batch and scale them to unit root mean square first, so that shrinking or
            shifting them does not lower the loss. ``False`` is the paper's form.
        split: Fit W* on every second row and score it on the rest; by default if the batch has fewer than 2 C * C rows,
            where W* fits noise and the loss cannot decrease. The gradient then also flows through W*. A map fitted to
            few rows is overconfident, so one factor in [0, 1] is fitted to the scored rows: a map worse than chance
            counts as chance, and an informative map is not penalised for overconfidence. With fewer rows to fit to than
            entries of W, W is the first gradient step from 0 instead: the minimiser would fit noise.
        iterations: Maximum number of solver steps.
        tolerance: The solver stops when the cross-entropy is within this distance of its minimum.
        epsilon: Logits with a smaller root mean square count as constant.

    Example:
        >>> flipped = torch.tensor([[-9.0, 9.0], [9.0, -9.0]])
        >>> HeadAdjustedCrossEntropy()(flipped, torch.tensor([0, 1])).item() > 0.6
        True
    """

    normalize: bool = True
    split: bool | None = None
    iterations: int = 100
    tolerance: float = 1e-6
    epsilon: float = 1e-4
    citation = _MLAC

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "tolerance", "epsilon"):
            self._check(getattr(self, name) > 0, name, "above 0")

    def forward(self, view: View) -> Tensor:  # noqa: D102
        logits, labels = view.counted()
        if self.normalize:
            logits = logits - logits.mean(dim=0, keepdim=True)
            # Epsilon inside the square root keeps the gradient finite for constant (blocked) logits.
            logits = logits / (logits.square().mean() + self.epsilon**2).sqrt()
        split = len(labels) < 2 * logits.shape[-1] ** 2 if self.split is None else self.split
        if not split:
            return _below(None, logits @ self._adjustment(logits.detach(), labels), labels)
        fit = view.half()
        if fit.all():
            raise ValueError("HeadAdjustedCrossEntropy(split=True) needs at least one row to fit and one to score on")
        few = int(fit.sum()) < logits.shape[-1] ** 2
        adjustment = (first_adjustment if few else self._adjustment)(logits[fit], labels[fit])
        adjusted, labels = logits[~fit] @ adjustment, labels[~fit]
        return _below(None, best_scale(adjusted, labels) * adjusted, labels)

    def _adjustment(self, logits: Tensor, labels: Tensor) -> Tensor:
        return best_adjustment(logits, labels, tolerance=self.tolerance, iterations=self.iterations)


def _below(ceiling: float | None, logits: Tensor, labels: Tensor) -> Tensor:
    """Compute ``c - min(CE, c)``, the margin of the cross-entropy below a ceiling, by default chance level."""
    most = math.log(logits.shape[-1]) if ceiling is None else ceiling
    return most - cross_entropy(logits, labels).clamp(max=most)


BLOCKING_LOSSES: dict[str, type[BlockingLoss]] = {
    "head_adjusted_cross_entropy": HeadAdjustedCrossEntropy,
    "uniform_kl": UniformKL,
    "negative_cross_entropy": NegativeCrossEntropy,
    "cross_entropy": CrossEntropy,
    "inverse_cross_entropy": InverseCrossEntropy,
    "entropy": Entropy,
    "denial_of_service": DenialOfService,
    "collapse": Collapse,
    "gradient_norm": GradientNorm,
    "representation_probe": RepresentationProbe,
}
