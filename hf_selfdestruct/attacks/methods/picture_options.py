"""What an attacker of image classifiers can turn in each step: statistics of batch normalisation, moved pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .tamper import NotApplicable, batch_norms

BATCH_NORMS = ("batch", "stored")


def to_training(model: nn.Module, settings: dict[str, Any]) -> None:
    """Put a model into the mode in which it takes a step.

    Args:
        model: The model.
        settings: ``batch_norm``, where it is given: ``batch`` for statistics of the batch, which move the running ones,
            or ``stored`` for the running ones, which then stay; weights of the normalisation are trained either way.

    Raises:
        NotApplicable: Stored statistics are wanted of a model without batch normalisation.
    """
    model.train()
    if settings.get("batch_norm", "batch") == "stored":
        if not (norms := batch_norms(model)):
            raise NotApplicable("batch_norm='stored': the model has no batch normalisation.")
        for norm in norms:
            norm.eval()


def moved(batch: dict[str, Tensor], most: int) -> dict[str, Tensor]:
    """A batch whose pictures are shifted, their edges mirrored into what becomes free, and half of them flipped.

    Args:
        batch: With ``pixel_values``, ``(rows, channels, height, width)``.
        most: Pixels by which a picture is shifted at most, drawn anew for each, down or up and to a side.

    Raises:
        NotApplicable: The batch has no such pictures, or they are no larger than the shift.
    """
    pixels = batch.get("pixel_values")
    if pixels is None or pixels.dim() != 4:
        raise NotApplicable(f"crops={most}: the batch has no pixel_values of four dimensions.")
    rows, _, height, width = pixels.shape
    if most >= min(height, width):
        raise NotApplicable(f"crops={most}: pictures of {height} x {width} pixels are too small.")
    shifts = torch.randint(-most, most + 1, (2, rows, 1), device=pixels.device)
    down, across = (_mirrored(shift, size) for shift, size in zip(shifts, (height, width), strict=True))
    flipped = torch.rand(rows, 1, device=pixels.device) < 0.5
    across = torch.where(flipped, across.flip(1), across)
    numbers = torch.arange(rows, device=pixels.device)[:, None, None]
    chosen = pixels.movedim(1, -1)[numbers, down[:, :, None], across[:, None]]
    return {**batch, "pixel_values": chosen.movedim(-1, 1)}


def _mirrored(shift: Tensor, size: int) -> Tensor:
    """Numbers of the rows or columns that a shifted picture shows, ``(pictures, size)``; none twice at an edge."""
    place = (torch.arange(size, device=shift.device) + shift).abs()
    return size - 1 - (size - 1 - place).abs()
