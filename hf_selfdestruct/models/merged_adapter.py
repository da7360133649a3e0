"""An adapter that is merged into a live model at every moment: the model is stock, and the adapter alone is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import heads

NAME, PART = "default", "lora_"
STATE = "/adapter/"  # before the names of an adapter's state: no task's name has a slash
START = f"{STATE}start/"  # before the names of the adapted weights as they were when training began
HEADS = ["classifier", "score"]  # what PEFT trains beside the adapter of a classifier
CLASSIFIERS = (TaskType.SEQ_CLS, TaskType.TOKEN_CLS)
# What a merged adapter can have of PEFT's settings; the others change the base, its biases or how it is called.
SETTINGS = (
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "fan_in_fan_out", "modules_to_save", "init_lora_weights", "task_type"),
    *("peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
)


class MergedAdapter(nn.Module):
    """LoRA matrices that alone are trained, beside a model whose adapted weights are always base plus adapter.

    The live model stays a stock model, so adversaries start from the weights that an attacker will get, and may move
    all of them. A gradient with respect to an adapted weight, the meta-gradient included, goes on to the adapter by
    the chain rule; the optimizer is made of this module's parameters that require a gradient.

    Args:
        model: The live model. Of its weights only the adapted ones and ``modules_to_save`` require a gradient now.
        config: PEFT's settings, in their usual meaning.
        seed: What the matrices' random start depends on.

    Raises:
        TypeError: The settings are of another kind of adapter.
        ValueError: They ask for what no merged adapter has, or do not fit the model.

    Example:
        ```python
        adapter = MergedAdapter(model, LoraConfig(r=8, target_modules="all-linear"), seed=0)
        optimizer = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad])
        loss.backward()
        adapter.gather()
        optimizer.step()
        adapter.spread()
        ```
    """

    def __init__(self, model: PreTrainedModel, config: LoraConfig, seed: int) -> None:
        super().__init__()
        self.config = _checked(config)
        saved = [*(config.modules_to_save or ()), *(HEADS if config.task_type in CLASSIFIERS else ())]
        skeleton = heads.live_skeleton(model)
        injected = copy.deepcopy(config)
        injected.modules_to_save = None
        inject_adapter_in_model(injected, skeleton, low_cpu_mem_usage=True)
        matrices = [name for name, _ in skeleton.named_parameters() if PART in name]
        for name, value in heads.draw(skeleton, matrices, seed, device=model.device).items():
            owner, _, last = name.rpartition(".")
            setattr(skeleton.get_submodule(owner), last, nn.Parameter(value.float()))
        self._whole = {n: p for n, p in model.named_parameters() if any(f"{one}." in n for one in saved)}  # as PEFT
        layers: dict[str, Any] = {
            name: layer for name, layer in skeleton.named_modules() if isinstance(layer, LoraLayer)
        }
        layers = {name: layer for name, layer in layers.items() if f"{name}.weight" not in self._whole}
        self._weights = {name: model.get_parameter(f"{name}.weight") for name in layers}
        self.layers, self.whole = nn.ModuleList(layers.values()), nn.ParameterList(self._whole.values())
        self._check(model)
        model.requires_grad_(False)
        for layer in layers.values():
            layer.get_base_layer().requires_grad_(False)  # a weight without memory
        for weight in (*self._weights.values(), *self._whole.values()):
            weight.requires_grad_(True)
        self._drawn = {name: value.detach().clone() for name, value in self._matrices().items()}
        self.restarts = -1
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Begin with an adapter that changes nothing of the model as it is now."""
        self.restarts += 1
        for name, value in self._matrices().items():
            # A trainer may have moved the model since the adapter was made.
            value.data = self._drawn[name].to(next(iter(self._weights.values())).device, copy=True)
        self._starts = [weight.detach().clone() for weight in self._weights.values()]

    def gather(self) -> None:
        """Pass the gradients of the adapted weights on to the adapter; call before the optimizer step."""
        for weight, layer in zip(self._weights.values(), self.layers, strict=True):
            matrices = [value for value in layer.parameters() if value.requires_grad]
            found: Any = [None] * len(matrices)
            if weight.grad is not None:
                found = torch.autograd.grad(_change(layer), matrices, weight.grad.float())
            for matrix, gradient in zip(matrices, found, strict=True):
                matrix.grad = gradient
            weight.grad = None

    @torch.no_grad()
    def spread(self) -> None:
        """Let the adapted weights follow the adapter; call after the optimizer step."""
        for weight, start, layer in zip(self._weights.values(), self._starts, self.layers, strict=True):
            weight.copy_(start + _change(layer))

    def is_whole(self) -> bool:
        """Whether the adapted weights are the first ones plus the adapter, as those of a best step are not."""
        parts = zip(self._weights.values(), self._starts, self.layers, strict=True)
        with torch.no_grad():
            return all(torch.equal(weight, (start + _change(layer)).to(weight)) for weight, start, layer in parts)

    def described(self) -> dict[str, Any]:
        """The settings that differ from PEFT's usual ones, the rank, and how many weights are adapted."""
        usual, given = vars(LoraConfig()), vars(self.config)
        named = [name for name in SETTINGS if given[name] != usual[name] or name in ("r", "lora_alpha")]
        plain = {name: sorted(given[name]) if isinstance(given[name], set) else given[name] for name in named}
        return {**{name: str(value) for name, value in plain.items()}, "adapted_weights": len(self._weights)}

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapter, and marks of the weights that it changes."""
        starts = dict(zip(self._weights, self._starts, strict=True))
        return {
            **{STATE + name: value.detach() for name, value in self._matrices().items()},
            **{START + name: torch.hash_tensor(value).view(torch.int64) for name, value in starts.items()},
        }

    @torch.no_grad()
    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`adapter_state` gave, beside a model with the weights that training began with.

        Raises:
            ValueError: It is the state of another adapter, or of another base.
        """
        own = self.adapter_state()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
            raise ValueError("the state contains another adapter; resume with the peft_config= of the first run.")
        if other := [n for n in own if n.startswith(START) and own[n].item() != state[n].item()]:
            raise ValueError(
                f"the adapter in the state changes another base ({other[0].removeprefix(START)} differs); resume with "
                "the model that the first run started from."
            )
        for name, value in self._matrices().items():
            value.copy_(state[STATE + name])

    def save(self, folder: str | Path, base: str) -> None:
        """Write the adapter as PEFT does, for ``PeftModel.from_pretrained``.

        Args:
            folder: Where to.
            base: Name or folder of the model that it changes.
        """
        config = copy.deepcopy(self.config)
        config.base_model_name_or_path, config.inference_mode = base, True
        config.save_pretrained(str(folder))
        matrices = {name.replace(f".{NAME}", ""): value for name, value in self._matrices().items()}
        weights = {f"base_model.model.{name}": value.detach() for name, value in {**matrices, **self._whole}.items()}
        weights = {name: value.cpu().contiguous() for name, value in weights.items()}
        save_file(weights, Path(folder, "adapter_model.safetensors"), metadata={"format": "pt"})

    def _matrices(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{inner}": value
            for name, layer in zip(self._weights, self.layers, strict=True)
            for inner, value in layer.named_parameters()
            if PART in inner
        }

    def _check(self, model: PreTrainedModel) -> None:
        shapes = {name: _change(layer).shape for name, layer in zip(self._weights, self.layers, strict=True)}
        if odd := [name for name, weight in self._weights.items() if weight.shape != shapes[name]]:
            raise ValueError(
                f"peft_config: {odd[0]} has no single weight that an adapter changes; leave it out of target_modules."
            )
        adapted = {id(weight): name for name, weight in self._weights.items()}
        if twice := [name for name, weight in self._weights.items() if adapted[id(weight)] != name]:
            raise ValueError(
                f"peft_config: {twice[0]} and {adapted[id(self._weights[twice[0]])]} are one weight of "
                f"{type(model).__name__}: name one of them in target_modules."
            )


