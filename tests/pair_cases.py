"""Toy pairs of texts."""

import numpy as np
import torch

from hf_selfdestruct.attacks import Split

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
