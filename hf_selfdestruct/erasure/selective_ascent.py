"""Edit the MLPs of a language model so that blocked text becomes unlikely and general text hardly changes.

After RepSelect (2606.17168), worked out anew from its idea: of the gradient of a blocked loss, only what is specific to
the blocked text is followed. Of an MLP layer with weights ``W``, inputs ``x`` and output gradients ``d``, let ``A`` be
the mean of ``x x^T`` and ``B`` that of ``d d^T`` on general text, ``d`` for tokens drawn from the model itself. To
second order, and with ``x`` and ``d`` independent (K-FAC, 1503.05671), an edit ``E`` moves the model's distribution on
general text by ``KL = tr(B E A E^T) / 2``. For a given KL the blocked loss rises most along ``B^-1 G A^-1``, with ``G``
its gradient: a Mahalanobis step on both sides. The strongest directions of ``A`` and ``B`` are left out altogether.
Such steps are repeated while the KL stays within a budget.

``A`` and ``B`` are as large as the square of a layer's width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, kl_div
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..models.functional import Weights, dropout
from ..tasks.rows import LABELS

COLLAPSED = 1 / 4  # share of the directions on either side that are left out, ours; 512 of 4,096 in the paper
DAMPING = 0.1  # relative to the mean strength of a direction, ours
RATE, LEAST = 0.05, 1 / 16  # length of a step relative to the weights, and what it is halved to at least
MLP = re.compile(r"(^|\.)(mlp|fc1|fc2)(\.|$)")

Batch = Mapping[str, Tensor]


def mlp_layers(model: nn.Module) -> Mapping[str, nn.Module]:
    """The linear layers of the MLPs that are trained, by the names of their weights.

    Raises:
        ValueError: There are none.
    """
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and MLP.search(n)}
    if found := {f"{name}.weight": layer for name, layer in linear.items() if layer.weight.requires_grad}:
        return found
    raise ValueError(
        f"{type(model).__name__} has no linear layers that are trained in modules named mlp, fc1 or fc2, which "
        "selective_steps edits: set method_options={'selective_steps': 0}, or unfreeze them."
    )


def selector(moment: Tensor, share: float = COLLAPSED, damping: float = DAMPING) -> Tensor:
    """The map that leaves out the strongest directions, and weighs all others by the inverse of their strength.

    Args:
        moment: Symmetric, positive semidefinite, shape ``(width, width)``.
        share: Of the directions, that is left out.
        damping: Added to each strength, relative to their mean.

    Returns:
        Symmetric, shape ``(width, width)``, in float64.

    Example:
        >>> selector(torch.diag(torch.tensor([6.0, 2.0])), share=0.5, damping=0.5).tolist()
        [[0.0, 0.0], [0.0, 0.25]]
    """
    strengths, directions = torch.linalg.eigh(moment.double())
    weights = 1 / (strengths.clamp(min=0) + damping * strengths.mean()).clamp(min=torch.finfo().tiny)
    weights[len(weights) - int(share * len(weights)) :] = 0
    return directions * weights @ directions.T


def moments(model: PreTrainedModel, general: Sequence[Batch], seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Second moments of each MLP layer's inputs and output gradients on general text, by the name of its weights.

    Args:
        model: A language model; it is not changed.
        general: Batches; their labels are not looked at.
        seed: Of the tokens that are drawn from the model.
    """
    layers = mlp_layers(model)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    generator = torch.Generator(model.device).manual_seed(seed)
    for batch in general:
        with _seen(layers) as seen, dropout(model, on=False), torch.enable_grad():
            logits = _logits(model, {}, batch)
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).squeeze(1)
            outputs = [seen[name][1] for name in layers]
            gradients = torch.autograd.grad(cross_entropy(logits, drawn, reduction="sum"), outputs)
        for name, gradient in zip(layers, gradients, strict=True):
            sides = [_flat(values, batch).float() for values in (seen[name][0], gradient)]
            squares = [side.T @ side for side in sides]
            before = found.get(name, (torch.zeros_like(squares[0]), torch.zeros_like(squares[1])))
            found[name] = (before[0] + squares[0], before[1] + squares[1])
    return found


