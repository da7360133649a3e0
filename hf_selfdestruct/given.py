"""The model and the arguments that a trainer was given, or why it cannot be one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)
from transformers.trainer_utils import align_special_tokens, number_of_arguments

from .training_args import SelfDestructTrainingArguments


def check_arguments(kind: type, args: Any) -> None:
    """Refuse arguments of another kind than a trainer's class reads.

    Raises:
        TypeError: They are not ours, or not those of every base class.
    """
    if not isinstance(args, SelfDestructTrainingArguments):
        raise TypeError(f"args must be SelfDestructTrainingArguments, got {type(args).__name__}.")
    if issubclass(kind, Seq2SeqTrainer) and not isinstance(args, Seq2SeqTrainingArguments):
        raise TypeError(
            f"{kind.__name__} is a Seq2SeqTrainer too and reads its arguments: give args= of a class "
            "`@dataclass class Args(SelfDestructTrainingArguments, Seq2SeqTrainingArguments)`."
        )


def given_model(model: Any, model_init: Callable[..., Any] | None, seed: int) -> PreTrainedModel:
    """The ``transformers`` model of what a trainer was given.

    Args:
        model: A model, a ``CrossEncoder`` or a ``SentenceTransformer`` (whose own model is then trained in place).
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
    if isinstance(model, PreTrainedModel):
        return model
    cure = "give one, such as AutoModelForSequenceClassification.from_pretrained(...)."
    if model is None:
        raise ValueError(f"no model: {cure}")
    if isinstance(model, str):
        cure = f"load it first, AutoModelForSequenceClassification.from_pretrained({model!r}) for example."
    elif _inherits(model, "peft."):
        cure = "merge its adapters into its weights first: model=model.merge_and_unload()."
    elif hasattr(model, "_orig_mod"):
        cure = "give the model that was compiled; compiled graphs have no second derivative."
    elif callable(model) and not hasattr(model, "forward"):
        cure = "give a function that makes the model as model_init=."
    raise TypeError(f"model must be a transformers PreTrainedModel, got {type(model).__name__}: {cure}")


def align(model: PreTrainedModel, tokenizer: Any) -> None:
    """Let the configuration name the tokenizer's special tokens, as ``Trainer`` does when training begins."""
    if isinstance(tokenizer, PreTrainedTokenizerBase | ProcessorMixin):
        align_special_tokens(model, tokenizer)


def _inherits(model: Any, package: str) -> bool:
    return any(one.__module__.startswith(package) for one in type(model).__mro__)
