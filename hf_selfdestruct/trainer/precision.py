"""Half precision: weights are trained in float32, and saved in the type that their file had."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

HALF = (torch.float16, torch.bfloat16)

logger = logging.getLogger(__name__)


def widened(model: PreTrainedModel) -> dict[str, torch.dtype]:
    """Turn half-precision weights and statistics into float32, in place: half precision rounds most small steps away.

    Returns:
        The type that each of them had, by name; empty where there was none.
    """
    types = {}
    for name, value in _tensors(model).items():
        if value.dtype in HALF:
            types[name] = value.dtype
            value.data = value.data.float()
    if types:
        model.config.dtype = torch.float32
    return types


@contextmanager
def narrowed(model: PreTrainedModel, types: Mapping[str, torch.dtype], *, rounded: bool = False) -> Iterator[None]:
    """Within it, weights have the types in which they are saved, and afterwards their float32 values again.

    Args:
        model: A model in float32.
        types: What :func:`widened` returned.
        rounded: Round the values alone and leave them in float32, as those who load the saved weights in float32 see
            them.

    Raises:
        FloatingPointError: A weight became too large for its type.
    """
    tensors = _tensors(model)
    masters, dtype = {name: tensors[name].data for name in types}, model.config.dtype
    try:
        for name, kind in types.items():
            value = masters[name].to(kind)
            if not torch.isfinite(value).all():
                raise FloatingPointError(
                    f"{name} cannot be saved in {named(types)}, the model's own type: a value is not finite or too "
                    "large for it; load the model with dtype=torch.float32."
                )
            tensors[name].data = value.to(masters[name].dtype) if rounded else value
        yield
    finally:
        for name, master in masters.items():
            tensors[name].data = master
        model.config.dtype = dtype


def named(types: Mapping[str, torch.dtype]) -> str:
    """The types in which weights are saved, in words."""
    return " and ".join(sorted({str(kind).removeprefix("torch.") for kind in types.values()}))


def masters_of(model: PreTrainedModel) -> dict[str, torch.dtype]:
    """:func:`widened`, with a word to the user."""
    if types := widened(model):
        logger.warning(
            "the model's weights are in %s, in which most small steps are rounded away: they are trained in float32 "
            "and saved in %s.",
            *(named(types), named(types)),
        )
    return types


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    return dict(itertools.chain(model.named_parameters(), model.named_buffers()))
