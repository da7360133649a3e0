"""The optimizer that a trainer was given, and another one like it for the undefended sibling."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from transformers import PreTrainedModel, Trainer

from ..files import reason


@dataclass(frozen=True)
class GivenOptimizer:
    """What an optimizer was before it made a step.

    Args:
        kind: Its class.
        settings: Arguments by which its class makes it again.
        groups: The settings of each group of weights.
        names: The names of each group's weights; ``None`` for what is no weight of the model.
        refusal: Why another model cannot have one like it; empty where it can.
    """

    kind: type[Optimizer]
    settings: Mapping[str, Any]
    groups: tuple[dict[str, Any], ...]
    names: tuple[tuple[str | None, ...], ...]
    refusal: str = ""

    def over(self, model: PreTrainedModel) -> Optimizer:
        """The same optimizer for the weights of these names in another model."""
        weights: dict[Any, Any] = dict(model.named_parameters())
        held = [{**group, "params": [*map(weights.get, names)]} for group, names in self._both()]
        return self.kind(held, **self.settings)

    def config(self) -> list[dict[str, Any]]:
        """Plain values on which the weights depend that it trains."""
        return [{**group, "names": list(names)} for group, names in self._both()]

    def recipe(self) -> dict[str, Any]:
        """What a report says of it."""
        rates = [float(group.get("initial_lr", group.get("lr", 0.0))) for group in self.groups]
        shown = rates[0] if len({*rates}) == 1 else ", ".join(f"{rate:g}" for rate in rates)
        return {"optimizer": self.kind.__name__, "learning_rate": shown} if rates else {}

    def _both(self) -> Any:
        return zip(self.groups, self.names, strict=True)


def given_optimizer(trainer: Trainer) -> GivenOptimizer | None:
    """Record a trainer's optimizer as it is before training; ``None`` where it has none yet.

    A schedule of learning rates that it has holds this optimizer, and no other one can have it.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
    if optimizer is None and scheduler is None:
        return None
    if not isinstance(optimizer, Optimizer):
        other = "a scheduler was given" if optimizer is None else f"a {type(optimizer).__name__} is none of torch's"
        return GivenOptimizer(Optimizer, {}, (), (), other)
    known = {id(weight): name for name, weight in model.named_parameters()}
    wanted = [*inspect.signature(type(optimizer)).parameters][1:]
    found = GivenOptimizer(
        type(optimizer),
        {name: optimizer.defaults[name] for name in wanted if name in optimizer.defaults},
        tuple({n: v for n, v in group.items() if n != "params"} for group in optimizer.param_groups),
        tuple(tuple(known.get(id(weight)) for weight in group["params"]) for group in optimizer.param_groups),
    )
    refusal = "a scheduler was given" if scheduler is not None else _refusal(optimizer, found, model, wanted)
    return GivenOptimizer(found.kind, found.settings, found.groups, found.names, refusal)


def _refusal(optimizer: Optimizer, found: GivenOptimizer, model: PreTrainedModel, wanted: list[str]) -> str:
    """Why a second one could not be made, or would not be the same."""
    name = found.kind.__name__
    if any(one is None for names in found.names for one in names):
        return f"the {name} holds weights that are not the model's"
    if optimizer.state:
        return f"the {name} has made steps already"
    if unknown := [one for one in wanted if one not in optimizer.defaults]:
        return f"the {name} does not say in its defaults what {unknown[0]} is"
    try:
        again = found.over(model)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        return f"the {name} cannot be made again ({reason(error)})"
    groups = tuple({n: v for n, v in group.items() if n != "params"} for group in again.param_groups)
    alike = again.defaults == optimizer.defaults and groups == found.groups
    return "" if alike else f"the {name} that its class makes again differs"
