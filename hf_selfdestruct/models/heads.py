"""Task heads, found from the model's class and never by a layer's name.

A model consists of a trunk (its ``base_model``) and a head (every other parameter). A *skeleton* is the architecture
with a head for another task and without weights. The caller passes all weights, so a skeleton shares nothing with the
live model (no training flags, no autocast wrapper, no hooks) and needs no memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForDocumentQuestionAnswering,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    AutoModelForQuestionAnswering,
    AutoModelForSemanticSegmentation,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForUniversalSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)

AUTO_CLASSES = {
    "input_ids": AutoModelForSequenceClassification,
    "pixel_values": AutoModelForImageClassification,
    "input_values": AutoModelForAudioClassification,
    "input_features": AutoModelForAudioClassification,
}
# Heads with labels for tokens, pixels, boxes or answer spans instead of one label per row.
OF_PARTS: tuple[Any, ...] = (
    *(AutoModelForTokenClassification, AutoModelForQuestionAnswering, AutoModelForDocumentQuestionAnswering),
    *(AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation, AutoModelForObjectDetection),
    AutoModelForAudioFrameClassification,
)

_SIZED: dict[tuple[type[PreTrainedModel], str], frozenset[str]] = {}  # by class and configuration: they are built often


def trunk_prefix(model: PreTrainedModel) -> str:
    """Return the prefix of the trunk's parameter names, such as ``"bert."``; empty for a bare trunk."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def head_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the head's parameters, in the model's order; none for a bare trunk.

    In classifiers without a separate trunk in transformers (CLIP, SigLIP), the head consists of the parameters whose
    shape depends on the number of labels.
    """
    names, prefix = [name for name, _ in model.named_parameters()], trunk_prefix(model)
    if prefix:
        return [name for name in names if not name.startswith(prefix)]
    sized = _sized(model)
    return [name for name in names if name.replace(".base_layer.", ".") in sized]


def has_task_head(model: PreTrainedModel) -> bool:
    """Whether the model's head classifies whole rows, with one output per label (unlike a language-modelling head)."""
    return not any(is_of(model, auto_class) for auto_class in OF_PARTS) and bool(_sized(model))


def is_of(model: PreTrainedModel, auto_class: Any) -> bool:
    """Whether the model is an instance, or of a subclass, of the class that ``AutoModelFor...`` maps its config to."""
    return isinstance(model, auto_class._model_mapping.get(stock_config_class(model.config), ()))


def skeleton(
    model: PreTrainedModel, num_labels: int, *, twice: bool = False, auto_class: Any = None
) -> PreTrainedModel:
    """Build the model's architecture with ``num_labels`` outputs on the ``meta`` device.

    Args:
        model: A model. If its head classifies whole rows, the skeleton has the same class; otherwise (a bare trunk, a
            language model, a tagger) it has transformers' class for classifying such inputs.
        num_labels: Number of classes of the new head.
        twice: Whether it must be twice differentiable (see :func:`functional.call`). If so, attention is torch's SDPA,
            or eager where a model has no SDPA; by default it is the live model's.
        auto_class: The ``AutoModelFor...`` class of the new head, instead.

    Returns:
        A model in evaluation mode, to call through ``torch.func.functional_call``.

    Raises:
        ValueError: This architecture has no such class.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        >>> model = BertForSequenceClassification(BertConfig(num_labels=5, **sizes))
        >>> skeleton(model, 2).classifier.weight.shape
        torch.Size([2, 8])
    """
    if auto_class is None and has_task_head(model):
        return _built(type(model), model, num_labels, twice)
    auto_class = auto_class or AUTO_CLASSES.get(model.main_input_name)
    kind = auto_class and auto_class._model_mapping.get(stock_config_class(model.config), None)
    if kind is None:
        raise ValueError(
            f"{type(model).__name__} has no classification head, and transformers has none for its architecture; pass "
            f"BlockedTask(..., model_class=) an AutoModelFor... class that supports {type(model.config).__name__}."
        )
    return _built(kind[0] if isinstance(kind, tuple) else kind, model, num_labels, twice)


def stock_config_class(config: PreTrainedConfig) -> type[PreTrainedConfig]:
    """Return the configuration class of transformers for a model type, else the configuration's own class."""
    return CONFIG_MAPPING[config.model_type] if config.model_type in CONFIG_MAPPING else type(config)


def live_skeleton(model: PreTrainedModel, *, twice: bool = False) -> PreTrainedModel:
    """Build a skeleton of the live model's class and head."""
    return _built(type(model), model, model.config.num_labels or 0, twice)


