"""The judge: attacks on published models. It shares no code with the defence."""

from .base import AnyOf, Attack, Outcome
from .data import AttackData, DesiredData, Split
from .probes import HeadOnly
from .suite import AttackSuite, Entry
from .suites import named_suite
from .target import Target
from .tuning import FullFineTuning, Tuning

__all__ = [
    "AnyOf",
    "Attack",
    "AttackData",
    "AttackSuite",
    "DesiredData",
    "Entry",
    "FullFineTuning",
    "HeadOnly",
    "Outcome",
    "Split",
    "Target",
    "Tuning",
    "named_suite",
]
