"""Secret probes for a text or image classifier, and its answers under one way of serving."""

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

WORDS = (4, 12)  # minimum and maximum number of words per text
LONGEST = 64  # maximum number of tokens per text
BLOCKS = 8  # number of uniform blocks along each side of an image


def probes_of(folder: str | Path, count: int, seed: int) -> list[str]:
    """Make texts of random words, or images of random colours (PNG in base64, as endpoints accept them in JSON).

    A provider cannot predict the probes, nor store their answers in advance.

    Args:
        folder: Folder of the classifier.
        count: Number of probes.
        seed: Seed of the probes.

    Raises:
        ValueError: The model is no text or image classifier, or its vocabulary has too few words.
    """
    generator = np.random.default_rng(seed)
    if _kind(folder) is AutoModelForImageClassification:
        size = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False).size or {}
        edge = (
            size.get("height") or size.get("shortest_edge") or 224
        )  # the size the model reads: resizing differs by library
        places = np.arange(edge) * BLOCKS // edge
        colours = generator.integers(0, 256, (count, BLOCKS, BLOCKS, 3), dtype=np.uint8)
        return [base64.b64encode(Image().encode_example(one[places][:, places])["bytes"]).decode() for one in colours]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    words = sorted(
        word for word in tokenizer.get_vocab() if word.isalnum() and word not in tokenizer.all_special_tokens
    )
    if len(words) < 8:
        raise ValueError(f"{folder}: the vocabulary has {len(words)} whole words; probes need at least 8.")
    lengths = generator.integers(*WORDS, count, endpoint=True)
    return [" ".join(generator.choice(words, length)) for length in lengths]


@torch.no_grad()
def served(
    folder: str | Path, probes: Sequence[str], batch: int, pad: bool, attention: str, threads: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Compute the probabilities of every class for every probe, and return the class names too.

    Args:
        folder: Folder of the classifier.
        probes: Probes of :func:`probes_of`.
        batch: Batch size.
        pad: Whether to pad every text to the maximum length.
        attention: Attention implementation, if the architecture has several.
        threads: Number of torch threads.
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
        most = min(LONGEST, getattr(config, "max_position_embeddings", LONGEST) - 2)  # RoBERTa's positions start at 2
        length = {"padding": "max_length" if pad else True, "max_length": most}
        inputs = [tokenizer(part, truncation=True, return_tensors="pt", **length) for part in _parts(probes, batch)]
    with computing_with(threads):
        logits = [model(**one).logits for one in inputs]
    names = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    return torch.cat(logits).double().softmax(-1).numpy(), names


def _kind(folder: str | Path) -> Any:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kinds: tuple[Any, ...] = (AutoModelForSequenceClassification, AutoModelForImageClassification)
    for kind in kinds:
        if type(config) in kind._model_mapping:
            return kind
    raise ValueError(f"{folder}: a fingerprint needs a text or image classifier; got model type {config.model_type!r}.")


def _parts(probes: Sequence[str], size: int) -> Iterator[list[str]]:
    return ([*probes[start : start + size]] for start in range(0, len(probes), size))


def _images(probes: Sequence[str]) -> list[Any]:
    return [Image().decode_example({"path": None, "bytes": base64.b64decode(one)}) for one in probes]


@contextmanager
def computing_with(count: int) -> Iterator[None]:
    """Compute with so many threads within: of small kernels, a second one waits more than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
