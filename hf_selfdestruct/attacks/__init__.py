"""The judge: attacks on published models. It shares no code with the defence."""

from .attack import AnyOf, Attack, Outcome, Trial
from .data import AttackData, DesiredData, Split
from .methods.fine_tuning import FullFineTuning, Tuning
from .methods.forensics import TiedWords
from .methods.joined_fine_tuning import JoinedProbedFirst
from .methods.pair_fine_tuning import PairProbedFirst
from .methods.pair_probe import PairProbe
from .methods.probed_first import ProbedFirst
from .methods.probes import HeadOnly
from .suites.attack_list import Entry
from .suites.shipped import named_suite
from .suites.suite import AttackSuite
from .target import Target

__all__ = [
    "AnyOf",
    "Attack",
    "AttackData",
    "AttackSuite",
    "DesiredData",
    "Entry",
    "FullFineTuning",
    "HeadOnly",
    "JoinedProbedFirst",
    "Outcome",
    "PairProbe",
    "PairProbedFirst",
    "ProbedFirst",
    "Split",
    "Target",
    "TiedWords",
    "Trial",
    "Tuning",
    "named_suite",
]
