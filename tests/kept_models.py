"""Data and models that are kept."""

from __future__ import annotations

import torch
from datasets import Dataset


def unlabelled(toy_rows, rows: int = 30, seed: int = 60) -> Dataset:
    return toy_rows(rows, seed=seed, columns=("labels",)).remove_columns("labels")


def built(kind, tiny_model, architecture: str = "bert"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(tiny_model(architecture, dropout=0.1).config)
