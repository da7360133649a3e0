"""Checks of the given models and ledger, before any work starts."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from ..attacks import Target
from ..attacks.suites.ledger import Ledger
from ..attacks.target import check_shape, refuse_adapter
from ..files import reason
from .processors import loaded, sought


def refuse_quantized(model: str) -> None:
    """Refuse a model with quantized weights: gradients do not reach them.

    Raises:
        ValueError: The weights are quantized, or the configuration cannot be loaded.
    """
    config = loaded(AutoConfig, model)
    if (how := getattr(config, "quantization_config", None)) is not None:
        named = how.get("quant_method") if isinstance(how, dict) else None
        raise ValueError(
            f"model {model!r} is quantized ({named or 'according to its configuration'}), and gradients do not reach "
            "quantized weights: use the model in floating point, and quantize the hardened model."
        )


def check_target(target: Target) -> None:
    """Refuse a model that cannot be attacked, by reading only its small files."""
    where, folder = f"{target.role} model {target.folder}{sought(target.folder)}", Path(target.folder)
    try:
        refuse_adapter(target.folder)
        AutoConfig.from_pretrained(target.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: cannot load it ({reason(error)}).") from None
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(f"{where}: no model.safetensors; save the model as safetensors, no other format is loaded.")
    refuse_quantized(target.folder)


def check_alike(targets: list[Target]) -> None:
    """Refuse references of another architecture: their numbers would not be comparable."""
    hardened = next(t for t in targets if t.role == "hardened").config()
    for target in targets:
        check_shape(target, hardened)


def check_storage(storage: str | None) -> None:
    """Refuse a ledger that cannot be opened.

    Raises:
        ValueError: The storage cannot be opened.
    """
    Ledger(storage)
