"""Adversaries whose head reads all layers: what they need, asked before any training starts."""

from __future__ import annotations

from collections.abc import Sequence

from ..adversaries.adversary import FEWEST, Adversary
from ..tasks.blocked_task import BlockedTask
from .config import HardeningConfig

LAST = "or set adversary={'reads': 'last'}"


def check_readers(
    config: HardeningConfig, adversaries: Sequence[Adversary], tasks: Sequence[BlockedTask], processes: int
) -> None:
    """Refuse tasks, batches and processes over which features cannot be standardised.

    Args:
        config: The settings.
        adversaries: Adversaries to draw from.
        tasks: Blocked tasks.
        processes: How many there are.

    Raises:
        ValueError: One of them cannot have such an adversary; the message says what to do.
    """
    readers = [one for one in adversaries if "all_layers" in one.options("reads")]
    if not readers:
        return
    if other := [task for task in tasks if task.kind.name != "classification"]:
        raise ValueError(
            f"an adversary that reads all layers classifies, and blocked task {other[0].name!r} is "
            f"{other[0].kind.name}: leave it out, {LAST}."
        )
    if processes > 1 and config.adversary_settings.scope == "global":
        raise ValueError(
            f"{processes} processes share each batch (scope 'global'), and an adversary that reads all layers "
            f"standardises features over the whole of it: set adversary={{'scope': 'local'}}, {LAST}."
        )
    sizes = {"blocking_batch_size": config.blocking_batch_size or 0}
    given = [n for one in readers for n in one.options("examples") if n is not None]
    sizes |= {"the adversary's examples": min(given)} if given else {}
    sizes |= {f"rows of blocked task {task.name!r} to train on": len(task.adversary_rows()) for task in tasks}
    sizes |= {f"held-out rows of blocked task {task.name!r}": len(task.held_out_rows()) for task in tasks}
    for name, size in sizes.items():
        if size < FEWEST:
            raise ValueError(
                f"{name} is {size}, over which an adversary that reads all layers standardises features: give at least "
                f"{FEWEST}, {LAST}."
            )
