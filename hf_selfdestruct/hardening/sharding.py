"""What an episode in place asks of a model whose weights ``fully_shard`` has sharded."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..losses.base import BlockingLoss
from .config import HardeningConfig

_CHECKED: WeakSet[PreTrainedModel] = WeakSet()  # to gather all weights takes a while
FLAT = "or set method_options={'episode': 'flat'}."


def check_in_place(
    model: PreTrainedModel,
    config: HardeningConfig,
    processes: int,
    adversaries: Sequence[Adversary],
    losses: Sequence[BlockingLoss],
) -> None:
    """Check a sharded model and what simulates on it; every process must call this before an episode.

    Args:
        model: The live model.
        config: The settings of hardening.
        processes: How many simulate an adversary together.
        adversaries: The adversaries to draw from.
        losses: The blocking losses.

    Raises:
        ValueError: They cannot work together; the message says what to do.
    """
    _check_settings(config, adversaries)
    if not isinstance(model, FSDPModule):
        raise ValueError(
            f"parts of the model are sharded, and the model itself is not: call fully_shard on it, too, {FLAT}"
        )
    for name, weight in model.named_parameters():
        if not isinstance(weight, DTensor) or weight.device_mesh.ndim > 1:
            raise ValueError(f"{name} is not sharded by a mesh of one dimension: call fully_shard with one, {FLAT}")
        if weight.device_mesh.size() != processes:
            raise ValueError(
                f"{name} is sharded over {weight.device_mesh.size()} processes, and {processes} simulate an adversary "
                "together: set adversary={'scope': 'global'}."
            )
        if weight.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{name} is in {weight.dtype}, and inner steps run in float32: convert the model by model.float() "
                f"before it is sharded, {FLAT}"
            )
    inside = any("all_layers" in one.options("reads") or "apart" in one.options("pairs") for one in adversaries)
    if isinstance(model.base_model, FSDPModule) and (inside or any(loss.wants_hidden_states for loss in losses)):
        raise ValueError(
            "transformers does not return the hidden states of a trunk that fully_shard was called on: call it on the "
            f"layers and on a model with a head, leave out what reads hidden states, {FLAT}"
        )
    if model not in _CHECKED:
        _check_precision(model)
        _CHECKED.add(model)


def _check_settings(config: HardeningConfig, adversaries: Sequence[Adversary]) -> None:
    pool = config.adversary_settings.adversary_pool()
    if pool is not None and pool.storage != "device":
        raise ValueError(
            f"pool_storage={pool.storage!r} needs whole weights, and this model's are sharded: set "
            f"adversary={{'pool_storage': 'device'}}, {FLAT}"
        )
    if any("probe" in one.options("head") for one in adversaries):
        raise ValueError(
            "head='probe' reads whole weights, and this model's are sharded: set adversary={'head': 'random'}."
        )


def _check_precision(model: PreTrainedModel) -> None:
    for module in model.modules():
        if not isinstance(module, FSDPModule) or not (stored := [p.dtype for p in module.parameters()]):
            continue
        module.unshard()
        gathered = [p.dtype for p in module.parameters()]
        module.reshard()
        if gathered != stored:
            kinds = ", ".join(sorted({str(kind) for kind in gathered if kind not in stored}))
            raise ValueError(
                f"FSDP computes in {kinds}, and inner steps run in {stored[0]}: leave out mp_policy of fully_shard, or "
                f"bf16=True, {FLAT}"
            )
