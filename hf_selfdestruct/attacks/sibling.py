"""Attacks by someone who holds the undefended model too. They recover it by construction, so they stand outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import PreTrainedModel

from ..tasks import seed_of
from .base import Attack, Outcome, Target, device, placed
from .data import AttackData
from .optimizers import OPTIMIZERS
from .training import inputs_of, tune

ASSUMES = "the published weights, labelled examples of the blocked task, and the undefended model's weights"


@dataclass(frozen=True)
class Merging(Attack):
    """Task arithmetic with the undefended sibling (2212.04089), then fine-tuning.

    ``w <- hardened + amount * (undefended - hardened)``: below 1 an interpolation, above 1 the defence subtracted
    more than once.

    Args:
        name: Its name in the report.
        amounts: How much of the difference is added.
        learning_rates: Rates of the fine-tuning.
        steps: Its steps.
        looks: How often the selection split is looked at.
        batch_size: Examples in a step.
    """

    name: str = "merging with the sibling"
    amounts: tuple[float, ...] = (0.5, 1.0)
    learning_rates: tuple[float, ...] = (1e-4,)
    steps: int = 60
    looks: int = 2
    batch_size: int = 16
    assumes = ASSUMES
    outside = True

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return frozenset({"sibling"})

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        same = {"steps": self.steps, "looks": self.looks, "batch_size": self.batch_size, "schedule": "linear"}
        return [{"amount": a, "learning_rate": r, **same} for a in self.amounts for r in self.learning_rates]

    def cost(self, settings: dict[str, Any]) -> int:  # noqa: D102
        return int(settings["steps"])

    def run(  # noqa: D102
        self,
        target: Target,
        data: AttackData,
        *,
        examples: int,
        seed: int,
        settings: dict[str, Any],
        until: int | None = None,
    ) -> Outcome:
        def ready(model: PreTrainedModel, batches: Any) -> None:
            merge(model, _sibling(target, data, seed), settings["amount"])

        common: dict[str, Any] = {"examples": examples, "seed": seed, "settings": settings, "until": until}
        return tune(self.name, target, data, prepare=ready, **common)


@dataclass(frozen=True)
class Distillation(Attack):
    """The sibling's hidden states taught to the hardened model on unlabelled inputs, then fine-tuning.

    Args:
        name: Its name in the report.
        distil_steps: Steps of distillation.
        learning_rates: Rates of both.
        steps: Steps of fine-tuning.
        looks: How often the selection split is looked at.
        batch_size: Examples in a step.
    """

    name: str = "distillation from the sibling"
    distil_steps: int = 60
    learning_rates: tuple[float, ...] = (3e-4,)
    steps: int = 60
    looks: int = 2
    batch_size: int = 16
    assumes = ASSUMES
    outside = True

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return frozenset({"sibling"})

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        same = {"steps": self.steps, "looks": self.looks, "batch_size": self.batch_size, "schedule": "linear"}
        return [{"learning_rate": rate, "distil_steps": self.distil_steps, **same} for rate in self.learning_rates]

    def cost(self, settings: dict[str, Any]) -> int:  # noqa: D102
        return int(settings["steps"]) + int(settings["distil_steps"])

    def run(  # noqa: D102
        self,
        target: Target,
        data: AttackData,
        *,
        examples: int,
        seed: int,
        settings: dict[str, Any],
        until: int | None = None,
    ) -> Outcome:
        def ready(model: PreTrainedModel, batches: Any) -> None:
            teacher = placed(_sibling(target, data, seed)).eval()
            distil(model, teacher, data, settings, seed=seed_of(self.name, seed))

        common: dict[str, Any] = {"examples": examples, "seed": seed, "settings": settings, "until": until}
        return tune(self.name, target, data, prepare=ready, **common)


@torch.no_grad()
def merge(model: PreTrainedModel, sibling: PreTrainedModel, amount: float) -> None:
    """Add ``amount`` of what the sibling differs by to every floating-point weight and statistic of the trunk."""
    other = sibling.base_model.state_dict()
    for name, value in model.base_model.state_dict().items():
        if value.is_floating_point():
            value.lerp_(other[name].to(value), amount)


def distil(
    model: PreTrainedModel, teacher: PreTrainedModel, data: AttackData, settings: dict[str, Any], *, seed: int
) -> None:
    """Bring every hidden state of ``model`` to the teacher's, on the attacker's inputs without their labels."""
    weights = list(model.base_model.parameters())
    optimizer = OPTIMIZERS["adamw"](weights, lr=settings["learning_rate"])
    model.train()
    for batch in inputs_of(data, data.train, seed, settings["distil_steps"]):
        with torch.no_grad():
            wanted = teacher.base_model(**batch, output_hidden_states=True).hidden_states
        found = model.base_model(**batch, output_hidden_states=True).hidden_states
        losses: list[Tensor] = [
            mse_loss(one, other) / other.var().clamp(min=1e-12) for one, other in zip(found, wanted, strict=True)
        ]
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _sibling(target: Target, data: AttackData, seed: int) -> PreTrainedModel:
    return Target("undefended", target.sibling).load(data.num_labels, seed).to(device())  # type: ignore[arg-type]
