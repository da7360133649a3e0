"""Tiny models of many architectures and toy data. Nothing is downloaded.

A toy row is a sentence of 8 tokens, the last two of which may be padding. Somewhere among noise tokens
stand one *desired* word (id 4 or 5, label ``id % 2``) and one *blocked* word (id 6 or 7, label
``id % 2``); the two labels are independent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    RobertaConfig,
    ViTConfig,
)

from hf_selfdestruct.attacks import AttackSuite, Entry, HeadOnly
from hf_selfdestruct.tasks.blocked_task import BlockedTask

LENGTH, VOCABULARY = 8, 60
ARCHITECTURES = ("bert", "distilbert", "roberta", "modernbert", "gpt2", "llama")
TINY_SUITE = AttackSuite("tiny", 1, (Entry(HeadOnly(), (20,)),), seeds=1, few_seeds=0, more=None)  # hardly an attack


def tiny_config(
    architecture: str, *, num_labels: int = 2, dropout: float = 0.0, hidden: int = 16, layers: int = 2
) -> PreTrainedConfig:
    """A config of one of ``ARCHITECTURES``, with every kind of dropout it has set to ``dropout``."""
    common = {"vocab_size": VOCABULARY, "num_labels": num_labels, "pad_token_id": 0}
    usual = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 16,
    }
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    match architecture:
        case "bert":
            return BertConfig(**common, **usual, **drop)
        case "roberta":
            return RobertaConfig(**common, **usual, **drop, **ends)
        case "distilbert":
            return DistilBertConfig(
                **common,
                dim=hidden,
                n_layers=layers,
                n_heads=2,
                hidden_dim=2 * hidden,
                max_position_embeddings=16,
                dropout=dropout,
                attention_dropout=dropout,
                seq_classif_dropout=dropout,
            )
        case "modernbert":
            return ModernBertConfig(
                **common,
                **usual,
                **ends,
                cls_token_id=1,
                sep_token_id=2,
                local_attention=4,
                global_attn_every_n_layers=2,
                attention_dropout=dropout,
                embedding_dropout=dropout,
                mlp_dropout=dropout,
                classifier_dropout=dropout,
            )
        case "gpt2":
            return GPT2Config(
                **common,
                **ends,
                n_embd=hidden,
                n_layer=layers,
                n_head=2,
                n_positions=16,
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
            )
        case "llama":
            return LlamaConfig(**common, **usual, **ends, num_key_value_heads=2, attention_dropout=dropout)
        case "vit":
            positions = usual.pop("max_position_embeddings")
            return ViTConfig(**usual, **drop, num_labels=num_labels, image_size=positions, patch_size=8)
        case "resnet":
            sizes = [hidden // 2, hidden]
            # GELU: where a ReLU bends, a gradient jumps, and finite differences with it.
            depths = [1] * layers
            return ResNetConfig(
                embedding_size=8, hidden_sizes=sizes, depths=depths, num_labels=num_labels, hidden_act="gelu"
            )
    raise ValueError(architecture)


def tiny_model(architecture: str = "bert", *, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A sequence classifier with random weights; ``sizes`` as for :func:`tiny_config`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = architecture in ("vit", "resnet")
        auto_class = AutoModelForImageClassification if images else AutoModelForSequenceClassification
        return auto_class.from_config(tiny_config(architecture, **sizes))


def toy_rows(rows: int, *, seed: int, columns: tuple[str, ...] = ("labels", "blocked")) -> Dataset:
    """Toy rows, all different, with the label columns asked for (``labels`` is the desired one)."""
    generator = np.random.default_rng(seed)
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    while len(found) < rows:
        tokens = generator.integers(8, VOCABULARY, LENGTH)
        desired, blocked = generator.integers(4, 6), generator.integers(6, 8)
        places = generator.permutation(np.arange(1, LENGTH - 2))[:2]
        tokens[0], tokens[places] = 1, (desired, blocked)
        tokens[LENGTH - generator.integers(0, 3) :] = 0
        found[tuple(tokens.tolist())] = (int(desired % 2), int(blocked % 2))
    labels = dict(zip(("labels", "blocked"), zip(*found.values(), strict=True), strict=True))
    return Dataset.from_dict(
        {
            "input_ids": [list(row) for row in found],
            "attention_mask": [[int(token != 0) for token in row] for row in found],
            **{name: list(labels[name]) for name in columns},
        }
    )


def toy_batch(rows: int = 6, *, seed: int = 0, label: str = "blocked") -> dict[str, torch.Tensor]:
    """A toy batch as a collator would make it, with the labels of one of the two tasks."""
    data = toy_rows(rows, seed=seed)
    return {
        "input_ids": torch.tensor(data["input_ids"][:]),
        "attention_mask": torch.tensor(data["attention_mask"][:]),
        "labels": torch.tensor(data[label][:]),
    }


def toy_images(rows: int = 6, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of noise images, brighter on the left where the label is 1."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(rows, 3, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, (rows,), generator=generator)
    pixels[..., :8] += labels[:, None, None, None]
    return {"pixel_values": pixels, "labels": labels}


def toy_pictures(rows: int, *, seed: int, label: str = "labels") -> Dataset:
    """Rows of toy images."""
    batch = toy_images(rows, seed=seed)
    return Dataset.from_dict({"pixel_values": batch["pixel_values"].tolist(), label: batch["labels"].tolist()})


def toy_task(name: str = "blocked", *, rows: int = 60, seed: int = 10, **fields: Any) -> BlockedTask:
    """A blocked task on toy rows, with all three splits."""
    splits = {
        role: toy_rows(rows, seed=seed + i, columns=("blocked",)) for i, role in enumerate(("train", "attack", "test"))
    }
    return BlockedTask(**{"name": name, **splits, "label_column": "blocked", "num_labels": 2, **fields})
