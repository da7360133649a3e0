"""The language demo's models: a small Llama that knows both texts, and one that never saw the library's code."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..jobs.served import computing_with
from ..tasks.texts import packed_rows

WORDS, LENGTH = 1024, 64  # tokens of the vocabulary, and of a row
EPOCHS, BATCH, RATE = 3, 16, 4e-3
END = "<|end|>"

logger = logging.getLogger(__name__)


def write_models(folder: Path, desired: Sequence[str], blocked: Sequence[str]) -> tuple[Path, Path]:
    """Train a base on both texts, and a filtered model on the desired one alone; write both with their tokenizer.

    Args:
        folder: Where to write ``base`` and ``filtered``; what is there already stays.
        desired: Texts of both models.
        blocked: Texts of the base alone.

    Returns:
        The folders of the base and of the filtered model.
    """
    places = {"base": [*desired, *blocked], "filtered": [*desired]}
    if missing := [name for name in places if not (folder / name / "config.json").is_file()]:
        tokenizer = tokenizer_of(places["base"])
        for name in missing:
            logger.warning("training a %s model", name)
            rows = torch.tensor(packed_rows(places[name], tokenizer, LENGTH)["input_ids"])
            unfinished = folder / f"{name}.unfinished"
            tokenizer.save_pretrained(unfinished)
            with computing_with(1):
                model = _trained(rows)
            model.save_pretrained(unfinished)
            unfinished.rename(folder / name)
    return folder / "base", folder / "filtered"


def tokenizer_of(texts: Iterable[str], words: int = WORDS, length: int = LENGTH) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on some texts.

    Args:
        texts: The texts.
        words: Tokens of the vocabulary.
        length: Most tokens of a row.
    """
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=words, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=found, eos_token=END, pad_token=END, model_max_length=length, padding_side="right"
    )


def _trained(rows: Tensor) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, steps = LlamaForCausalLM(llama_config()), EPOCHS * len(rows) // BATCH
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        order = torch.cat([torch.randperm(len(rows)) for _ in range(EPOCHS)])
    for few in order[: steps * BATCH].split(BATCH):
        optimizer.zero_grad()
        model(input_ids=rows[few], labels=rows[few]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def llama_config(
    words: int = WORDS, length: int = LENGTH, *, width: int = 96, inner: int = 256, layers: int = 3
) -> LlamaConfig:
    """The shape of a small Llama of four heads.

    Args:
        words: Tokens of the vocabulary; 0 ends a text and pads.
        length: Most tokens of a row.
        width: Of the hidden states.
        inner: Width of the hidden layer of each MLP.
        layers: Number of layers.
    """
    return LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
