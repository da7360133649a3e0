"""Pooling of positions to one vector per row."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Pool hidden states to one vector per row of the batch.

    Args:
        hidden: Shape ``(batch, positions, width)``, or ``(batch, channels, height, width)``, which is averaged over
            height and width, or ``(batch, width)``, which stays as it is.
        mask: Shape ``(batch, positions)``, 1 where a position counts; ``None`` counts all.
        pooling: ``"mean"``, ``"first"`` or ``"last"`` of the positions that count.

    Returns:
        Shape ``(batch, width)``.
    """
    if hidden.dim() == 2:
        return hidden
    if hidden.dim() == 4:
        return hidden.flatten(2).mean(-1)
    here = torch.ones_like(hidden[..., 0], dtype=torch.bool) if mask is None else mask.bool()
    if pooling == "mean":
        return hidden.masked_fill(~here.unsqueeze(-1), 0.0).sum(1) / here.sum(1, keepdim=True).clamp(min=1)
    steps = torch.arange(hidden.shape[1], device=hidden.device)
    position = (here * (steps + 1 if pooling == "last" else steps.flip(0) + 1)).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), position]
