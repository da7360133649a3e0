"""A task of toy pictures for attacks on classifiers of images."""

from __future__ import annotations

from toy_models import toy_pictures
from transformers import default_data_collator

from hf_selfdestruct.attacks import AttackData, DesiredData, Split
from hf_selfdestruct.tasks.blocked_task import BlockedTask

COLUMNS = ("pixel_values",)


def pictures_of(rows: int) -> AttackData:
    """So many pictures in each split; the attacker has desired rows too."""
    splits = {name: toy_pictures(rows, seed=seed) for seed, name in enumerate(("train", "attack", "test"))}
    desired = Split.of(toy_pictures(20, seed=7), COLUMNS)
    task = BlockedTask("side", **splits, label_column="labels")
    return AttackData.of(task, COLUMNS, default_data_collator, desired=DesiredData(desired, desired))
