"""Train open weights that stay good at their desired task and cost more to turn to a blocked one."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adversary import Adversary
    from .attacks import Attack, AttackSuite
    from .blocking import BlockingLoss
    from .details import CardDetails
    from .losses import HeadAdjustedCrossEntropy, NegativeCrossEntropy, UniformKL
    from .report import AttackReport
    from .tasks import BlockedTask
    from .trainer import SelfDestructTrainer
    from .training_args import SelfDestructTrainingArguments

__version__ = "0.1.0"

__all__ = [
    "Adversary",
    "Attack",
    "AttackReport",
    "AttackSuite",
    "BlockedTask",
    "BlockingLoss",
    "CardDetails",
    "HeadAdjustedCrossEntropy",
    "NegativeCrossEntropy",
    "SelfDestructTrainer",
    "SelfDestructTrainingArguments",
    "UniformKL",
]

_ROOMS = {
    "Adversary": "adversary",
    "Attack": "attacks",
    "AttackReport": "report",
    "AttackSuite": "attacks",
    "BlockedTask": "tasks",
    "BlockingLoss": "blocking",
    "CardDetails": "details",
    "HeadAdjustedCrossEntropy": "losses",
    "NegativeCrossEntropy": "losses",
    "SelfDestructTrainer": "trainer",
    "SelfDestructTrainingArguments": "training_args",
    "UniformKL": "losses",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use: reading a report needs no torch, `--help` nothing at all."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)