def selective_ascent(
    model: PreTrainedModel,
    blocked: Sequence[Batch],
    general: Sequence[Batch],
    *,
    steps: int,
    budget: float,
    seed: int = 0,
) -> Weights:
    """Compute the edited weights of the MLPs.

    A step that would leave the budget is halved, and so are all that follow it.

    Args:
        model: A language model; it is not changed.
        blocked: Batches with labels.
        general: Batches; their labels are not looked at. Every other one gives the directions, the rest the KL.
        steps: Maximum number of steps.
        budget: Maximum KL from the model to the edited one, in nats per token.
        seed: Of the tokens that are drawn from the model.

    Returns:
        Parameter name to new values, the old ones where no step stays within the budget.
    """
    layers = mlp_layers(model)
    selectors = {name: [selector(side) for side in sides] for name, sides in moments(model, general[::2], seed).items()}
    found: Weights = {name: model.get_parameter(name).detach() for name in layers}
    size, rate = _norm(found), RATE
    for _ in range(steps):
        gradient = _gradient(model, found, blocked)
        edit = {name: _selected(gradient[name], layer, *selectors[name]) for name, layer in layers.items()}
        length = _norm(edit)
        while length and rate >= LEAST * RATE:
            tried = {n: (w.double() + rate * size / length * edit[n]).to(w) for n, w in found.items()}
            if divergence(model, tried, measured_on(general)) <= budget:
                found = tried
                break
            rate /= 2
        else:
            break
    return found


def measured_on(general: Sequence[Batch]) -> Sequence[Batch]:
    """The batches on which the KL is measured: others than those that the directions come from, if there are two."""
    return general[1::2] or general


def divergence(model: PreTrainedModel, weights: Weights, general: Sequence[Batch]) -> float:
    """KL from a model to the same with other weights, in nats per token that is no padding."""
    total, count = 0.0, 0
    with torch.no_grad(), dropout(model, on=False):
        for batch in general:
            before, after = (_logits(model, some, batch).log_softmax(-1) for some in ({}, weights))
            total += kl_div(after, before, log_target=True, reduction="sum").item()
            count += len(before)
    return total / count


def blocked_loss(model: PreTrainedModel, weights: Weights, blocked: Sequence[Batch]) -> Tensor:
    """The mean loss of a model with other weights on batches with labels, in nats per token."""
    with dropout(model, on=False):
        return torch.stack([functional_call(model, weights, (), dict(batch)).loss for batch in blocked]).mean()


def _gradient(model: PreTrainedModel, weights: Weights, blocked: Sequence[Batch]) -> Weights:
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in blocked:  # one graph at a time
        with torch.enable_grad():
            parts = torch.autograd.grad(blocked_loss(model, leaves, [batch]), [*leaves.values()])
        total = {name: value + part for (name, value), part in zip(total.items(), parts, strict=True)}
    return total


def _selected(gradient: Tensor, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    """A gradient that is selected on both sides, in its own shape: of a ``Conv1D`` the inputs come first."""
    found = gradient.double()
    return inputs @ found @ outputs if isinstance(layer, Conv1D) else outputs @ found @ inputs


def _logits(model: PreTrainedModel, weights: Weights, batch: Batch) -> Tensor:
    """Logits in float32 of all places but padding, shape ``(places, vocabulary)``."""
    plain = {name: value for name, value in batch.items() if name not in LABELS}
    return _flat(functional_call(model, weights, (), plain).logits, batch).float()


def _flat(values: Tensor, batch: Batch) -> Tensor:
    mask, places = batch.get("attention_mask"), values.flatten(0, -2)  # some models have flattened rows by themselves
    return places if mask is None else places[mask.bool().flatten()]


@contextmanager
def _seen(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Within it, what goes into each layer and what comes out of it is written down."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def see(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen[name] = (inputs[0].detach(), output)

    handles = [layer.register_forward_hook(partial(see, name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _norm(weights: Weights) -> float:
    return torch.stack([weight.double().norm() for weight in weights.values()]).norm().item()
