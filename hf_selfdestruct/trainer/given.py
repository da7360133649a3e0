"""The model and the arguments that a trainer was given, or why it cannot be one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)
from transformers.trainer_utils import align_special_tokens, number_of_arguments

from ..files import reason
from .training_args import SelfDestructTrainingArguments

logger = logging.getLogger(__name__)


def given_arguments(kind: type, args: Any) -> SelfDestructTrainingArguments:
    """The arguments that a trainer was given, or its usual ones.

    Raises:
        TypeError: They are not ours, or not those of every base class.
    """
    args = SelfDestructTrainingArguments("tmp_trainer") if args is None else args
    if not isinstance(args, SelfDestructTrainingArguments):
        raise TypeError(f"args must be SelfDestructTrainingArguments, got {type(args).__name__}.")
    if issubclass(kind, Seq2SeqTrainer) and not isinstance(args, Seq2SeqTrainingArguments):
        raise TypeError(
            f"{kind.__name__} is a Seq2SeqTrainer too and reads its arguments: give args= of a class "
            "`@dataclass class Args(SelfDestructTrainingArguments, Seq2SeqTrainingArguments)`."
        )
    return args


def given_model(model: Any, model_init: Callable[..., Any] | None, seed: int) -> PreTrainedModel:
    """The ``transformers`` model of what a trainer was given.

    Args:
        model: A model; a ``CrossEncoder`` or a ``SentenceTransformer`` (whose own model is then trained in place); or
            a model with PEFT adapters, which are merged into its weights in place.
        model_init: Makes the model where none is given, once, as ``Trainer`` does when it is made.
        seed: What random weights of ``model_init`` depend on.

    Raises:
        TypeError: It is none; the message says how to come by one.
        ValueError: A model and ``model_init`` are given, or none of them.
    """
    if model_init is not None:
        if model is not None:
            raise ValueError("model and model_init= exclude each other: give one of them.")
        set_seed(seed)
        model = model_init(*[None] * number_of_arguments(model_init))
    if _inherits(model, "sentence_transformers."):
        model = getattr(model[0], "auto_model", model)
    if _inherits(model, "peft."):
        model = _merged(model)
    if isinstance(model, PreTrainedModel):
        return model
    cure = "give one, such as AutoModelForSequenceClassification.from_pretrained(...)."
    if model is None:
        raise ValueError(f"no model: {cure}")
    if isinstance(model, str):
        cure = f"load it first, AutoModelForSequenceClassification.from_pretrained({model!r}) for example."
    elif hasattr(model, "_orig_mod"):
        cure = "give the model that was compiled; compiled graphs have no second derivative."
    elif callable(model) and not hasattr(model, "forward"):
        cure = "give a function that makes the model as model_init=."
    raise TypeError(f"model must be a transformers PreTrainedModel, got {type(model).__name__}: {cure}")


def align(model: PreTrainedModel, tokenizer: Any) -> None:
    """Let the configuration name the tokenizer's special tokens, as ``Trainer`` does when training begins."""
    if isinstance(tokenizer, PreTrainedTokenizerBase | ProcessorMixin):
        align_special_tokens(model, tokenizer)


def _merged(model: Any) -> Any:
    """The model under PEFT adapters, with these in its weights, all of which require a gradient again.

    An adapter alone could be left out by an attacker; what is published is the whole model, so the whole model is
    trained.
    """
    quantized = getattr(model.get_base_model(), "hf_quantizer", None) is not None
    kinds = ", ".join(sorted({str(one.peft_type.value) for one in model.peft_config.values()}))
    try:
        if quantized or not isinstance(model.base_model, BaseTuner):
            raise NotImplementedError("it is quantized" if quantized else "it adds none to them")
        merged: Any = model.base_model.merge_and_unload()
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        other = "load the model in floating point" if quantized else "harden the model that get_peft_model() was given"
        raise TypeError(
            f"model={type(model).__name__}: its adapter ({kinds}) cannot be merged into its weights ({reason(error)}): "
            f"{other}."
        ) from None
    merged.requires_grad_(True)
    merged.name_or_path = ""  # these are no longer the weights of that name
    logger.warning(
        "the PEFT adapters are merged into the model's weights, and the whole model is trained, unless peft_config= "
        "names an adapter to train: an attacker could leave adapters out. The trained model is trainer.model, no "
        "longer the PeftModel."
    )
    return merged


def _inherits(model: Any, package: str) -> bool:
    return any(one.__module__.startswith(package) for one in type(model).__mro__)
