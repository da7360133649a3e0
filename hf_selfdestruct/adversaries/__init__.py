"""Adversaries that a training simulates: what they train, how, and what they learn."""

from .adversary import Adversary
from .optimizer import InnerOptimizer
from .optimizers import SGD, Adagrad, Adam, AdamW, NormalizedSGD, RMSprop
from .ranges import BetaShare, Range, Schedule

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adversary",
    "BetaShare",
    "InnerOptimizer",
    "NormalizedSGD",
    "RMSprop",
    "Range",
    "Schedule",
]
