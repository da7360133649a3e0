"""The shipped suite for denoising: there is no head to replace and there are no features to probe."""

from __future__ import annotations

from typing import Any

from ..attack import AnyOf
from ..methods.fine_tuning import FullFineTuning, Tuning
from .attack_list import Entry
from .suite import AttackSuite

COMMON: dict[str, Any] = {"steps": (400,), "looks": 4, "learning_rates": (3e-4, 1e-3, 3e-3)}
VARIED = AnyOf(
    "fine-tuning, varied",
    (
        Tuning("cosine, averaged", schedule="cosine", average=0.99, **COMMON),
        Tuning("momentum", optimizers=("sgd",), **{**COMMON, "learning_rates": (1e-2, 1e-1)}),
        Tuning("normalised gradients", gradient="normalise", **{**COMMON, "learning_rates": (1e-3,)}),
    ),
)
DIFFUSION = AttackSuite(
    "diffusion",
    1,
    (Entry(FullFineTuning(**COMMON), (100, None)), Entry(VARIED, (None,))),
    more=None,
)
