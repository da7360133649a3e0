"""What blocked tasks must be to be blocked, asked before any training starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from datasets import Dataset
from sklearn.metrics import homogeneity_completeness_v_measure

from .blocked_task import BlockedTask, content_hashes, label_column_of
from .rows import LABELS, columns_of

ASSOCIATION_WARNING, FEWEST_SHARED_ROWS, MOST_ROWS = 0.5, 50, 20_000

logger = logging.getLogger(__name__)


def listed_tasks(given: Any) -> list[BlockedTask]:
    """``blocked_tasks`` as a list; a single task is refused, for a trainer takes several."""
    if isinstance(given, BlockedTask | Mapping | str):
        raise TypeError(f"blocked_tasks must be a list of BlockedTask, got {type(given).__name__}; give [task].")
    return list(given)


def check_tasks(tasks: Sequence[BlockedTask], columns: Sequence[str]) -> None:
    """Refuse missing or doubled tasks and splits the model cannot read."""
    if not tasks:
        raise ValueError("blocked_tasks is empty: give at least one BlockedTask, or use transformers.Trainer.")
    for task in tasks:
        if not isinstance(task, BlockedTask):
            raise TypeError(f"blocked_tasks must contain BlockedTask objects, got {type(task).__name__}.")
        for split, data in task.splits().items():
            if not ({*(found := columns_of(data))} - {*LABELS, task.label_column}) & {*columns}:
                raise ValueError(
                    f"blocked task {task.name!r}, split {split!r}: none of its columns ({', '.join(found)}) is an "
                    "input of the model; tokenise (or transform) it like train_dataset."
                )
    names = [task.name for task in tasks]
    if len({*names}) < len(names):
        raise ValueError(f"blocked tasks must have different names; got {', '.join(names)}.")


def warn_of_missing_splits(tasks: Sequence[BlockedTask]) -> None:
    """Warn of tasks that could be blocked, but not attacked afterwards."""
    for task in tasks:
        if missing := [split for split in ("attack", "test") if split not in task.splits()]:
            logger.warning(
                "blocked task %r has no %r split: attack() will refuse it, after all training; give "
                "BlockedTask(..., %s=...) if it is to be attacked.",
                *(task.name, missing[0], missing[0]),
            )


def warn_of_association(tasks: Sequence[BlockedTask], desired: Any) -> None:
    """Warn when desired and blocked labels nearly determine each other on the rows they share.

    The association is Theil's U (the share of one label's entropy that the other explains), in both
    directions; from 0.5 on, blocking will cost the desired task.
    """
    if not isinstance(desired, Dataset):
        return
    label = label_column_of(desired.column_names)
    if label is None:
        return
    some = desired.select(range(min(len(desired), MOST_ROWS)))
    classes = some.with_format(None)[label][:]
    if not all(isinstance(one, int) for one in classes):
        return  # several labels in a row, or a quantity: no classes to compare
    known = dict(zip(content_hashes(some, label), classes, strict=True))
    for task in tasks:
        if task.labels("train").dtype.kind != "i":
            continue  # a quantity
        rows = zip(task.contents("train"), task.labels("train"), strict=True)
        pairs = [(known[row], int(blocked)) for row, blocked in islice(rows, MOST_ROWS) if row in known]
        if len(pairs) < FEWEST_SHARED_ROWS:
            continue
        blocked_given_desired, desired_given_blocked, _ = homogeneity_completeness_v_measure(
            [b for _, b in pairs], [d for d, _ in pairs]
        )
        strongest = max(blocked_given_desired, desired_given_blocked)
        if strongest >= ASSOCIATION_WARNING:
            logger.warning(
                "blocked task %r and the desired task nearly determine each other on the %d rows they share "
                "(Theil's U %.2f of the blocked label given the desired one, %.2f the other way): blocking it "
                "will cost the desired task.",
                task.name,
                len(pairs),
                blocked_given_desired,
                desired_given_blocked,
            )
