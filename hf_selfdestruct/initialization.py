"""Fresh weights to start hardening from: what was never there cannot be recovered.

A published model keeps what its weights remember of the blocked task; weights drawn anew remember nothing. Training
then puts back what the desired task needs, and no more. The price is general use: a buyer who wants another task
finds less to build on, and the report's control tasks say how much.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import heads
from .functional import Weights
from .tasks import seed_of
from .training_args import REINITIALIZE


def fresh_weights(model: PreTrainedModel, part: str, seed: int) -> Weights:
    """New values for a part of a model's weights.

    Args:
        model: The model; it is not changed.
        part: ``"embeddings"`` (the input embeddings, normal with the mean and standard deviation that each of their
            features has now, so that the layers above see inputs of the size they know) or ``"trunk"`` (everything
            below the head, by the architecture's own initialisation).
        seed: Seed of the draw; the global generator is left as it was.

    Returns:
        Parameter name to tensor.

    Raises:
        ValueError: ``part`` is misspelt, or the model has no table of input embeddings.
    """
    if part not in REINITIALIZE:
        raise ValueError(f"part must be one of {', '.join(REINITIALIZE)}; got {part!r}.")
    device, drawn_from = model.device, seed_of("fresh weights", part, seed)
    if part == "trunk":
        names = [n for n, _ in model.named_parameters() if n not in {*heads.head_names(model)}]
        return heads.draw(heads.live_skeleton(model), names, drawn_from, device=device)
    name, table = embeddings_of(model)
    noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(drawn_from)).to(table)
    return {name: table.mean(0) + table.std(0) * noise}


def embeddings_of(model: PreTrainedModel) -> tuple[str, Tensor]:
    """Name and values of a model's table of input embeddings.

    Raises:
        ValueError: It has none.
    """
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # transformers' answer for models of images
        table = None
    name = next((n for n, p in model.named_parameters() if p is table), None)
    if name is None or table is None or table.dim() != 2:
        raise ValueError(f"{type(model).__name__} has no table of input embeddings; use reinitialize='trunk'.")
    return name, table.detach()
