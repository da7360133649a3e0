"""How long a text a model can read: the places in its table of positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from .blocked_task import BlockedTask


def positions_of(model: PreTrainedModel) -> int | None:
    """Most tokens that a model has positions for; ``None`` where positions stand in no table, such as rotary ones.

    RoBERTa's first positions are for padding, so that it has two less than its configuration says.

    Example:
        >>> from transformers import RobertaConfig, RobertaForSequenceClassification
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        >>> positions_of(RobertaForSequenceClassification(RobertaConfig(max_position_embeddings=34, **sizes)))
        32
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        # "wpe" is GPT-2's.
        is_table = isinstance(module, nn.Embedding) and ("position" in (last := name.split(".")[-1]) or last == "wpe")
        if is_table and isinstance(most, int) and module.num_embeddings >= most:
            padding = -1 if module.padding_idx is None else int(module.padding_idx)
            return min(most, module.num_embeddings - padding - 1)
    return None


def check_lengths(model: PreTrainedModel, data: Mapping[str, Any], tasks: Sequence[BlockedTask] = ()) -> None:
    """Refuse texts that are longer than the model has positions for.

    Args:
        model: The model.
        data: Data sets, or several of them by name, by what they are called in messages; looked at is what is stored
            as ``input_ids``, not what a transform or a stream would give.
        tasks: Blocked tasks, or controls, whose splits are looked at too.

    Raises:
        ValueError: Some rows are too long; the message says how many, how long and what to do.
    """
    if (most := positions_of(model)) is None:
        return
    splits = {f"task {task.name!r}, split {name!r}": rows for task in tasks for name, rows in task.splits().items()}
    for name, rows in _stored({**data, **splits}):
        lengths = _lengths(rows)
        if too_long := int((lengths > most).sum()):
            raise ValueError(
                f"{name}: {too_long} of {len(rows)} rows are longer than the {most} positions of "
                f"{type(model).__name__} (the longest has {lengths.max()} tokens), which fails at the first of them: "
                f"tokenise with truncation=True, max_length={most}."
            )


def _stored(data: Mapping[str, Any]) -> Iterator[tuple[str, Dataset]]:
    for name, rows in data.items():
        if isinstance(rows, Mapping):
            yield from _stored({f"{name}[{key!r}]": one for key, one in rows.items()})
        elif isinstance(rows, Dataset) and rows.format["type"] != "custom" and "input_ids" in rows.column_names:
            yield name, rows


def _lengths(rows: Dataset) -> np.ndarray:
    """Tokens of every text, of which a row of multiple choice has several; none where the column holds no lists."""
    found = [np.zeros(0, dtype=int)]
    for chunk in rows.select_columns("input_ids").with_format("arrow")[:]["input_ids"].chunks:
        while hasattr(chunk, "value_lengths") and hasattr(inner := chunk.flatten(), "value_lengths"):
            chunk = inner
        if hasattr(chunk, "value_lengths"):
            found.append(np.asarray(chunk.value_lengths().fill_null(0)))
    return np.concatenate(found)
