"""The live model with an adversary's weights, head and adapters, for as long as a context lasts.

The adversary's model then consists of the live model's own modules, so that what these do runs in the simulation too:
activation checkpointing, compiled layers, fused kernels, frozen or quantized layers. Only entries in the modules'
tables are exchanged. Nothing is written to the live parameters, their gradients or their hooks, and the live model is
bitwise as before once the entries are back.

Weights that ``fully_shard`` has sharded stay where they are, because FSDP gathers them for each layer as it runs: who
simulates an adversary writes to their shards (see ``meta_gradient/sharded_episode.py``). The adversary's own weights
alone are exchanged then, and the forward is called through the live model, whose hooks gather the weights of its root.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .distributed import reshard
from .functional import dropout
from .row_embedding import RowEmbedding

ABSENT = object()
Entry = tuple[dict[str, Any], str, Any]  # a table, a key, and the value to have there; ABSENT for none


@contextmanager
def held(
    module: PreTrainedModel,
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    *,
    published: Collection[str],
    training: bool = False,
    by_batch: bool = False,
) -> Iterator[nn.Module]:
    """Make a skeleton a model of live modules with the given weights, inside the context, and yield what to call.

    The context must outlast the backward pass, because recomputed activations need the same weights and modes.

    Args:
        module: A skeleton, with the adversary's head and adapters.
        model: The live model.
        weights: Every parameter and buffer that the forward pass uses, by the skeleton's names, but for sharded ones.
        published: Those of these names that the live model has, too.
        training: Whether dropout is on (see :func:`functional.dropout`). The layers that checkpoint their activations
            do so either way.
        by_batch: Whether batch normalisation uses the statistics of its batch.
    """
    sharded = isinstance(model, FSDPModule)
    with ExitStack() as stack:
        if sharded:
            stack.callback(reshard, model)
        stack.enter_context(_exchanged([*_joints(module, model, published, sharded=sharded)]))
        stack.enter_context(_exchanged([*_values(module, weights)]))
        stack.enter_context(dropout(module, on=training, by_batch=by_batch))
        stack.enter_context(_exchanged([] if training else [*_checkpoints(module)]))
        within = model.base_model is model and module.base_model is not module  # the skeleton calls the live model
        if within or not sharded:
            yield module
            return
        stack.enter_context(_exchanged([(vars(model), "forward", module.forward)]))
        yield model


@contextmanager
def _exchanged(entries: Sequence[Entry]) -> Iterator[None]:
    before = [(table, key, table.get(key, ABSENT)) for table, key, _ in entries]
    try:
        _put(entries)
        yield
    finally:
        _put(before[::-1])


def _put(entries: Sequence[Entry]) -> None:
    for table, key, value in entries:
        if value is ABSENT:
            table.pop(key, None)
        else:
            table[key] = value


def _joints(
    module: PreTrainedModel, model: PreTrainedModel, published: Collection[str], *, sharded: bool
) -> Iterator[Entry]:
    """Put the live trunk, and a published head, under the skeleton's root, which no launcher has wrapped."""
    ours = _tensors(module)
    shared = {id(ours[name]) for name in published}
    for name, child in module.named_children():
        trunk = child is module.base_model
        live = model.base_model if trunk else model._modules.get(name)
        if live is None or not _alike(child, live) or not (trunk or {*map(id, _tensors(child).values())} <= shared):
            continue
        yield module._modules, name, live
        yield from _differences(child, live, sharded=sharded)
        if live is model:
            yield vars(live), "forward", ABSENT


def _differences(child: nn.Module, live: nn.Module, *, sharded: bool) -> Iterator[Entry]:
    """Put the skeleton's modules where the live ones are of another kind: adapters, a pooler, some rows of a table."""
    for name in {**child._modules, **live._modules}:
        ours, theirs = child._modules.get(name), live._modules.get(name)
        if sharded and isinstance(ours, RowEmbedding):  # only whole modules gather their weights
            continue
        if sharded and isinstance(ours, LoraLayer) and theirs is not None:
            yield ours._modules, "base_layer", theirs
        if ours is not None and theirs is not None and _alike(ours, theirs):
            yield from _differences(ours, theirs, sharded=sharded)
        elif ours is not theirs:
            yield vars(live), name, ABSENT  # an optional module that is None is no entry of `_modules`
            yield live._modules, name, ours


def _alike(child: nn.Module, live: nn.Module) -> bool:
    """Whether a live module can stand for the skeleton's: it is of that class and has tensors of those shapes."""
    ours, theirs = ({n: v.shape for n, v in _own(m).items()} for m in (child, live))
    return isinstance(live, type(child)) and ours == theirs


def _values(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[Entry]:
    """Put the weights in all places of the tensors that they stand for; tied ones have several."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for key, value in table.items():
                places.setdefault(id(value), []).append((table, key))
    found = _tensors(module)
    for name, value in weights.items():
        live = found[name]
        # A quantized weight is more than its memory, so a frozen one stays the live object.
        if value.requires_grad or live.requires_grad or live.data_ptr() != value.data_ptr():
            yield from ((table, key, value) for table, key in places[id(live)])


def _checkpoints(module: nn.Module) -> Iterator[Entry]:
    """Let layers checkpoint their activations as they do in training mode, and compute in evaluation mode."""
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            table, key = vars(layer), "_gradient_checkpointing_func"
            yield table, key, _evaluating(layer, table[key])
            yield table, "training", True


def _evaluating(layer: nn.Module, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    def checkpointed(forward: Callable[..., Any], *inputs: Any) -> Any:
        def evaluated(*given: Any) -> Any:
            layer.training = False
            try:
                return forward(*given)
            finally:
                layer.training = True

        return checkpoint(evaluated, *inputs)

    return checkpointed


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {n: v for n, v in chain(module._parameters.items(), module._buffers.items()) if v is not None}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)))
