"""Frozen features: every layer of a model and its published head's logits, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ..data import AttackData, in_batches
from ..target import Target, placed
from .batches import averaged, batch_of, hidden_states, inputs_of, mask_of, on_device
from .step_options import embeddings
from .tamper import Tamper

MOST_KEPT = 12  # models: ten seeds of a random one, and some
SPLITS = ("train", "selection", "test")
Cell = tuple[int, str]
FURTHER = ("max", "min", "deviation")  # poolings that only joined features use
WORDS: Cell = (-2, "words")


@dataclass(frozen=True, eq=False)
class Features:
    """Features of the three splits.

    Attributes:
        cells: Split to cell to array ``(rows, width)``; a cell is ``(layer, pooling)``, the embeddings being layer 0,
            ``(-1, "logits")`` the published head's output, and ``(-2, "words")`` the average of the words' rows of the
            embedding table, before positions are added and a normalisation drowns what is small.
        layers: Number of the last layer.
        flops: Floating-point operations of encoding one row.
        memory: Principal components of the cells that were whitened.
    """

    cells: dict[str, dict[Cell, np.ndarray]]
    layers: int
    flops: float
    memory: dict[Cell, Any] = field(default_factory=dict, repr=False)

    def usable(self, *, words: bool = False) -> list[Cell]:
        """Cells without infinities or NaN that are not the same for every row, by one pooling that is common.

        Args:
            words: Whether the rows of the embedding table count.
        """
        return [cell for cell in self._sound() if cell[1] not in FURTHER and (words or cell != WORDS)]

    def joined(self) -> dict[str, list[Cell]]:
        """Cells that are read together, by name: one pooling of every layer, and every pooling of one layer.

        A probe of single cells misses what a defence has spread over layers, or left to another statistic of tokens.
        """
        sound = [(layer, pooling) for layer, pooling in self._sound() if layer >= 0]
        of_layers = {p: [cell for cell in sound if cell[1] == p] for p in ("mean", "max")}
        of_poolings = {layer: [cell for cell in sound if cell[0] == layer] for layer in (0, self.layers)}
        named = {f"{p} of every layer": cells for p, cells in of_layers.items()}
        named |= {f"every pooling of layer {layer}": cells for layer, cells in of_poolings.items()}
        return {name: cells for name, cells in named.items() if len(cells) > 1}

    def of(self, split: str, cells: Sequence[Cell], floor: float | None = None) -> np.ndarray:
        """Some cells of a split side by side, shape ``(rows, width)``, in double precision.

        What varies by less than single precision can state, as in random weights, is no division by zero then.

        Args:
            split: The split.
            cells: Which cells.
            floor: Whiten each cell: standardise it, and scale its principal components to unit variance, those that
                vary by less than this share of the largest by as much as that one. Components are of all training
                rows; their labels are not read. ``None`` for features as they are.
        """
        parts = [self._whole(split, cell) if floor is None else self._whitened(split, cell, floor) for cell in cells]
        return np.concatenate(parts, axis=1)

    def _whole(self, split: str, cell: Cell) -> np.ndarray:
        found: np.ndarray = self.cells[split][cell].astype(np.float64)
        return found

    def _whitened(self, split: str, cell: Cell, floor: float) -> np.ndarray:
        if cell not in self.memory:
            rows = self._whole("train", cell)
            scale = StandardScaler().fit(rows)
            _, sizes, components = np.linalg.svd(scale.transform(rows), full_matrices=False)
            self.memory[cell] = scale, sizes / len(rows) ** 0.5, components
        scale, sizes, components = self.memory[cell]
        standard: np.ndarray = scale.transform(self._whole(split, cell))
        return standard @ components.T / np.maximum(sizes, floor * sizes[0])

    def _sound(self) -> list[Cell]:
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
    """Each hidden layer, its tokens pooled in every way (in one, if it is a map of pixels), and the head's logits."""
    cells: dict[Cell, Tensor] = {}
    for layer, states in enumerate(hidden_states(model, inputs)):
        cells[layer, "mean"] = mean = averaged(states, inputs)
        if states.dim() == 4:
            continue
        mask = mask_of(states, inputs)
        hidden = (mask == 0).unsqueeze(-1)
        cells[layer, "max"] = states.masked_fill(hidden, -torch.inf).amax(1)
        cells[layer, "min"] = states.masked_fill(hidden, torch.inf).amin(1)
        cells[layer, "deviation"] = averaged((states - mean.unsqueeze(1)) ** 2, inputs).sqrt()
        if causal:  # the first has seen one token
            last = mask.long().cumsum(1).argmax(1)
            cells[layer, "last"] = states[torch.arange(len(states), device=states.device), last]
        else:
            cells[layer, "first"] = states[:, 0]
    if "input_ids" in inputs and (table := embeddings(model)) is not None:
        cells[WORDS] = averaged(nn.functional.embedding(inputs["input_ids"], table), inputs)
    if head is not None:
        cells[-1, "logits"] = head(**inputs).logits
    return cells