def take_up(adapter: MergedAdapter | None, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let an adapter restore its part of a state.

    Args:
        adapter: The adapter, if one is trained.
        state: What it gave, beside other things.

    Returns:
        The other things.

    Raises:
        ValueError: The state contains another adapter, or one where none is trained, or the reverse.
    """
    own = {name: value for name, value in state.items() if name.startswith(STATE)}
    if bool(own) != (adapter is not None):
        raise ValueError(
            f"the state contains {'an' if own else 'no'} adapter, unlike this run; resume with the peft_config= of the "
            "first run."
        )
    if adapter is not None:
        adapter.load_adapter_state(own)
    return {name: value for name, value in state.items() if name not in own}


def _change(layer: Any) -> Tensor:
    """What the adapter adds to the weight of a layer, with its graph."""
    change: Tensor = layer.get_delta_weight(NAME)
    return change


def _checked(config: Any) -> LoraConfig:
    if not isinstance(config, LoraConfig):
        raise TypeError(f"peft_config must be a peft.LoraConfig, got {type(config).__name__}.")
    usual, given = vars(LoraConfig()), vars(config)
    if odd := [name for name in given if name not in SETTINGS and given[name] != usual.get(name)]:
        raise ValueError(
            f"peft_config: {odd[0]}={given[odd[0]]!r} is not possible, because the adapter is merged into the weights "
            f"in each step: leave it at {usual.get(odd[0])!r}."
        )
    if config.init_lora_weights not in (True, "gaussian"):
        raise ValueError(
            f"peft_config: init_lora_weights={config.init_lora_weights!r} starts with other weights than the model's: "
            "use True or 'gaussian'."
        )
    return config
