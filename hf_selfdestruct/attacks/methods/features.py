"""Frozen features: every layer of a model and its published head's logits, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ..data import AttackData, in_batches
from ..target import Target, placed
from .batches import batch_of, hidden_states, inputs_of, on_device
from .tamper import Tamper

MOST_KEPT = 12  # models: ten seeds of a random one, and some
SPLITS = ("train", "selection", "test")


@dataclass(frozen=True, eq=False)
class Features:
    """Features of the three splits.

    Attributes:
        cells: Split to cell to array ``(rows, width)``; a cell is ``(layer, pooling)``, the embeddings being layer 0,
            and ``(-1, "logits")`` the published head's output.
        layers: Number of the last layer.
        flops: Floating-point operations of encoding one row.
    """

    cells: dict[str, dict[tuple[int, str], np.ndarray]]
    layers: int
    flops: float

    def usable(self) -> list[tuple[int, str]]:
        """Cells without infinities or NaN that are not the same for every row."""
        return [
            cell
            for cell, values in self.cells["train"].items()
            if all(np.isfinite(self.cells[split][cell]).all() for split in SPLITS) and np.ptp(values, axis=0).any()
        ]


def features_of(target: Target, data: AttackData, seed: int, tamper: Tamper | None = None) -> Features:
    """Encode the splits, or recall them: features depend on the seed only where the weights or the tamper do.

    Args:
        target: The model.
        data: What the attacker has.
        seed: Of a random model's weights, and of what is random in the tamper.
        tamper: What is done to the weights first.
    """
    weights = (target.folder, target.random, target.identity().sha256)
    key = ("features", *weights, seed if target.random or tamper else 0, str(tamper.config()) if tamper else "")
    found = data.memory.pop(key, None) or _encode(target, data, seed, tamper)
    data.memory[key] = found  # the last used stands last
    for old in [k for k in data.memory if k[0] == "features"][:-MOST_KEPT]:
        del data.memory[old]
    return found


def _encode(target: Target, data: AttackData, seed: int, tamper: Tamper | None) -> Features:
    model, head = placed(target.load(data.num_labels, seed)), None
    if tamper is not None:
        tamper.apply(model, seed, inputs_of(data, data.train, seed))
    elif (published := target.published()) is not None:
        head = placed(published).eval()
    model.eval()
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    shapes: list[tuple[tuple[int, str], int]] = []

    def call(batch: dict[str, Tensor]) -> Tensor:
        cells = cells_of(model, head, causal, on_device(batch, labels=False))
        shapes[:] = [(cell, value.shape[1]) for cell, value in cells.items()]
        return torch.cat([*cells.values()], dim=1)

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden_states(model, batch_of(data, data.train.take([0]), labels=False))
    found: dict[str, Any] = {}
    for split in SPLITS:
        flat = in_batches(getattr(data, split), data.collate, call)
        ends = np.cumsum([width for _, width in shapes])
        parts = np.split(flat, ends[:-1], axis=1)
        found[split] = {cell: part for (cell, _), part in zip(shapes, parts, strict=True)}
    return Features(found, max(layer for (layer, _), _ in shapes), float(counter.get_total_flops()))


def cells_of(
    model: PreTrainedModel, head: PreTrainedModel | None, causal: bool, inputs: dict[str, Tensor]
) -> dict[Any, Tensor]:
    """Each hidden layer pooled in two ways (in one, where it is a map of pixels), and the published head's logits."""
    cells: dict[tuple[int, str], Tensor] = {}
    for layer, states in enumerate(hidden_states(model, inputs)):
        if states.dim() == 4:  # a convolutional network's: channels and a map
            cells[layer, "mean"] = states.float().mean(dim=(2, 3))
            continue
        mask = inputs.get("attention_mask")
        if mask is None or mask.shape != states.shape[:2]:  # patches are not masked by what pixels were given
            mask = torch.ones(states.shape[:2], device=states.device)
        weights = mask.unsqueeze(-1).to(states.dtype)
        cells[layer, "mean"] = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        if causal:  # the first has seen one token
            last = mask.long().cumsum(1).argmax(1)
            cells[layer, "last"] = states[torch.arange(len(states), device=states.device), last]
        else:
            cells[layer, "first"] = states[:, 0]
    if head is not None:
        cells[-1, "logits"] = head(**inputs).logits
    return cells
