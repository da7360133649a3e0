"""What an outer step of a trainer adds to the desired loss that ``compute_loss`` returns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from .base import HardeningTrainer


@contextmanager
def terms_added(trainer: HardeningTrainer) -> Iterator[None]:
    """Within it, ``trainer.compute_loss`` adds the keeping and blocking losses to what it returned before.

    A subclass that replaces ``compute_loss``, as the documentation of transformers shows, replaces the desired loss
    alone. The items that a loss is divided by are those of this micro-batch, not of all.
    """
    own, patched = trainer.compute_loss, vars(trainer).get("compute_loss")

    def total(model: nn.Module, inputs: Any, *arguments: Any, **named: Any) -> Any:
        named["num_items_in_batch"] = trainer._get_num_items_in_batch([inputs], trainer.args.device)
        seen = copy.copy(inputs)  # many a compute_loss takes the labels out of its inputs
        found = own(model, inputs, *arguments, **named)
        if isinstance(found, tuple):
            return _hardened(trainer, found[0], seen), *found[1:]
        return _hardened(trainer, found, seen)

    vars(trainer)["compute_loss"] = total
    try:
        yield
    finally:
        del vars(trainer)["compute_loss"]
        if patched is not None:
            vars(trainer)["compute_loss"] = patched


def _hardened(trainer: HardeningTrainer, desired: Tensor, inputs: dict[str, Any]) -> Tensor:
    step, guard = trainer.state.global_step, trainer.guard
    total, terms = trainer.objective(
        trainer.plain_model(),
        inputs,
        desired,
        step,
        factor=guard.factor if guard else 1.0,
        micro_steps=trainer.current_gradient_accumulation_steps,
    )
    if guard and trainer.objective.blocks(step):
        terms["blocking_factor"] = guard.factor
    trainer.readings.add(terms, step=step)
    return total
