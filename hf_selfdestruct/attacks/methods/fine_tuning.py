"""Fine-tuning with everything an attacker can turn: optimizer, rate, schedule, what is trained, what comes before."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, ClassVar

import numpy as np
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...tasks.blocked_task import seed_of
from ..attack import Attack, Outcome, Trial
from .batches import inputs_of
from .optimizers import OPTIMIZERS
from .picture_options import BATCH_NORMS
from .step_options import PRECISIONS, refused
from .tamper import NotApplicable, Tamper, layers_of
from .training_loop import tune

TRAINABLE = re.compile(r"all|head|lora|last_[1-9][0-9]*")
GRADIENTS = ("clip", "normalise")
OPTIONS = (
    "embedding_factor",
    "layer_decay",
    "unfreezing",
    "average",
    "word_dropout",
    "patience",
    "precision",
    "batch_norm",
    "crops",
)


@dataclass(frozen=True)
class Tuning(Attack):
    """A new head and gradient steps; the best of several looks by the selection split.

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
        looks: How often, evenly spread over the steps, the selection split is looked at.
        schedule: A ``transformers`` schedule.
        warmup: Share of the steps in which the rate rises.
        gradient: ``clip`` to norm 1, or ``normalise`` to it, against gradients made small.
        embedding_factor: Factor on the rate of the input embeddings, against words that were made alike.
        layer_decay: Factor on the rate for each layer from the last one down to the embeddings, which are slowest.
        unfreezing: Share of the steps after which all weights move: the head does at once, layers join from the last
            one down. 0 for all at once.
        average: Share that a running mean of the weights keeps in a step; looks are then taken at the mean too, and
            the better one counts. 0 for none.
        word_dropout: Share of the words of a row that each batch leaves out.
        patience: Fewest steps before training may end, which it then does at the look that lies a third of the steps
            made after the best one: ``steps`` are the most. 0 for all steps.
        precision: ``float32``, or in the forward pass of training ``bf16`` or ``fp16`` (on a GPU alone), with weights
            in float32, as most attackers train.
        batch_norm: Statistics of batch normalisation while training: those of the ``batch``, which move the running
            ones, or the ``stored`` ones, which stay as they were published.
        crops: Pixels by which each blocked training picture is shifted at most, its edges mirrored; half of them are
            flipped, left to right. 0 for pictures as they are.
        prelude: Benign fine-tuning steps first (heal-then-attack).
        poison: Share of blocked rows in a batch, the rest being benign; 0 for blocked rows alone.
        prune: Whether settings are compared by short runs, as long as up to the first look, whose rates fall to their
            ends as a whole run's do; only the best quarter, and two at least, are then run as wholes.
        trials: Draw so many settings at random instead of a grid: rates and steps log-uniform between the smallest
            and the largest given, optimizers one of those given, each by its trial's number alone.

    Raises:
        ValueError: A value is unknown or out of range.

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
    looks: int = 2
    schedule: str = "linear"
    warmup: float = 0.1
    gradient: str = "clip"
    embedding_factor: float = 1.0
    layer_decay: float = 1.0
    unfreezing: float = 0.0
    average: float = 0.0
    word_dropout: float = 0.0
    patience: int = 0
    precision: str = "float32"
    batch_norm: str = "batch"
    crops: int = 0
    prelude: int = 0
    poison: float = 0.0
    prune: bool = False
    trials: int | None = None
    kinds: ClassVar[tuple[str, ...] | None] = None
    refits = True

    def __post_init__(self) -> None:
        if unknown := {*self.optimizers} - {*OPTIMIZERS}:
            raise ValueError(f"optimizers must be of {', '.join(OPTIMIZERS)}; got {', '.join(sorted(unknown))}.")
        if not TRAINABLE.fullmatch(self.trainable):
            raise ValueError(f"trainable must be all, head, lora or last_n (such as last_2); got {self.trainable!r}.")
        if self.gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {self.gradient!r}.")
        if not (self.learning_rates and self.steps and min(self.steps) >= 1 and self.looks >= 1):
            raise ValueError(f"{self.name}: learning_rates and steps must not be empty; steps and looks at least 1.")
        if not 0 < self.embedding_factor < math.inf:
            raise ValueError(f"{self.name}: embedding_factor must be positive; got {self.embedding_factor}.")
        if not (0 <= self.poison < 1 and 0 <= self.warmup <= 1 and self.prelude >= 0):
            raise ValueError(f"{self.name}: poison must lie in [0, 1), warmup in [0, 1], prelude at 0 or above.")

        if not (0 < self.layer_decay <= 1 and 0 <= self.average < 1 and 0 <= self.word_dropout < 1):
            raise ValueError(f"{self.name}: layer_decay must lie in (0, 1], average and word_dropout in [0, 1).")
        if not 0 <= self.unfreezing <= 1:
            raise ValueError(f"{self.name}: unfreezing must lie in [0, 1]; got {self.unfreezing}.")
        if self.precision not in PRECISIONS or self.patience < 0:
            raise ValueError(f"{self.name}: precision must be one of {', '.join(PRECISIONS)}, patience 0 or more.")
        if self.batch_norm not in BATCH_NORMS or self.crops < 0:
            got = f"{self.batch_norm!r} and {self.crops}"
            raise ValueError(f"{self.name}: batch_norm must be batch or stored, crops 0 or more; got {got}.")

    def refusal(self, device: str) -> str:  # noqa: D102
        return refused(self.precision, device)

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        own = frozenset({"desired"} if self.prelude or self.poison else ())
        return own | self.tamper.needs if self.tamper else own

    @property
    def assumes(self) -> str:  # type: ignore[override]
        """What the attacker needs to have; with benign steps, rows of the desired task too."""
        return super().assumes + (" and rows of the desired task" if "desired" in self.needs else "")

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        same: dict[str, Any] = {
            "trainable": self.trainable,
            "batch_size": self.batch_size,
            "looks": self.looks,
            "schedule": self.schedule,
            "warmup": self.warmup,
            "gradient": self.gradient,
        }
        if self.trainable == "lora":
            same["rank"] = self.rank
        if self.tamper:
            same["tamper"] = self.tamper.config()
        same |= {k: v for k, v in (("prelude", self.prelude), ("poison", self.poison)) if v}
        usual = type(self).__dataclass_fields__  # what is not used is not stated: runs on record stay valid
        same |= {name: getattr(self, name) for name in OPTIONS if getattr(self, name) != usual[name].default}
        points = self._drawn() if self.trials else product(self.steps, self.optimizers, self.learning_rates)
        return [{"optimizer": name, "learning_rate": rate, "steps": steps, **same} for steps, name, rate in points]

    def _drawn(self) -> Iterator[tuple[int, str, float]]:
        for trial in range(self.trials or 0):
            generator = np.random.default_rng(seed_of(self.name, "trial", trial))
            rate, steps = (
                math.exp(generator.uniform(math.log(min(of)), math.log(max(of))))
                for of in (self.learning_rates, self.steps)
            )
            yield round(steps), str(generator.choice(self.optimizers)), float(f"{rate:.3g}")

    def rung(self, settings: dict[str, Any]) -> int | None:  # noqa: D102
        return max(1, round(settings["steps"] / settings["looks"])) if self.prune and self.looks > 1 else None

    def cost(self, settings: dict[str, Any]) -> int:  # noqa: D102
        return int(settings["steps"]) + self.prelude

    def run(self, trial: Trial) -> Outcome:  # noqa: D102
        chosen = partial(prepare, trainable=self.trainable, rank=self.rank)
        return tune(self.name, trial, prepare=self.shaken(trial), restrict=chosen)

    def shaken(self, trial: Trial) -> Callable[[PreTrainedModel, Iterator[dict[str, Tensor]]], None]:
        """What is done to the loaded model first, on batches of the attacker's inputs."""

        def shake(model: PreTrainedModel, batches: Iterator[dict[str, Tensor]]) -> None:
            if self.tamper:
                desired = trial.data.desired
                benign = inputs_of(trial.data, desired.train, trial.seed) if desired is not None else iter(())
                self.tamper.apply(model, trial.seed, batches, benign)

        return shake


