"""What the passes of an outer step take, run on tensors without data; and how many weights take part.

Sizes are read from the package's own skeleton of the adversary. A pass runs the model itself, with tensors that have
shapes and no memory, and counts the bytes that are alive at once.
"""

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from peft import inject_adapter_in_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_selfdestruct.hardening.simulator import LORA
from hf_selfdestruct.models.heads import skeleton
from hf_selfdestruct.models.row_embedding import can_compact
from hf_selfdestruct.models.stateless import StatelessModel

DEEP = 12  # layers, beyond which a pass is reckoned from models of 2 and 4 layers


class Peak(TorchDispatchMode):
    """Bytes of all tensors made inside, now and at most.

    Args:
        known: Tensors from before, which do not count.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {value.untyped_storage()._cdata: 0 for value in known}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it makes."""
        found = function(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in self._known:
                storage = value.untyped_storage()
                self._known[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return found

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


@dataclass(frozen=True, eq=False)
class Model:
    """A model and its adversary, as far as their memory depends on them.

    Attributes:
        config: The model's.
        language: Whether it predicts next tokens, with its published head; else it classifies rows.
        adapters: Whether the adversary trains its head and LoRA adapters alone.
    """

    config: PreTrainedConfig
    language: bool = False
    adapters: bool = False

    @property
    def kind(self) -> Any:
        """The class of transformers."""
        return AutoModelForCausalLM if self.language else AutoModelForSequenceClassification

    def __eq__(self, other: object) -> bool:
        """Whether it is the same model with the same adversary."""
        return isinstance(other, Model) and self._key() == other._key()

    def __hash__(self) -> int:
        """By what it is."""
        return hash(self._key())

    def _key(self) -> tuple[str, bool, bool]:
        return self.config.to_json_string(), self.language, self.adapters

    def of(self, layers: int) -> "Model":
        """The same with another number of layers."""
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = layers
        if hasattr(config, "layer_types"):
            config.layer_types = config.layer_types and config.layer_types[:layers]
        return replace(self, config=config)


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights.

    Attributes:
        live: Of the model.
        moving: That the adversary trains; of word embeddings, the rows that it can read.
        published: Of these, those that the model has, too.
        fixed: That it does not train, but a meta-gradient is computed for.
        stored: That an adversary of a pool stores for each moment, and for its offset and own weights.
        group: Of FSDP's largest group: each layer is one, and all that is in no layer.
    """

    live: int
    moving: int
    published: int
    fixed: int
    stored: int
    group: int


@cache
def sizes(model: Model, tokens: int) -> Sizes:
    """Count the weights of an outer step whose batches have so many tokens, as if no token came twice."""
    with torch.device("meta"):
        live = model.kind.from_config(copy.deepcopy(model.config))
    module = skeleton(live, 0 if model.language else 2, auto_class=model.kind)
    lora, rows = LORA if model.adapters else None, can_compact(module) and can_compact(live)
    adversary = StatelessModel(module, live, keep_head=model.language, lora=lora, rows=rows)
    moving, ours = adversary.trained("lora" if model.adapters else "all"), {*adversary.names.values()}
    published = {name: value.numel() for name, value in live.named_parameters() if name in ours}
    here, own = dict(published), sum(module.get_parameter(name).numel() for name in adversary.own)
    if (table := adversary.embedding) is not None:
        here[table] = min(published[table], tokens * live.get_parameter(table).shape[1])
    trained = sum(size for name, size in here.items() if name in moving)
    layers = max((m for m in live.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
    groups, count = [_size(layer) for layer in layers], _size(live)
    return Sizes(
        live=count,
        moving=own + trained,
        published=trained,
        fixed=sum(here.values()) - trained,
        stored=own + sum(size for name, size in published.items() if name in moving),
        group=max(*groups, count - sum(groups)),
    )


def in_depth(model: Model, found: Callable[[Model], float]) -> float:
    """What a deep model takes, from two shallow ones: each further layer takes the same."""
    layers = model.config.num_hidden_layers
    if layers <= DEEP:
        return found(model)
    few, more = found(model.of(2)), found(model.of(4))
    return few + (more - few) * (layers - 2) / 2


@cache
def episode_pass(
    model: Model, batch: int, length: int, *, twice: bool = False, in_place: bool = False, checkpoints: bool = False
) -> float:
    """Bytes that the adversary's forward and backward take at most, its gradients included unless it runs in place.

    Args:
        model: Model and adversary.
        batch: Rows.
        length: Tokens in each.
        twice: Whether it is a Hessian-vector product by double backward.
        in_place: Whether gradients are written where they are added up, weight by weight.
        checkpoints: Whether layers recompute their activations; only in place.
    """
    module = _built(model, checkpoints=checkpoints and in_place, adapters=model.adapters)
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel([SDPBackend.MATH]) if twice else nullcontext():
        weights = _filled(module)
        for value in weights if in_place else ():
            value.grad = torch.zeros_like(value)
        with Peak([*weights, *module.buffers(), *(value.grad for value in weights if in_place)]) as peak:
            losses = _losses(module, model, batch, length)
            if in_place:
                losses[0].backward()
            else:
                found = torch.autograd.grad(losses[0], weights, create_graph=twice, allow_unused=True)
            if twice:
                outputs = [g for g in found if g is not None and g.requires_grad]
                torch.autograd.grad(outputs, weights, [torch.ones_like(g) for g in outputs], allow_unused=True)
    return float(peak.most)


@cache
def desired_activations(
    model: Model, batch: int, length: int, *, checkpoints: bool = False, bfloat16: bool = False
) -> float:
    """Bytes that the desired loss's graph has while the adversary is simulated."""
    module = _built(model, checkpoints=checkpoints)
    with FakeTensorMode(allow_non_fake_inputs=True), Peak([*_filled(module), *module.buffers()]) as peak:
        loss = _losses(module, model, batch, length, bfloat16=bfloat16)[-1]
        found = peak.now
    del loss
    return float(found)


def _built(model: Model, *, checkpoints: bool, adapters: bool = False) -> PreTrainedModel:
    """The model in float32 on no device."""
    with torch.device("meta"):
        module = model.kind.from_config(copy.deepcopy(model.config), dtype=torch.float32).eval()
    if adapters:
        inject_adapter_in_model(copy.deepcopy(LORA), module, low_cpu_mem_usage=True)
    if checkpoints:
        module.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        for layer in module.modules():
            layer.training = isinstance(layer, GradientCheckpointingLayer)
    return module


def _filled(module: PreTrainedModel) -> list[Tensor]:
    """Put tensors of the mode that is on in the places of those on no device; return the weights."""
    made: dict[int, Tensor] = {}  # a tied weight is one tensor
    for owner in module.modules():
        for name, value in owner._parameters.items():
            if value is not None:
                owner._parameters[name] = made.setdefault(id(value), torch.nn.Parameter(torch.empty(value.shape)))
        for name, value in owner._buffers.items():
            if value is not None:
                owner._buffers[name] = torch.empty(value.shape, dtype=value.dtype)
    return [*module.parameters()]


def _losses(module: PreTrainedModel, model: Model, batch: int, length: int, *, bfloat16: bool = False) -> list[Tensor]:
    """The blocking loss and the task's own, or the latter alone for a desired batch in half precision."""
    tokens = torch.ones(batch, length, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
        logits = module(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    logits, labels = logits.float().flatten(0, -2), tokens.flatten() if model.language else tokens[:, 0]
    return [-logits.log_softmax(-1).mean(), cross_entropy(logits, labels)]


def _size(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())
