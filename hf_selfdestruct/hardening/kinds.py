"""Which losses and closed forms fit which kind of blocked task, asked before any training starts."""

from __future__ import annotations

from collections.abc import Sequence

from ..losses.base import BlockingLoss
from ..losses.blocking import BLOCKING_LOSSES
from ..tasks.blocked_task import BlockedTask
from ..tasks.classification import CLASSIFICATION
from .config import HardeningConfig

READING_CLASSES = ("merge_words", "erase_directions", "keeping_erases")  # settings of closed forms on blocked tasks


def check_kinds(config: HardeningConfig, tasks: Sequence[BlockedTask], blocking: Sequence[BlockingLoss]) -> None:
    """Refuse losses and closed forms that a task's kind does not fit.

    Raises:
        ValueError: One does not; the message names those that do, or what to set.
    """
    for task in tasks:
        for loss in blocking:
            if not _fits(loss, task):
                known = [name for name, one in BLOCKING_LOSSES.items() if _fits(one, task)]
                raise ValueError(
                    f"{type(loss).__name__} cannot be measured on blocked task {task.name!r}, a {task.kind.name}: of "
                    f"the shipped blocking losses {', '.join(known)} can (blocking_loss={known[0]!r}, method_options="
                    "{'probe_weight': 0}); "
                    f"a loss of your own that can names {task.kind.name!r} among its kinds (blocking_losses=[...])."
                )
        for name in READING_CLASSES if task.kind.name != CLASSIFICATION.name else ():
            if asked := getattr(config.options, name):
                raise ValueError(
                    f"{name} reads classes, and blocked task {task.name!r} is a {task.kind.name}: set "
                    f"method_options={{{name!r}: {type(asked)()}}}, or choose a method "
                    "that leaves it out, such as 'mlac_fast'."
                )


def _fits(loss: BlockingLoss | type[BlockingLoss], task: BlockedTask) -> bool:
    return loss.kinds is None or task.kind.name in loss.kinds
