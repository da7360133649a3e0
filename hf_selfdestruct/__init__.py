"""Train open weights that stay good at their desired task and cost more to turn to a blocked one."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adversaries.adversary import Adversary
    from .attacks import Attack, AttackSuite
    from .hardening.config import HardeningConfig
    from .hardening.objective import HardeningObjective
    from .losses.base import BlockingLoss
    from .losses.blocking import HeadAdjustedCrossEntropy, UniformKL
    from .publish.card_details import CardDetails
    from .report.report import AttackReport
    from .tasks.blocked_task import BlockedTask
    from .trainer.judge_callback import JudgeCallback
    from .trainer.mixin import SelfDestructMixin
    from .trainer.trainer import SelfDestructTrainer
    from .trainer.training_args import SelfDestructTrainingArguments

__version__ = "0.1.0"

__all__ = [
    "Adversary",
    "Attack",
    "AttackReport",
    "AttackSuite",
    "BlockedTask",
    "BlockingLoss",
    "CardDetails",
    "HardeningConfig",
    "HardeningObjective",
    "HeadAdjustedCrossEntropy",
    "JudgeCallback",
    "SelfDestructMixin",
    "SelfDestructTrainer",
    "SelfDestructTrainingArguments",
    "UniformKL",
]

_ROOMS = {
    "Adversary": "adversaries.adversary",
    "Attack": "attacks",
    "AttackReport": "report.report",
    "AttackSuite": "attacks",
    "BlockedTask": "tasks.blocked_task",
    "BlockingLoss": "losses.base",
    "CardDetails": "publish.card_details",
    "HardeningConfig": "hardening.config",
    "HardeningObjective": "hardening.objective",
    "HeadAdjustedCrossEntropy": "losses.blocking",
    "JudgeCallback": "trainer.judge_callback",
    "SelfDestructMixin": "trainer.mixin",
    "SelfDestructTrainer": "trainer.trainer",
    "SelfDestructTrainingArguments": "trainer.training_args",
    "UniformKL": "losses.blocking",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use: reading a report needs no torch, `--help` nothing at all."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)
