"""Load the tokenizer or image processor of a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BaseImageProcessor,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from ..attacks.data import Collate
from ..attacks.target import auto_class
from ..files import reason
from ..tasks.positions import positions_of
from .images import image_batch
from .sections import DataConfig

logger = logging.getLogger(__name__)

Processor = PreTrainedTokenizerBase | BaseImageProcessor


def processor_of(model: str, data: DataConfig) -> Processor:
    """Load the tokenizer or image processor of a model.

    The tokenizer truncates texts at the model's maximum length. If it has no padding token, it uses that of the
    model's configuration, else the end-of-sequence token.

    Args:
        model: Folder or Hub id.
        data: The examples; they must be of the model's modality.

    Raises:
        ValueError: The processor cannot be loaded, the modality differs, or there is no token to pad with.
    """
    config = loaded(AutoConfig, model)
    kind = auto_class(config)
    if (kind is AutoModelForImageClassification) != (data.image_column is not None):
        kinds = {AutoModelForImageClassification: "images", AutoModelForSequenceClassification: "texts"}
        raise ValueError(
            f"model {model!r} ({config.model_type}) reads {kinds.get(kind, 'sounds')}, but the examples are "
            f"{'images' if data.image_column else 'texts'}: use another model, or name the right column in data "
            "(text_column for texts, image_column for images)."
        )
    if data.image_column is not None:
        return loaded(AutoImageProcessor, model)
    tokenizer = loaded(AutoTokenizer, model)
    if (most := _positions(model, config, kind)) is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, most)
    return _padding(tokenizer, model, config)


def collator_of(processor: Processor) -> Collate:
    """Return the collator for the rows of a processor."""
    return image_batch if isinstance(processor, BaseImageProcessor) else DataCollatorWithPadding(processor)


def padding_of(processor: Processor) -> int | None:
    """Return the id of the padding token; ``None`` for images."""
    return getattr(processor, "pad_token_id", None)


def loaded(auto: Any, model: str) -> Any:
    """Call ``from_pretrained`` of an auto class.

    Raises:
        ValueError: Loading fails.
    """
    try:
        return auto.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {model!r}{sought(model)}: cannot load it ({reason(error)}).") from None


def sought(model: str) -> str:
    """Say in a message that a model was searched on the Hub, unless it is a folder."""
    return "" if Path(model).is_dir() else " (no such folder here, so searched on the Hub)"


def _positions(model: str, config: PretrainedConfig, kind: Any) -> int | None:
    try:
        with torch.device("meta"):
            return positions_of(kind.from_config(config))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"model {model!r}: cannot build a model from its configuration ({reason(error)}).") from None


def _padding(tokenizer: PreTrainedTokenizerBase, model: str, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    if tokenizer.pad_token is not None:
        return tokenizer
    known: Any = getattr(config.get_text_config(), "pad_token_id", None)
    named = isinstance(known, int) and 0 <= known < len(tokenizer)
    token = tokenizer.convert_ids_to_tokens(known) if named else tokenizer.eos_token
    if token is None:
        raise ValueError(
            f"model {model!r}: its tokenizer has neither a padding token nor an end-of-sequence token: set pad_token "
            "in its tokenizer_config.json to a token of its vocabulary."
        )
    logger.warning("the tokenizer of %s has no padding token; using %r.", model, token)
    tokenizer.pad_token = token
    return tokenizer
