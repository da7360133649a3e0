"""A linear head on every layer of a model, as a probe reads it, for an adversary that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .functional import dropout
from .pooling import pool

HEAD = "every_layer_head"
_SMALLEST = 1e-4  # a share of the features' mean variance: one that varies less counts as nearly constant
_LAST = "set adversary={'reads': 'last'}"


class AutoModelForEveryLayer:
    """Finds the model that reads every layer of another, as an ``AutoModelFor...`` class: ``skeleton(auto_class=)``.

    The trunk runs once, on a few rows, to find the widths of its layers.

    Args:
        model: The model whose trunk is read.
        batch: Inputs of a few rows.

    Raises:
        ValueError: The trunk does not return hidden states that can be averaged, or cannot be built anew.
    """

    def __init__(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> None:
        trunk, kind = model.base_model, type(model.base_model).__name__
        if not isinstance(trunk, PreTrainedModel) or trunk.config.is_encoder_decoder:
            raise ValueError(f"an adversary cannot read all layers of {kind}: {_LAST}.")
        inputs = {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in batch.items()}
        with torch.no_grad(), dropout(model, on=False):
            outputs = trunk(**inputs, output_hidden_states=True)
        if not all(getattr(outputs, name, None) is not None for name in ("hidden_states", "last_hidden_state")):
            raise ValueError(f"{kind} returns no hidden states for an adversary to read: {_LAST}.")
        self._kind = _reader(type(trunk), joined(outputs, batch.get("attention_mask")).shape[1])
        self._model_mapping = self
        try:
            with torch.device("meta"):
                self._kind(model.config)
        except TypeError as error:
            raise ValueError(f"{kind} cannot be built from its configuration ({error}): {_LAST}.") from None

    def get(self, kind: Any, default: Any = None) -> type[PreTrainedModel]:
        """The class, whatever the configuration's is."""
        return self._kind


def joined(outputs: Any, mask: Tensor | None) -> Tensor:
    """The averages of all hidden states, joined to one vector per row.

    What follows the last hidden state counts too where it has another shape, as in networks that end in a convolution.

    Args:
        outputs: Of a trunk, with ``hidden_states``.
        mask: Shape ``(rows, positions)``, 1 where a position counts; ``None`` counts all.

    Returns:
        Shape ``(rows, widths)``.

    Raises:
        ValueError: The mask is of other positions than the hidden states'.
    """
    states = [*outputs.hidden_states]
    if outputs.last_hidden_state.shape != states[-1].shape:
        states.append(outputs.last_hidden_state)
    for state in states:
        if mask is not None and state.dim() == 3 and state.shape[:2] != mask.shape:
            raise ValueError(
                f"the attention mask is for {mask.shape[1]} positions and hidden states have {state.shape[1]}, whose "
                f"averages would contain padding: {_LAST}."
            )
    return torch.cat([pool(state, mask, "mean") for state in states], dim=1)


def standardised(features: Tensor) -> Tensor:
    """Features of mean 0 and variance 1 over the rows of a batch, as linear probes of networks are trained on them.

    Args:
        features: Shape ``(rows, width)``.
    """
    centred = features - features.mean(0)
    variance = centred.square().mean(0)
    floor = _SMALLEST * variance.detach().mean() + torch.finfo(features.dtype).tiny
    return centred / (variance + floor).sqrt()


def probe(features: Tensor, labels: Tensor, classes: int, *, ridge: float = 0.1) -> dict[str, Tensor]:
    """A head that knows: a ridge regression of classes on features, by inner products of rows.

    Args:
        features: Shape ``(rows, width)``.
        labels: Shape ``(rows,)``, integers.
        classes: Number of classes.
        ridge: Penalty, relative to the mean squared length of a standardised row.

    Returns:
        Weights by the names of the head's parameters.
    """
    known = standardised(features.double())
    inner = known @ known.T
    targets = one_hot(labels, classes).to(known)
    penalised = inner + ridge * inner.diagonal().mean() * torch.eye(len(inner)).to(inner)
    weight = known.T @ torch.linalg.solve(penalised, targets - targets.mean(0))
    weight = classes * weight  # a share of the class becomes a difference of logits of the order of 1
    return {f"{HEAD}.weight": weight.T.to(features), f"{HEAD}.bias": features.new_zeros(classes)}


class _Head(nn.Linear):
    """A linear head, by whose class :func:`_reader` knows what begins at 0."""


def _reader(trunk: type[PreTrainedModel], width: int) -> type[PreTrainedModel]:
    """A classifier on a trunk, whose head begins at 0."""
    base: Any = next(kind for kind in trunk.__mro__ if kind is PreTrainedModel or PreTrainedModel in kind.__bases__)
    base = PreTrainedModel if base is trunk else base

    def __init__(self: Any, config: Any) -> None:
        base.__init__(self, config)
        setattr(self, trunk.base_model_prefix, trunk(config))
        self.every_layer_head = _Head(width, config.num_labels)
        self.post_init()

    def _init_weights(self: Any, module: nn.Module) -> None:
        base._init_weights(self, module)
        if isinstance(module, _Head):  # of thousands of features, random weights would be loud
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    own: dict[str, Any] = {name: getattr(trunk, name) for name in ("config_class", "base_model_prefix")}
    own |= {"__init__": __init__, "_init_weights": _init_weights, "forward": _forward}
    return type(f"{trunk.__name__}ReadWhole", (base,), own)


def _forward(
    self: Any, output_hidden_states: bool = False, only_features: bool = False, **inputs: Any
) -> SequenceClassifierOutput:
    """The answers, or as ``logits`` what the head reads of each row, before it is standardised."""
    outputs = self.base_model(**inputs, output_hidden_states=True)
    features = joined(outputs, inputs.get("attention_mask"))
    return SequenceClassifierOutput(
        logits=features if only_features else self.every_layer_head(standardised(features)),
        hidden_states=outputs.hidden_states if output_hidden_states else None,
    )
