"""Secret questions for a classifier of texts or of images, and its answers in one of the ways that it may be served."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

WORDS = (4, 12)  # of a text, at least and at most
LONGEST = 64  # tokens of a text; the rest is cut
BLOCKS = 8  # of one colour, in each direction of an image


def probes_of(folder: str | Path, count: int, seed: int) -> list[str]:
    """Texts of random words, or images of random colours (PNG in base64, as endpoints take them in JSON).

    They are nothing that a provider could know or would answer by heart.

    Args:
        folder: The classifier's.
        count: How many.
        seed: What they depend on.

    Raises:
        ValueError: The folder holds no classifier of texts or images, or its tokenizer knows too few words.
    """
    generator = np.random.default_rng(seed)
    if _kind(folder) is AutoModelForImageClassification:
        size = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False).size or {}
        edge = size.get("height") or size.get("shortest_edge") or 224  # as it is read: resizing differs by library
        places = np.arange(edge) * BLOCKS // edge
        colours = generator.integers(0, 256, (count, BLOCKS, BLOCKS, 3), dtype=np.uint8)
        return [base64.b64encode(Image().encode_example(one[places][:, places])["bytes"]).decode() for one in colours]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    words = sorted(
        word for word in tokenizer.get_vocab() if word.isalnum() and word not in tokenizer.all_special_tokens
    )
    if len(words) < 8:
        raise ValueError(f"{folder}: its tokenizer knows too few whole words to make probes of.")
    lengths = generator.integers(*WORDS, count, endpoint=True)
    return [" ".join(generator.choice(words, length)) for length in lengths]


@torch.no_grad()
def served(
    folder: str | Path, probes: Sequence[str], batch: int, pad: bool, attention: str, threads: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Probabilities of every class for every probe, and the names of the classes.

    Args:
        folder: The classifier's.
        probes: From :func:`probes_of`.
        batch: Probes answered at once.
        pad: Whether every text is padded to the longest of all.
        attention: How attention is computed, where the architecture has several ways.
        threads: Of torch.
    """
    kind = _kind(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    found: Any = kind._model_mapping[type(config)]
    usual = getattr(found[0] if isinstance(found, tuple) else found, "_supports_sdpa", False)
    options = {"attn_implementation": attention if usual else "eager"}
    model = kind.from_pretrained(folder, use_safetensors=True, trust_remote_code=False, **options).eval()
    if kind is AutoModelForImageClassification:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        inputs = [processor(_images(part), return_tensors="pt") for part in _parts(probes, batch)]
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        most = min(LONGEST, getattr(config, "max_position_embeddings", LONGEST) - 2)  # RoBERTa's begin at 2
        length = {"padding": "max_length" if pad else True, "max_length": most}
        inputs = [tokenizer(part, truncation=True, return_tensors="pt", **length) for part in _parts(probes, batch)]
    with _threads(threads):
        logits = [model(**one).logits for one in inputs]
    names = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    return torch.cat(logits).double().softmax(-1).numpy(), names


def _kind(folder: str | Path) -> Any:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kinds: tuple[Any, ...] = (AutoModelForSequenceClassification, AutoModelForImageClassification)
    for kind in kinds:
        if type(config) in kind._model_mapping:
            return kind
    raise ValueError(
        f"{folder}: a fingerprint is of a classifier of texts or of images, and {config.model_type!r} is none."
    )


def _parts(probes: Sequence[str], size: int) -> Iterator[list[str]]:
    return ([*probes[start : start + size]] for start in range(0, len(probes), size))


def _images(probes: Sequence[str]) -> list[Any]:
    return [Image().decode_example({"path": None, "bytes": base64.b64decode(one)}) for one in probes]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
