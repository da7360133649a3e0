"""What makes a model's inputs of texts or images: its tokenizer or its image processor, as the attacks need them."""

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
    """The tokenizer or the image processor of a folder or of a model on the Hub.

    A tokenizer cuts texts at the model's positions. One without a padding token pads with that of the model's
    configuration, else with the token that ends texts.

    Args:
        model: The folder or Hub id.
        data: The examples; the model must be one for texts where they are texts, and for images where images.

    Raises:
        ValueError: It cannot be loaded, is of other examples, or has no token to pad with.
    """
    config = loaded(AutoConfig, model)
    kind = auto_class(config)
    if (kind is AutoModelForImageClassification) != (data.image_column is not None):
        kinds = {AutoModelForImageClassification: "images", AutoModelForSequenceClassification: "texts"}
        raise ValueError(
            f"model {model!r} ({config.model_type}) reads {kinds.get(kind, 'sounds')}, and the examples are "
            f"{'images' if data.image_column else 'texts'}: name another model, or in data the column with what it "
            "reads: text_column for texts, image_column for images."
        )
    if data.image_column is not None:
        return loaded(AutoImageProcessor, model)
    tokenizer = loaded(AutoTokenizer, model)
    if (most := _positions(model, config, kind)) is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, most)
    return _padding(tokenizer, model, config)


def collator_of(processor: Processor) -> Collate:
    """What makes batches of rows that a processor made."""
    return image_batch if isinstance(processor, BaseImageProcessor) else DataCollatorWithPadding(processor)


def padding_of(processor: Processor) -> int | None:
    """The token that pads rows; images have none."""
    return getattr(processor, "pad_token_id", None)


def loaded(auto: Any, model: str) -> Any:
    """What a class of ``transformers`` makes of a folder or of a model on the Hub.

    Raises:
        ValueError: It cannot.
    """
    try:
        return auto.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {model!r}{sought(model)}: cannot be loaded ({reason(error)}).") from None


def sought(model: str) -> str:
    """Where a model was looked for that is no folder, for messages."""
    return "" if Path(model).is_dir() else " (no such folder here, so it was looked for on the Hub)"


def _positions(model: str, config: PretrainedConfig, kind: Any) -> int | None:
    try:
        with torch.device("meta"):
            return positions_of(kind.from_config(config))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"model {model!r}: its configuration makes no model ({reason(error)}).") from None


def _padding(tokenizer: PreTrainedTokenizerBase, model: str, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    if tokenizer.pad_token is not None:
        return tokenizer
    known: Any = getattr(config.get_text_config(), "pad_token_id", None)
    named = isinstance(known, int) and 0 <= known < len(tokenizer)
    token = tokenizer.convert_ids_to_tokens(known) if named else tokenizer.eos_token
    if token is None:
        raise ValueError(
            f"model {model!r}: its tokenizer has no token to pad texts with, and none that ends them: set pad_token in "
            "its tokenizer_config.json to a token of its own."
        )
    logger.warning("the tokenizer of %s has no padding token: texts are padded with %r.", model, token)
    tokenizer.pad_token = token
    return tokenizer
