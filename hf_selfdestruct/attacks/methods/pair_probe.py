"""A probe of pairs of texts: how the two of a row differ to a model that encodes each alone.

A sentence encoder compares texts that it has encoded apart; of both joined to one input its weights seem to know less
than they do.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..attack import Trial
from ..data import AttackData, Split
from .features import SPLITS, Cell, Features, features_of
from .pair_words import two_texts
from .probes import HeadOnly


@dataclass(frozen=True)
class PairProbe(HeadOnly):
    """Logistic regression on how two texts, encoded apart, differ: ``|a - b|``, ``a * b`` and their cosine.

    ``a`` and ``b`` are averages over the tokens of each text (SentEval, 1803.05449), of norm 1; the layer is chosen on
    the selection split. It needs rows whose ``token_type_ids`` mark a second text.

    Example:
        ```python
        PairProbe(strengths=(0.01, 0.1))
        ```
    """

    every_layer: bool = True
    title: str = "pair probe"

    @property
    def needs(self) -> frozenset[str]:
        """Rows that are pairs of texts."""
        return frozenset({"pairs"})

    def features(self, trial: Trial) -> Features:
        """How the texts of each row differ, by layer."""
        first, second = (features_of(trial.target, one, trial.seed, self.tamper) for one in _apart(trial.data))
        cells: dict[str, dict[Cell, np.ndarray]] = {split: {} for split in SPLITS}
        for split, layer in itertools.product(SPLITS, range(first.layers + 1)):
            a, b = (torch.from_numpy(side.cells[split][layer, "mean"]) for side in (first, second))
            cells[split][layer, "pair"] = differences(a, b).numpy()
        return replace(first, cells=cells, flops=first.flops + second.flops)  # with one memory for all runs


def differences(first: Tensor, second: Tensor) -> Tensor:
    """How two texts differ: ``|a - b|``, ``a * b`` and the cosine, of averages brought to norm 1.

    Args:
        first: Of the first texts, ``(..., width)``.
        second: Of the second ones, likewise.

    Returns:
        Tensor ``(..., 2 * width + 1)``.

    Example:
        >>> differences(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[0.0000, 0.0000, 0.3600, 0.6400, 1.0000]])
    """
    a, b = (nn.functional.normalize(vectors, dim=-1) for vectors in (first, second))
    return torch.cat([(a - b).abs(), a * b, (a * b).sum(-1, keepdim=True)], dim=-1)


def _apart(data: AttackData) -> tuple[AttackData, AttackData]:
    """What the attacker has, with the first texts alone and with the second ones alone."""
    if "apart" not in data.memory:
        data.memory["apart"] = _side(data, 0), _side(data, 1)
    first, second = data.memory["apart"]
    return first, second


def _side(data: AttackData, side: int) -> AttackData:
    train, selection, test = (_alone(split, side) for split in (data.train, data.selection, data.test))
    return replace(data, train=train, selection=selection, test=test, memory={})


def _alone(split: Split, side: int) -> Split:
    texts = [two_texts(row)[side] for row in split.features]
    rows = [{"input_ids": t, "token_type_ids": [0] * len(t), "attention_mask": [1] * len(t)} for t in texts]
    return Split(rows, split.labels)
