"""The judge: attacks on published models. It shares no code with the defence."""

from .base import Attack, AttackData, Outcome, Split, Target
from .finetune import FullFineTuning, HeadOnly
from .suite import AttackSuite, Entry, named_suite
from .tuning import Tuning

__all__ = [
    "Attack",
    "AttackData",
    "AttackSuite",
    "Entry",
    "FullFineTuning",
    "HeadOnly",
    "Outcome",
    "Split",
    "Target",
    "Tuning",
    "named_suite",
]
