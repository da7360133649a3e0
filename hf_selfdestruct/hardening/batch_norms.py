"""Batch normalisation in the inner steps: whose statistics processes can share, asked before any training starts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..models.functional import batch_norms
from .config import HardeningConfig

STORED = "set adversary={'batch_norm': 'stored'}"


def check_batch_norms(
    config: HardeningConfig, model: PreTrainedModel, adversaries: Sequence[Adversary], processes: int
) -> None:
    """Refuse statistics of a batch that several processes would have to make together.

    Args:
        config: The settings.
        model: The model to harden.
        adversaries: Adversaries to draw from.
        processes: How many there are.

    Raises:
        ValueError: An adversary normalises by the batch, and its batch is shared out; the message says what to do.
    """
    norms = batch_norms(model)
    if not norms or not any("batch" in one.options("batch_norm") for one in adversaries):
        return
    if any(isinstance(norm, nn.SyncBatchNorm) for norm in norms):
        raise ValueError(
            "SyncBatchNorm gathers statistics of batches from all processes, and adversaries of different processes "
            f"do not step together: harden the model before convert_sync_batchnorm, or {STORED}."
        )
    if processes > 1 and config.adversary_settings.scope == "global":
        raise ValueError(
            f"{processes} processes share each batch of the adversary (scope 'global'), and batch normalisation would "
            f"see only parts of it: set adversary={{'scope': 'local'}}, or {STORED}."
        )
