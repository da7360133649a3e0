"""What is refused of the models and the ledger that somebody named, before anything is done with them."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from ..attacks import Target
from ..attacks.suites.ledger import Ledger
from ..attacks.target import refuse_adapter
from ..files import reason
from .processors import loaded, sought

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def refuse_quantized(model: str) -> None:
    """Refuse a folder or a model on the Hub whose weights are quantized: no gradient reaches such weights.

    Raises:
        ValueError: They are, or the configuration cannot be loaded.
    """
    config = loaded(AutoConfig, model)
    if (how := getattr(config, "quantization_config", None)) is not None:
        named = how.get("quant_method") if isinstance(how, dict) else None
        raise ValueError(
            f"model {model!r} is quantized ({named or 'as its configuration says'}), and no gradient reaches such "
            "weights: take the model in floating point, and quantize the hardened one."
        )


def check_target(target: Target) -> None:
    """Refuse a model that could not be attacked, from its small files alone."""
    where, folder = f"{target.role} model {target.folder}{sought(target.folder)}", Path(target.folder)
    try:
        refuse_adapter(target.folder)
        AutoConfig.from_pretrained(target.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: cannot be loaded ({reason(error)}).") from None
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(f"{where}: no model.safetensors; weights in other formats are never loaded.")
    refuse_quantized(target.folder)


def check_alike(targets: list[Target]) -> None:
    """Refuse references of another architecture: their numbers would say nothing about the hardened model."""
    hardened = next(t for t in targets if t.role == "hardened")
    config = AutoConfig.from_pretrained(hardened.folder, trust_remote_code=False)
    for target in targets:
        other = AutoConfig.from_pretrained(target.folder, trust_remote_code=False)
        if differing := [n for n in ("model_type", *SIZES) if getattr(config, n, None) != getattr(other, n, None)]:
            name = differing[0]
            raise ValueError(
                f"{target.role} model {target.folder}: {name} is {getattr(other, name, None)!r}, the hardened "
                f"model's is {getattr(config, name, None)!r}; references must have the hardened model's architecture."
            )


def check_storage(storage: str | None) -> None:
    """Refuse a ledger that cannot be opened."""
    Ledger(storage)
