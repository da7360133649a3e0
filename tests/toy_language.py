"""Toy language modelling: rows of tokens that follow each other by a rule, in a desired and in a blocked language.

In the desired language each token is its predecessor plus 1, in the blocked one plus 7, modulo 40, but for noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning, Tuning
from hf_selfdestruct.tasks.blocked_task import BlockedTask
from hf_selfdestruct.tasks.language_modeling import LANGUAGE_MODELING

DESIRED, BLOCKED = 1, 7
WORDS, PROMPT = 40, 4
ROWS = {"train": 60, "attack": 60, "test": 20}
RATES = (1e-3, 1e-2)
SUITE = AttackSuite(
    "language, toy",
    1,
    (
        Entry(FullFineTuning(learning_rates=RATES, steps=(16,), looks=2), (None,)),
        Entry(Tuning("LoRA", trainable="lora", learning_rates=RATES, steps=(16,), looks=2), (None,)),
    ),
    seeds=1,
    few_seeds=0,
    more=None,
    null=False,
)


def language_model(*, seed: int = 0, tied: bool = False, **sizes: Any) -> LlamaForCausalLM:
    """A Llama-shaped model of two layers with random weights."""
    usual = {
        "vocab_size": WORDS + 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "bos_token_id": None,
        "eos_token_id": WORDS,
        "pad_token_id": WORDS + 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**usual, **sizes}, tie_word_embeddings=tied))


def language_rows(rows: int, seed: int, jump: int = BLOCKED, *, longest: int = 14) -> Dataset:
    """Rows of 10 tokens or more, of which the first four are arbitrary and count for nothing, as a prompt's."""
    generator = np.random.default_rng(seed)
    found: dict[tuple[int, ...], list[int]] = {}
    while len(found) < rows:
        steps = np.where(generator.random(longest) < 0.9, jump, generator.integers(0, WORDS, longest))
        steps[:PROMPT] = generator.integers(0, WORDS, PROMPT)
        tokens = (np.cumsum(steps) % WORDS)[: generator.integers(10, longest + 1)].tolist()
        found[tuple(tokens)] = [-100] * PROMPT + tokens[PROMPT:]
    masks = [[1] * len(row) for row in found]
    return Dataset.from_dict({"input_ids": [*map(list, found)], "attention_mask": masks, "labels": [*found.values()]})


def language_task(name: str = "sevens", **fields: Any) -> BlockedTask:
    """The blocked language."""
    splits = {role: language_rows(rows, 10 + i) for i, (role, rows) in enumerate(ROWS.items())}
    return BlockedTask(**{"name": name, **splits, "label_column": "labels", "kind": LANGUAGE_MODELING, **fields})
