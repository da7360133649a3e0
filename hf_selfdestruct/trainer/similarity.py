"""Whether a model still finds the same texts alike: a measure of an encoder's general use, without any task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from ..attacks.target import quiet
from ..files import reason
from ..models.pooling import pool
from ..tasks.rows import LABELS, rows_of

MOST_ROWS, BATCH = 512, 32
NAME = "similarity_rank_correlation"


def rank_correlation(
    model: PreTrainedModel,
    other: PreTrainedModel,
    rows: Dataset,
    *,
    columns: Sequence[str],
    collate: Callable[[list[Any]], Mapping[str, Tensor]],
) -> float:
    """Spearman's correlation of two models' cosine similarities over all pairs of texts.

    Embeddings are means over the counted positions of the last hidden state (of an encoder with a decoder: the
    encoder's), which is what users of a sentence encoder take.

    Args:
        model: A model.
        other: Another, such as the one it was made from.
        rows: Texts, as the models take them; the first 512 are used.
        columns: Columns the models accept.
        collate: Makes batches.

    Returns:
        In [-1, 1]; 1 where all pairs stand in the same order.

    Raises:
        ValueError: There are fewer than three texts.
    """
    check_rows(rows)
    above = np.triu_indices(min(len(rows), MOST_ROWS), k=1)
    one, two = (_similarities(found, rows, columns, collate)[above] for found in (model, other))
    return float(spearmanr(one, two).statistic)


def check_rows(rows: Dataset) -> None:
    """Refuse fewer than three texts, whose pairs have no ranks.

    Raises:
        ValueError: There are fewer.
    """
    if len(rows) < 3:
        raise ValueError(f"a rank correlation of similarities needs at least 3 texts; got {len(rows)}.")


def check_kept(
    model: PreTrainedModel,
    rows: Dataset,
    *,
    columns: Sequence[str],
    collate: Callable[[list[Any]], Mapping[str, Tensor]],
) -> None:
    """Refuse rows on which :func:`rank_correlation` would fail, by three of them.

    Raises:
        ValueError: There are fewer, or the model cannot read them.
    """
    check_rows(rows)
    try:
        _similarities(model, rows.select(range(3)), columns, collate)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"kept_dataset: {type(model).__name__} cannot read its rows, which have the columns "
            f"{', '.join(rows.column_names)} ({type(error).__name__}: {reason(error)}); prepare them as the blocked "
            "task's rows are."
        ) from error


def to_base(
    model: PreTrainedModel,
    base: str | Path,
    rows: Dataset,
    *,
    columns: Sequence[str],
    collate: Callable[[list[Any]], Mapping[str, Tensor]],
) -> dict[str, float]:
    """:func:`rank_correlation` with the model in a folder, under the name that reports give it."""
    with quiet():
        start: Any = type(model).from_pretrained(base, dtype=model.dtype, use_safetensors=True)
    return {NAME: rank_correlation(model, start.to(model.device), rows, columns=columns, collate=collate)}


@torch.no_grad()
def _similarities(
    model: PreTrainedModel,
    rows: Dataset,
    columns: Sequence[str],
    collate: Callable[[list[Any]], Mapping[str, Tensor]],
) -> np.ndarray:
    training, both = model.training, bool(model.config.is_encoder_decoder)
    trunk: Any = model.get_encoder() if both else model.base_model  # what reads a text for its meaning
    taken = {*inspect.signature(trunk.forward).parameters} - {*LABELS}
    model.eval()
    embeddings = []
    for start in range(0, min(len(rows), MOST_ROWS), BATCH):
        batch = collate(rows_of(rows, range(start, min(start + BATCH, MOST_ROWS, len(rows))), columns))
        batch = {name: value.to(model.device) for name, value in batch.items() if name in taken}
        states = trunk(**batch, output_hidden_states=True).hidden_states[-1]
        embeddings.append(pool(states, batch.get("attention_mask"), "mean").float().cpu())
    model.train(training)
    units = torch.nn.functional.normalize(torch.cat(embeddings).double(), dim=1)
    return (units @ units.T).numpy()
