"""Toy pairs of texts."""

import numpy as np
import torch
from datasets import Dataset

from hf_selfdestruct.attacks import Split
from hf_selfdestruct.tasks.blocked_task import BlockedTask

OPENS, CLOSES, WORDS = 2, 3, range(5, 45)
COLUMNS = ("input_ids", "token_type_ids", "attention_mask")


def pair_row(first, second):
    """Two texts as a tokenizer joins them."""
    return {
        "input_ids": [OPENS, *first, CLOSES, *second, CLOSES],
        "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
        "attention_mask": [1] * (len(first) + len(second) + 3),
    }


def split_of(count, seed, *, shared):
    """Pairs of six words each; label 1 where the texts share ``shared`` of them."""
    generator = np.random.default_rng(seed)
    rows, labels = [], generator.integers(0, 2, count)
    for label in labels.tolist():
        words = generator.permutation(WORDS)[:12].tolist()
        first, second = words[:6], words[6:]
        if label:
            second[:shared] = first[:shared]
        rows.append({**pair_row(first, generator.permutation(second).tolist()), "labels": label})
    return Split(rows, labels)


def collate(rows, *, left=False):
    """Pads to the longest row."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(values):
        fill = [0] * (longest - len(values))
        return [*fill, *values] if left else [*values, *fill]

    batch = {name: torch.tensor([padded(row[name]) for row in rows]) for name in COLUMNS}
    return batch | ({"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {})


def pair_task(*, second: bool = True) -> BlockedTask:
    """Blocked: whether two texts share all words; or rows of one text, that no tokenizer joined."""
    splits = {}
    for seed, name in enumerate(("train", "attack", "test")):
        rows = split_of(60, seed, shared=6).features
        kinds = [row["token_type_ids"] if second else [0] * len(row["input_ids"]) for row in rows]
        splits[name] = Dataset.from_list(
            [{**row, "token_type_ids": kind} for row, kind in zip(rows, kinds, strict=True)]
        )
    return BlockedTask("same", **splits, label_column="labels")
