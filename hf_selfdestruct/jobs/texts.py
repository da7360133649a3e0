"""Texts of language models as configured: rows of tokens to keep and to block, the model, and its general loss."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, default_data_collator

from ..attacks import Target
from ..attacks.data import AttackData
from ..attacks.methods.general import desired_texts, general_before
from ..tasks.blocked_task import BlockedTask, check_columns
from ..tasks.language_modeling import LANGUAGE_MODELING, LanguageModeling
from ..tasks.texts import completion_rows, packed_rows, token_bytes
from .processors import loaded
from .sections import SPLITS, DataConfig, TaskConfig
from .sources import check_source, read


def load_texts(data: DataConfig, tokenizer: Any) -> DatasetDict:
    """Load texts as rows of tokens: packed to ``max_length``, or completions after their prompts.

    Args:
        data: The section that names them.
        tokenizer: Tokenizer of the model.

    Raises:
        ValueError: A folder, split or column is missing, a file is unreadable, or a cell holds no text.
    """
    check_source(data)
    found, most = read(data), min(data.max_length, tokenizer.model_max_length)
    return DatasetDict({split: _rows(found[split], split, data, tokenizer, most) for split in SPLITS})


def language_task(task: TaskConfig, data: DataConfig, tokenizer: Any) -> BlockedTask:
    """The blocked texts: adversaries use ``train``, attacks ``validation``, the report ``test``.

    Raises:
        ValueError: As for :func:`load_texts`, or the task names no texts of its own.
    """
    own = task.own_data(data)
    if own is None:
        raise ValueError(f"task {task.name!r}: set path to the texts to block (data contains those to keep).")
    rows = load_texts(own, tokenizer)
    return BlockedTask(
        task.name,
        train=rows["train"],
        attack=rows["validation"],
        test=rows["test"],
        label_column="labels",
        weight=task.weight,
        kind=LanguageModeling(token_bytes(tokenizer)),
    )


def language_model(model: str) -> PreTrainedModel:
    """The language model to harden, in float32."""
    return loaded(AutoModelForCausalLM, model).to(torch.float32)


def padded_batch(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of rows of any lengths, padded on the right."""
    return default_data_collator(LANGUAGE_MODELING.padded([dict(row) for row in rows]))


def general_quality(target: Target, rows: Dataset, columns: list[str]) -> dict[str, float]:
    """The loss of a published language model on texts to keep, in nats per token."""
    desired = desired_texts(rows, rows, columns)
    if desired is None:
        return {}
    split = desired.test
    data = AttackData("", 0, split, split, split, default_data_collator, desired, kind=LANGUAGE_MODELING)
    return {"loss": general_before(target, data) or 0.0}


def _rows(rows: Dataset, split: str, data: DataConfig, tokenizer: Any, length: int) -> Dataset:
    where = f"{data.path}, split {split!r}"
    columns = [data.text_column or "text", *([data.prompt_column] if data.prompt_column else [])]
    for column in columns:
        check_columns(rows.column_names, column, where)
    if data.max_rows:
        rows = rows.shuffle(seed=0).select(range(min(len(rows), data.max_rows)))
    texts, *prompts = (rows[column][:] for column in columns)
    for column, cells in zip(columns, (texts, *prompts), strict=True):
        for row, cell in enumerate(cells):
            if not isinstance(cell, str):
                raise ValueError(f"{where}, column {column!r}, row {row}: expected text, got {cell!r}.")
    if prompts:
        return completion_rows(prompts[0], texts, tokenizer, length)
    return packed_rows(texts, tokenizer, length)
