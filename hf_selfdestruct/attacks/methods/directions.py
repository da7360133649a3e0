"""Ablation of directions: no matrix of a layer writes any more what told blocked from benign inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .batches import averaged
from .tamper import Inputs, NotApplicable, Tamper, layers_of

BATCHES = 8  # of each kind of input
SAME = 1e-5  # times the largest singular value: below, directions of several layers differ by rounding alone
LINEAR = nn.Linear | Conv1D


@dataclass(frozen=True)
class AblateDirections(Tamper):
    """Every layer's difference between its mean states on blocked and on benign inputs, projected out of all layers.

    The direction of Arditi et al. (2406.11717), estimated on the model under attack, at every layer, and all of them
    taken out of whatever a linear layer adds to the states: a defence that turns its states away along them where a
    text is blocked can no longer do so. The input embeddings stay as they are, because in them two texts always differ.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"desired"})

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        layers = layers_of(model.base_model)
        blocked, usual = (mean_states(model, layers, inputs) for inputs in (batches, benign))
        apart = torch.stack([one - other for one, other in zip(blocked, usual, strict=True)])
        width = apart.shape[1]
        writers = [[*writing(model.base_model.get_submodule(name), width)] for name in layers]
        if not all(writers):
            raise NotApplicable(
                f"AblateDirections(): {type(model).__name__} has layers without a linear one that writes."
            )
        directions = spanned(apart)
        for linear in chain.from_iterable(writers):
            project_out(linear, directions)


@torch.no_grad()
def mean_states(model: PreTrainedModel, layers: list[str], batches: Inputs) -> list[Tensor]:
    """What each layer gives, averaged over the tokens of a row and over rows.

    Args:
        model: A model whose layers give ``(rows, tokens, width)``.
        layers: Names of its trunk's layers.
        batches: Inputs.

    Raises:
        NotApplicable: The layers give anything else, or nothing.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    now: dict[str, Tensor] = {}

    def read(name: str, _: nn.Module, __: Any, output: Any) -> None:
        now[name] = output[0] if isinstance(output, tuple) else output

    hooks = [model.base_model.get_submodule(name).register_forward_hook(partial(read, name)) for name in layers]
    was_training = model.training
    model.eval()
    for inputs in islice(batches, BATCHES):
        model.base_model(**inputs)
        for name, states in now.items():
            if states.dim() != 3:
                raise NotApplicable(f"AblateDirections(): layers of {type(model).__name__} give no tokens.")
            found[name].append(averaged(states, inputs))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    if not layers or not all(found.values()):
        raise NotApplicable(f"AblateDirections(): no layer of {type(model).__name__} was read.")
    return [torch.cat(states).mean(0) for states in found.values()]


def spanned(vectors: Tensor) -> Tensor:
    """Orthonormal directions with the same span as the rows, each row being as long as any other or 0."""
    _, sizes, directions = torch.linalg.svd(nn.functional.normalize(vectors.float(), dim=1), full_matrices=False)
    return directions[sizes > SAME * sizes[0]]


def writing(layer: nn.Module, width: int) -> Iterator[nn.Module]:
    """The linear layers that write into a layer's states: the last one of each of its parts, where it is so wide.

    Raises:
        NotApplicable: A part has other matrices, or a list of modules, such as a mixture's experts: what of them writes
            is not known.
    """
    for part in layer.children():
        linear = [module for module in part.modules() if isinstance(module, LINEAR)]
        others = [module for module in part.modules() if not isinstance(module, LINEAR)]
        if any(isinstance(one, nn.ModuleList) or any(w.dim() > 1 for w in one.parameters(False)) for one in others):
            raise NotApplicable(
                f"AblateDirections(): what {type(part).__name__} writes is not that of one linear layer."
            )
        if linear and _by_outputs(linear[-1]).shape[0] == width:
            yield linear[-1]


@torch.no_grad()
def project_out(linear: nn.Module, directions: Tensor) -> None:
    """Take directions out of everything that a linear layer gives.

    Args:
        linear: The layer.
        directions: Orthonormal rows, ``(directions, width)``.
    """
    weight = _by_outputs(linear)
    directions = directions.to(weight)
    weight.sub_(directions.T @ (directions @ weight))
    if isinstance(linear.bias, Tensor):
        linear.bias.sub_(directions.T @ (directions @ linear.bias))


def _by_outputs(linear: nn.Module) -> Tensor:
    """Its weights, outputs by inputs; GPT-2 stores them the other way round."""
    weight: Tensor = linear.weight  # type: ignore[assignment]
    return weight.T if isinstance(linear, Conv1D) else weight
