"""Outputs to compare, drawn and of real models."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

ROWS, LENGTH, WIDTH, STATES = 3, 6, 4, 3
MASKS = {
    "none": None,
    "right": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]],
    "empty row": [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0]],
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(seed: int = 0) -> SimpleNamespace:
    """Outputs as a token-level model would give them."""
    states = tuple(draw(ROWS, LENGTH, WIDTH, seed=seed + 10 * i) for i in range(STATES))
    return SimpleNamespace(logits=draw(ROWS, LENGTH, 5, seed=seed + 99), hidden_states=states)


def batch_of(mask: list[list[int]] | None) -> dict[str, Tensor]:
    return {} if mask is None else {"attention_mask": torch.tensor(mask)}


def inputs_of(kind: str) -> dict[str, Tensor]:
    if kind in ("vit", "resnet"):
        return {"pixel_values": draw(3, 3, 8, 8, seed=5)}
    ids = torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(5))
    return {"input_ids": ids, "attention_mask": torch.tensor(MASKS["right"])}