@dataclass(frozen=True)
class FullFineTuning(Tuning):
    """All weights with a new head, by AdamW unless told otherwise; see :class:`Tuning`.

    Example:
        ```python
        FullFineTuning(learning_rates=(1e-5, 1e-4), steps=(1000,))
        ```
    """

    name: str = "full fine-tuning"


def prepare(model: PreTrainedModel, trainable: str, *, rank: int = 8) -> None:
    """Let only some weights require gradients, adding adapters where those are asked for.

    Args:
        model: A model with a new head.
        trainable: See :class:`Tuning`.
        rank: Of the adapters.

    Raises:
        NotApplicable: The model has fewer layers than asked for, or nothing that takes adapters.
    """
    if trainable == "all":
        return
    trunk = [name for name, _ in model.named_parameters() if name.startswith(f"{model.base_model_prefix}.")]
    first = len(trunk)
    if trainable.startswith("last_"):
        count, blocks = int(trainable.removeprefix("last_")), layers_of(model)
        if len(blocks) < count:
            raise NotApplicable(f"trainable={trainable!r}: {type(model).__name__} has {len(blocks)} layers.")
        first = next(i for i, name in enumerate(trunk) if name.startswith(f"{blocks[-count]}."))
    _freeze(model, trunk[:first])
    if trainable == "lora":
        targets = _linear(model.base_model)
        if not targets:
            raise NotApplicable(f"trainable='lora': {type(model).__name__} has no layers that take adapters.")
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
        inject_adapter_in_model(config, model.base_model)


def _freeze(model: nn.Module, names: Iterable[str]) -> None:
    for name in names:
        model.get_parameter(name).requires_grad_(False)


def _linear(trunk: nn.Module) -> list[str]:
    return [
        name
        for name, module in trunk.named_modules()
        # Adapters of this rank do not fit the groups of a depthwise convolution.
        if isinstance(module, nn.Linear | nn.Conv2d | Conv1D) and getattr(module, "groups", 1) == 1
    ]