def names_between(module: PreTrainedModel, model: PreTrainedModel, *, keep_head: bool = False) -> dict[str, str]:
    """Map the names of a skeleton's parameters and buffers to those of the live model.

    Args:
        module: A skeleton, with or without adapters.
        model: The live model.
        keep_head: Whether to include the published head.

    Returns:
        The names in the trunk with equal shapes in both models and, if kept, those in the head.
    """
    live = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    ours, theirs = trunk_prefix(module), trunk_prefix(model)
    head, found = {*head_names(module)}, {}
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        plain = name.replace(".base_layer.", ".")  # PEFT wraps the layers it adapts
        trunk = plain.startswith(ours) and name not in head
        outer = theirs + plain.removeprefix(ours) if trunk else plain if keep_head else ""
        if outer in live and (live[outer].shape == value.shape):
            found[name] = outer
    return found


def draw(module: PreTrainedModel, names: Iterable[str], seed: int, *, device: torch.device | str = "cpu") -> dict:
    """Initialise new weights as the architecture does (adapters: as PEFT does).

    Args:
        module: A skeleton.
        names: Names of the parameters to initialise, such as those of a head.
        seed: Seed of the initialisation; the global generator is not affected.
        device: Device of the tensors.

    Returns:
        Parameter name to tensor, without gradient.
    """
    wanted = list(names)
    real = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs permanently, too
        owners = _owners(real, wanted)
        for child in owners.values():
            child.to_empty(device="cpu", recurse=False)
            for value in child.parameters(recurse=False):
                value.data.fill_(math.nan)  # to detect uninitialised parameters
        # Children first, as in from_config: some modules rescale a child afterwards.
        for name, child in reversed([*real.named_modules()]):
            if not name or any(f"{owner}.".startswith(f"{name}.") for owner in owners):
                module._init_weights(child)
        _reset_adapters(real)
    drawn: dict[str, Tensor] = {n: p.detach() for n, p in real.named_parameters()}
    if unmade := [n for n in wanted if drawn[n].isnan().any()]:
        raise ValueError(
            f"{type(module).__name__} does not initialise {', '.join(unmade)}; add it to the class's _init_weights."
        )
    return {n: drawn[n].to(device) for n in wanted}


def last_layers(module: PreTrainedModel, count: int) -> list[str]:
    """Return the names of the parameters of the last ``count`` layers and of all later parameters.

    The layers are those of the module list with the most parameters.

    Raises:
        ValueError: The model has fewer layers.
    """
    lists = {n: m for n, m in module.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in lists.items()}
    name = max(sizes, key=lambda n: sizes[n], default="")
    layers = len(lists[name]) if name else 0
    if layers < count:
        raise ValueError(f"trainable='last_{count}': {type(module).__name__} has {layers} layers; use fewer, or 'all'.")
    names = [n for n, _ in module.named_parameters()]
    first = next(i for i, n in enumerate(names) if n.startswith(f"{name}.{layers - count}."))
    return names[first:]


def _built(kind: Any, model: PreTrainedModel, num_labels: int, twice: bool = False) -> PreTrainedModel:
    config = copy.deepcopy(model.config)
    config.num_labels = num_labels
    attention = config._attn_implementation
    if twice:
        attention = "sdpa" if kind._supports_sdpa else "eager"
    with torch.device("meta"):
        return kind._from_config(config, attn_implementation=attention).eval()


def _sized(model: PreTrainedModel) -> frozenset[str]:
    """Return the names of the parameters whose shape depends on the number of labels."""
    key = (type(model), model.config.to_json_string(use_diff=False))
    if key not in _SIZED:
        built = (_built(type(model), model, labels) for labels in (2, 3))
        two, three = ({n: p.shape for n, p in one.named_parameters()} for one in built)
        _SIZED[key] = frozenset(name for name, shape in three.items() if two.get(name) != shape)
    return _SIZED[key]


def _owners(module: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """Return the modules that own the named parameters, by name, without duplicates, in order."""
    return {owner: module.get_submodule(owner) for owner in (name.rpartition(".")[0] for name in names)}


def _reset_adapters(module: PreTrainedModel) -> None:
    configs: Any = getattr(module, "peft_config", {})
    for child in module.modules():
        if isinstance(child, LoraLayer):
            for adapter in (*child.lora_A, *child.lora_embedding_A):
                child.reset_lora_parameters(adapter, configs[adapter].init_lora_weights)
