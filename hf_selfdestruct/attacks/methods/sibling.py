"""Attacks by someone who holds the undefended model too. They recover it by construction, so they stand outside."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import PreTrainedModel

from ...tasks.blocked_task import seed_of
from ..attack import Attack, Outcome, Trial
from ..data import AttackData
from ..target import Target, placed
from .batches import hidden_states, inputs_of
from .optimizers import OPTIMIZERS
from .training_loop import tune


@dataclass(frozen=True)
class WithSibling(Attack):
    """What attacks with the undefended model in hand have in common: a start of their own, then full fine-tuning.

    Args:
        name: Its name in the report.
        learning_rates: Rates to search.
        steps: Steps of the fine-tuning.
        looks: How often the selection split is looked at.
        batch_size: Examples in a step.
    """

    name: str = ""
    learning_rates: tuple[float, ...] = (1e-4,)
    steps: int = 60
    looks: int = 2
    batch_size: int = 16
    assumes = "the published weights, labelled examples of the blocked task, and the undefended model's weights"
    outside = True
    kinds = None

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return frozenset({"sibling"})

    @abstractmethod
    def start(self, model: PreTrainedModel, sibling: PreTrainedModel, trial: Trial) -> None:
        """Change the loaded model by what the sibling knows.

        Args:
            model: The model under attack.
            sibling: The undefended model.
            trial: What the attacker has, the seed of whatever is random, and one point of the space.
        """

    def space(self) -> list[dict[str, Any]]:
        """Every rate, with what else the fine-tuning needs."""
        same = {"steps": self.steps, "looks": self.looks, "batch_size": self.batch_size, "schedule": "linear"}
        return [{"learning_rate": rate, **same} for rate in self.learning_rates]

    def cost(self, settings: dict[str, Any]) -> int:  # noqa: D102
        return int(settings["steps"]) + int(settings.get("distil_steps", 0))

    def run(self, trial: Trial) -> Outcome:  # noqa: D102
        def ready(model: PreTrainedModel, batches: Any) -> None:
            target = Target("undefended", trial.target.sibling, padding=trial.target.padding)
            kind = trial.data.kind
            sibling = placed(target.load(trial.data.num_labels, trial.seed, kind.problem_type, auto=kind.model_class))
            self.start(model, sibling, trial)

        return tune(self.name, trial, prepare=ready)


@dataclass(frozen=True)
class Merging(WithSibling):
    """Task arithmetic with the undefended sibling (2212.04089), then fine-tuning.

    ``w <- hardened + amount * (undefended - hardened)``: below 1 an interpolation, above 1 the defence subtracted
    more than once.

    Args:
        amounts: How much of the difference is added.
    """

    name: str = "merging with the sibling"
    amounts: tuple[float, ...] = (0.5, 1.0)

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{"amount": amount, **point} for amount in self.amounts for point in super(Merging, self).space()]

    def start(self, model: PreTrainedModel, sibling: PreTrainedModel, trial: Trial) -> None:  # noqa: D102
        merge(*_published(model, sibling, trial), trial.settings["amount"])


@dataclass(frozen=True)
class StripDelta(WithSibling):
    """The leading directions of what hardening changed, taken off every matrix, then fine-tuning.

    Of the difference between the hardened and the undefended matrix the largest singular values are taken off: defences
    that are a change of low rank are gone by then, and what the hardened model has learned beside stays.

    Args:
        ranks: How many singular values are taken off each matrix.
    """

    name: str = "stripping what hardening changed"
    ranks: tuple[int, ...] = (4, 16, 64)

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{"rank": rank, **point} for rank in self.ranks for point in super(StripDelta, self).space()]

    def start(self, model: PreTrainedModel, sibling: PreTrainedModel, trial: Trial) -> None:  # noqa: D102
        strip(*_published(model, sibling, trial), trial.settings["rank"])


@dataclass(frozen=True)
class Distillation(WithSibling):
    """The sibling's hidden states taught to the hardened model on unlabelled inputs, then fine-tuning.

    Args:
        distil_steps: Steps of distillation, at the rate of the fine-tuning.
    """

    name: str = "distillation from the sibling"
    learning_rates: tuple[float, ...] = (3e-4,)
    distil_steps: int = 60

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{"distil_steps": self.distil_steps, **point} for point in super().space()]

    def start(self, model: PreTrainedModel, sibling: PreTrainedModel, trial: Trial) -> None:  # noqa: D102
        distil(model, sibling.eval(), trial.data, trial.settings, seed=seed_of(self.name, trial.seed))


def _published(model: PreTrainedModel, sibling: PreTrainedModel, trial: Trial) -> tuple[nn.Module, nn.Module]:
    """What both have published: the trunk, and the head too where an attack keeps it."""
    return (model, sibling) if trial.data.kind.model_class else (model.base_model, sibling.base_model)


@torch.no_grad()
def merge(model: nn.Module, sibling: nn.Module, amount: float) -> None:
    """Add ``amount`` of what the sibling differs by to every floating-point weight and statistic."""
    other = sibling.state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.lerp_(other[name].to(value), amount)


@torch.no_grad()
def strip(model: nn.Module, sibling: nn.Module, rank: int) -> None:
    """Take the leading ``rank`` components of the difference from the sibling off every matrix."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            changed = (weight - sibling.get_parameter(name).to(weight)).flatten(1)
            u, values, v = torch.linalg.svd(changed, full_matrices=False)
            weight.sub_(((u[:, :rank] * values[:rank]) @ v[:rank]).view_as(weight))


def distil(
    model: PreTrainedModel, teacher: PreTrainedModel, data: AttackData, settings: dict[str, Any], *, seed: int
) -> None:
    """Bring every hidden state of ``model`` to the teacher's, on the attacker's inputs without their labels."""
    weights = list(model.base_model.parameters())
    optimizer = OPTIMIZERS["adamw"](weights, lr=settings["learning_rate"])
    model.train()
    for batch in inputs_of(data, data.train, seed, settings["distil_steps"]):
        with torch.no_grad():
            wanted = hidden_states(teacher, batch)
        found = hidden_states(model, batch)
        losses: list[Tensor] = [
            mse_loss(one, other) / other.var().clamp(min=1e-12) for one, other in zip(found, wanted, strict=True)
        ]
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
