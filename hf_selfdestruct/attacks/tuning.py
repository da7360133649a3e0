"""Fine-tuning with everything an attacker can turn: optimizer, what is trained, what is done to the weights before."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .base import Attack, AttackData, Outcome, Target
from .finetune import tune
from .optimizers import OPTIMIZERS
from .tamper import Tamper, layers_of

TRAINABLE = re.compile(r"all|head|lora|last_[1-9][0-9]*")


@dataclass(frozen=True)
class Tuning(Attack):
    """A new head and gradient steps; the best of several checkpoints by the selection split.

    Args:
        name: Its name in the report.
        optimizers: Names of :data:`OPTIMIZERS` to search.
        learning_rates: Rates to search, each with each optimizer.
        steps: Numbers of steps to search.
        trainable: ``all``, ``head`` (a linear layer's gradient steps), ``last_n`` (the last n layers and what
            follows them) or ``lora`` (PEFT adapters on all linear layers of the trunk, and the head).
        rank: Of the adapters; their alpha is twice that.
        tamper: What is done to the weights first.
        batch_size: Examples in a step.
        checkpoints: How often, evenly spread over the steps, the selection split is looked at.
        schedule: A ``transformers`` schedule; the first tenth of the steps warms up.

    Raises:
        ValueError: A value is unknown.

    Example:
        ```python
        Tuning("LoRA", trainable="lora", learning_rates=(1e-4, 1e-3), steps=(200,))
        ```
    """

    name: str
    optimizers: tuple[str, ...] = ("adamw",)
    learning_rates: tuple[float, ...] = (5e-5, 3e-4)
    steps: tuple[int, ...] = (100,)
    trainable: str = "all"
    rank: int = 8
    tamper: Tamper | None = None
    batch_size: int = 16
    checkpoints: int = 2
    schedule: str = "linear"

    def __post_init__(self) -> None:
        if unknown := {*self.optimizers} - {*OPTIMIZERS}:
            raise ValueError(f"optimizers must be of {', '.join(OPTIMIZERS)}; got {', '.join(sorted(unknown))}.")
        if not TRAINABLE.fullmatch(self.trainable):
            raise ValueError(f"trainable must be all, head, lora or last_n (such as last_2); got {self.trainable!r}.")

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        same: dict[str, Any] = {
            "trainable": self.trainable,
            "batch_size": self.batch_size,
            "checkpoints": self.checkpoints,
            "schedule": self.schedule,
        }
        if self.trainable == "lora":
            same["rank"] = self.rank
        if self.tamper:
            same["tamper"] = self.tamper.config()
        points = product(self.steps, self.optimizers, self.learning_rates)
        return [{"optimizer": name, "learning_rate": rate, "steps": steps, **same} for steps, name, rate in points]

    def run(  # noqa: D102
        self, target: Target, data: AttackData, *, examples: int, seed: int, settings: dict[str, Any]
    ) -> Outcome:
        def ready(model: PreTrainedModel) -> None:
            if self.tamper:
                self.tamper.apply(model, seed)
            prepare(model, self.trainable, rank=self.rank)

        return tune(self.name, target, data, examples=examples, seed=seed, settings=settings, prepare=ready)


def prepare(model: PreTrainedModel, trainable: str, *, rank: int = 8) -> None:
    """Let only some weights require gradients, adding adapters where those are asked for.

    Args:
        model: A model with a new head.
        trainable: See :class:`Tuning`.
        rank: Of the adapters.

    Raises:
        ValueError: The model has fewer layers than asked for.
    """
    if trainable == "all":
        return
    trunk = [name for name, _ in model.named_parameters() if name.startswith(f"{model.base_model_prefix}.")]
    first = len(trunk)
    if trainable.startswith("last_"):
        count, blocks = int(trainable.removeprefix("last_")), layers_of(model)
        if len(blocks) < count:
            raise ValueError(f"trainable={trainable!r}: {type(model).__name__} has {len(blocks)} layers.")
        first = next(i for i, name in enumerate(trunk) if name.startswith(f"{blocks[-count]}."))
    _freeze(model, trunk[:first])
    if trainable == "lora":
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_linear(model.base_model))
        inject_adapter_in_model(config, model.base_model)


def _freeze(model: nn.Module, names: Iterable[str]) -> None:
    for name in names:
        model.get_parameter(name).requires_grad_(False)


def _linear(trunk: nn.Module) -> list[str]:
    return [name for name, module in trunk.named_modules() if isinstance(module, nn.Linear | Conv1D)]
