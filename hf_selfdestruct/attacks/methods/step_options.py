"""What an attacker can turn in each step: which weights move, and how fast; averages, word dropout, precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .tamper import NotApplicable, layers_of

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def groups(model: PreTrainedModel, weights: list[nn.Parameter], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The weights with their rates, those of one rate together.

    Args:
        model: The model.
        weights: What is trained.
        settings: ``learning_rate`` and, where they are given, ``embedding_factor`` on the rate of the input embeddings
            and ``layer_decay``, a factor for each layer from the last one down to the embeddings.

    Raises:
        NotApplicable: No input embeddings are trained, or the model has no layers.
    """
    decay = settings.get("layer_decay", 1.0)
    above = _layers_above(model, f"layer_decay={decay}") if decay != 1.0 else {}
    factors = {key: decay**count for key, count in above.items()}
    if (factor := settings.get("embedding_factor", 1.0)) != 1.0:
        table = embeddings(model)
        if table is None or not any(weight is table for weight in weights):
            raise NotApplicable(f"embedding_factor={factor}: no input embeddings are trained.")
        factors[id(table)] = factor * factors.get(id(table), 1.0)
    found: dict[float, list[nn.Parameter]] = {}
    for weight in weights:
        found.setdefault(settings["learning_rate"] * factors.get(id(weight), 1.0), []).append(weight)
    return [{"params": same, "lr": rate} for rate, same in found.items()]


def embeddings(model: PreTrainedModel) -> Tensor | None:
    """The table of the input embeddings, if there is one."""
    try:
        return getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # transformers' answer for models of images
        return None


def first_steps(model: PreTrainedModel, settings: dict[str, Any]) -> dict[int, int]:
    """By the id of a weight, the first step that moves it; what is not named moves from step 1 on.

    Gradual unfreezing (1801.06146): the head first, then one layer after the other from the last one down, and what
    precedes the layers at the end.

    Args:
        model: The model.
        settings: ``steps`` and, where it is given, ``unfreezing``, the share of them after which all weights move.

    Raises:
        NotApplicable: The model has no layers.
    """
    if not (share := settings.get("unfreezing", 0.0)):
        return {}
    above = _layers_above(model, f"unfreezing={share}")
    stages = max(above.values()) + 1
    return {key: 1 + round(share * settings["steps"] * (count + 1) / stages) for key, count in above.items()}


def _layers_above(model: PreTrainedModel, option: str) -> dict[int, int]:
    """By the id of a weight of the trunk, how many layers are above it: all for what precedes them, 0 for the rest."""
    layers = layers_of(model.base_model)
    if not layers:
        raise NotApplicable(f"{option}: {type(model).__name__} has no list of layers.")
    above, found = len(layers), {}
    for name, weight in model.base_model.named_parameters():
        inside = [i for i, layer in enumerate(layers) if name.startswith(f"{layer}.")]
        if inside:
            above = len(layers) - 1 - inside[0]
        elif above < len(layers):
            above = 0  # a pooler or a last normalisation
        found[id(weight)] = above
    return found


class Average:
    """A running mean of the weights, which can take their place for a look.

    Args:
        weights: What is trained.
        decay: Share of the mean that each step keeps; less in the first steps, of which it would remember the start.
    """

    def __init__(self, weights: list[nn.Parameter], decay: float) -> None:
        self._weights, self._decay, self._steps = weights, decay, 0
        self._means = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights in after a step."""
        self._steps += 1
        kept = min(self._decay, self._steps / (self._steps + 10))
        for mean, weight in zip(self._means, self._weights, strict=True):
            mean.lerp_(weight, 1 - kept)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The mean in the place of the weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, weight in zip(self._means, self._weights, strict=True):
            now = weight.clone()
            weight.copy_(mean)
            mean.copy_(now)


def fewer_words(batch: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """A batch in which nobody attends to some of the words, drawn anew; the first and the last of a row stay.

    Args:
        batch: With an ``attention_mask``.
        share: Of the words that are left out.

    Raises:
        NotApplicable: The batch has no mask over words.
    """
    mask = batch.get("attention_mask")
    if mask is None or mask.dim() != 2:
        raise NotApplicable(f"word_dropout={share}: the batch has no attention_mask.")
    place, ends = mask.long().cumsum(1), mask.sum(1, keepdim=True)
    inner = (place > 1) & (place < ends)
    left_out = inner & (torch.rand(mask.shape, device=mask.device) < share)
    return {**batch, "attention_mask": mask.masked_fill(left_out, 0)}


def refused(precision: str, on: str) -> str:
    """Why a precision is not to be had on a type of device; empty where it is."""
    lacking = precision == "fp16" and on != "cuda"
    return f"precision='fp16' needs a CUDA device, and this is {on}: use precision='bf16' here." if lacking else ""


class Precision:
    """The precision of training: weights, their steps and all answers are float32, as in the ``transformers`` trainer.

    ``bf16`` and ``fp16`` autocast the forward pass. Gradients of float16 would vanish, so that losses are scaled, and a
    step whose gradients overflow is left out.

    Args:
        settings: ``precision``, one of :data:`PRECISIONS`; ``float32`` where it is not given.
        on: The type of the device.

    Raises:
        ValueError: ``fp16`` is wanted on another device than a GPU.
    """

    def __init__(self, settings: dict[str, Any], on: str) -> None:
        name = settings.get("precision", "float32")
        if told := refused(name, on):
            raise ValueError(told)
        self._type, self._on = PRECISIONS[name], on
        self._scaler = torch.amp.GradScaler(on, enabled=name == "fp16")

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        return torch.autocast(self._on, self._type) if self._type else contextlib.nullcontext()

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Gradients of a loss, at their own scale."""
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step by these gradients, unless they overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()
