"""Task heads, found from the model's own class and never by a layer's name.

A model is a trunk (its ``base_model``) and a head (every other parameter). A *skeleton* is the same
architecture with another number of labels and no weights of its own: all of them are supplied at
call time, so it shares nothing with the live model (no training flags, no autocast wrapper, no
hooks) and weighs nothing.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel


def trunk_prefix(model: PreTrainedModel) -> str:
    """Prefix of the trunk's parameter names, such as ``"bert."``.

    Raises:
        ValueError: The model has no trunk distinct from itself, or no head.
    """
    prefix = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters()]
    if not any(n.startswith(prefix) for n in names) or all(n.startswith(prefix) for n in names):
        raise ValueError(
            f"{type(model).__name__} is not a trunk with a task head; "
            "load it with AutoModelForSequenceClassification.from_pretrained(..., num_labels=...)."
        )
    return prefix


def head_names(model: PreTrainedModel) -> list[str]:
    """Names of the head's parameters, in the model's order."""
    prefix = trunk_prefix(model)
    return [name for name, _ in model.named_parameters() if not name.startswith(prefix)]


def skeleton(model: PreTrainedModel, num_labels: int, *, attention: str | None = None) -> PreTrainedModel:
    """The model's architecture with ``num_labels`` outputs and weights on the ``meta`` device.

    Args:
        model: A model with a task head.
        num_labels: Classes of the task the new head is for.
        attention: Attention implementation, such as ``"eager"``; the model's own by default.

    Returns:
        A model in evaluation mode, to be called through ``torch.func.functional_call``.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        >>> model = BertForSequenceClassification(BertConfig(num_labels=5, **sizes))
        >>> skeleton(model, 2).classifier.weight.shape
        torch.Size([2, 8])
    """
    config = copy.deepcopy(model.config)
    config.num_labels = num_labels
    with torch.device("meta"):
        built = type(model)._from_config(config, attn_implementation=attention or config._attn_implementation)
    return built.eval()


def draw_head(bones: PreTrainedModel, seed: int, *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Fresh head weights from the architecture's own initialisation.

    Args:
        bones: A skeleton.
        seed: Seed of the draw; the global generator is left as it was.
        device: Where the tensors are wanted.

    Returns:
        Parameter name to tensor, without gradient.
    """
    prefix = trunk_prefix(bones)
    real = copy.deepcopy(bones)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, child in real.named_children():
            if f"{name}." != prefix:
                child.to_empty(device="cpu").apply(bones._init_weights)  # children first, as from_config does
        real._init_weights(real)  # some models set their head's scale from the outside
    head = {name: value.detach() for name, value in real.named_parameters() if not name.startswith(prefix)}
    if unmade := [name for name, value in head.items() if value.is_meta]:
        raise ValueError(
            f"{type(bones).__name__} keeps head parameters outside its child modules ({', '.join(unmade)}); "
            "such a head cannot be rebuilt."
        )
    return {name: value.to(device) for name, value in head.items()}
