"""Batches of what the attacker has, on the device, and what a model answers to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...tasks.classification import CLASSIFICATION
from ...tasks.kind import TaskKind
from ..data import AttackData, Split, in_batches
from ..target import device

OF_TOKENS = 8  # rows in a batch where each token has an answer as wide as the vocabulary
PREPARING = 64  # batches to prepare a model with


def predictions(model: PreTrainedModel, data: AttackData, split: Split, kind: TaskKind = CLASSIFICATION) -> np.ndarray:
    """Answers to a split (of a classification probabilities), as they go on record; NaN stays NaN."""
    model.eval()

    def call(batch: dict[str, Tensor]) -> Tensor:
        inputs = on_device(batch, labels=True)
        labels = inputs.pop("labels", None)
        return kind.answers(model(**inputs).logits.float(), labels)

    size = {} if kind.model_class is None else {"size": OF_TOKENS}
    return kind.recorded(in_batches(split, data.collate, call, **size))


def hidden_states(model: PreTrainedModel, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Every hidden state of the trunk, the embeddings first; of an encoder with a decoder the encoder's come first.

    Such a trunk cannot answer without its classifier, which makes the decoder's inputs.
    """
    if not model.config.is_encoder_decoder:
        return model.base_model(**inputs, output_hidden_states=True).hidden_states
    outputs = model(**inputs, output_hidden_states=True)
    if "encoder_hidden_states" not in outputs:  # only the encoder is used, as in a classifier of speech
        return outputs.hidden_states
    return (*outputs.encoder_hidden_states, *outputs.decoder_hidden_states)


def averaged(states: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """One hidden state averaged over its tokens, ``(rows, tokens, width)``, or its map, ``(rows, width, ., .)``."""
    if states.dim() == 4:  # a convolutional network's
        return states.float().mean(dim=(2, 3))
    weights = mask_of(states, inputs).unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def mask_of(states: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Which tokens of a hidden state are no padding, ``(rows, tokens)``."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape != states.shape[:2]:  # patches are not masked by what pixels were given
        return torch.ones(states.shape[:2], device=states.device)
    return mask


def inputs_of(data: AttackData, few: Split, seed: int, steps: int = PREPARING) -> Iterator[dict[str, Tensor]]:
    """Batches of inputs without their labels, by shuffled epochs."""
    for rows in epochs(len(few.labels), 16, steps, seed):
        yield batch_of(data, few.take(rows.tolist()), labels=False)


def batch_of(data: AttackData, rows: Split, *, labels: bool = True) -> dict[str, Tensor]:
    """These rows as one batch where attacks run, with or without their labels."""
    return on_device(data.collate([dict(row) for row in rows.features]), labels=labels)


def on_device(batch: dict[str, Tensor], *, labels: bool) -> dict[str, Tensor]:
    """The batch where attacks run, with or without its labels."""
    return {k: v.to(device()) for k, v in batch.items() if labels or k != "labels"}


def epochs(count: int, size: int, steps: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each step: shuffled epochs, one after the other."""
    generator = np.random.default_rng(seed)
    size = min(size, count)
    needed = -(-steps * size // count)
    stream = np.concatenate([generator.permutation(count) for _ in range(needed)])
    return [stream[i * size : (i + 1) * size] for i in range(steps)]
