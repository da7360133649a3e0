"""Blocking losses at the adversary's weights, and keeping losses that measure the distance to the original."""

from .base import BlockingLoss, View
from .blocking import (
    Collapse,
    CrossEntropy,
    DenialOfService,
    Entropy,
    HeadAdjustedCrossEntropy,
    InverseCrossEntropy,
    NegativeCrossEntropy,
    UniformKL,
)
from .keeping import (
    EmbeddingDistillation,
    HiddenStateDistillation,
    KeepingLoss,
    LanguageModeling,
    LogitDistillation,
)
from .noise import ExplainedNoise
from .probe import GradientNorm, RepresentationProbe

__all__ = [
    "BlockingLoss",
    "Collapse",
    "CrossEntropy",
    "DenialOfService",
    "EmbeddingDistillation",
    "Entropy",
    "ExplainedNoise",
    "GradientNorm",
    "HeadAdjustedCrossEntropy",
    "HiddenStateDistillation",
    "InverseCrossEntropy",
    "KeepingLoss",
    "LanguageModeling",
    "LogitDistillation",
    "NegativeCrossEntropy",
    "RepresentationProbe",
    "UniformKL",
    "View",
]
