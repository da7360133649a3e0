"""What an outer step adds to the desired loss: keeping losses, and the blocking loss along a simulated adversary."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..hardening.episode_builder import Draw
from ..meta_gradient.outer_loss import meta_loss

if TYPE_CHECKING:
    from .trainer import SelfDestructTrainer


@contextmanager
def terms_added(trainer: SelfDestructTrainer) -> Iterator[None]:
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
            return total_loss(trainer, found[0], seen), *found[1:]
        return total_loss(trainer, found, seen)

    vars(trainer)["compute_loss"] = total
    try:
        yield
    finally:
        del vars(trainer)["compute_loss"]
        if patched is not None:
            vars(trainer)["compute_loss"] = patched


def total_loss(trainer: SelfDestructTrainer, desired: Tensor, inputs: dict[str, Any]) -> Tensor:
    """The desired loss, the keeping losses and, where one is due, the blocking loss; the log gets every reading.

    Raises:
        FloatingPointError: A loss or a gradient is not finite.
    """
    args, simulation, guard = trainer.args, trainer.simulation, trainer.guard
    model, terms = trainer.plain_model(), {"desired_loss": desired.item()}
    draw = simulation.draw(trainer.state.global_step)
    if trainer.keeping_losses:
        parts = [trainer.keeper.on_desired(model, inputs)] if trainer.has_loss else []
        kept = trainer.keeper.on_kept(model, *draw.key)
        parts += [kept] if kept is not None else []
        keeping = sum(parts, start=desired.new_zeros(())) * (args.keeping_weight or 1.0)
        terms["keeping_loss"] = keeping.item() if trainer.has_loss else (keeping + desired).item()
        desired = desired + keeping
    _read(trainer, terms, draw)
    if not trainer.blocks_now:
        return desired
    trainer.blocked_step = trainer.state.global_step
    gradient = simulation.meta_gradient(model, draw)
    factor = guard.factor if guard else 1.0
    weight, most = args.blocking_weight * factor, args.max_blocking_grad_norm or None
    step = meta_loss(desired, dict(model.named_parameters()), gradient, blocking_weight=weight, max_norm=most)
    more = {"adversary_lr": float(draw.recipe.learning_rate), "inner_steps": float(draw.recipe.steps)}
    more |= {"blocking_factor": factor} if guard else {}
    _read(trainer, {**step.terms, **more}, draw)
    simulation.learn(draw, gradient, share=1 / trainer.current_gradient_accumulation_steps)
    return step.total


def _read(trainer: SelfDestructTrainer, terms: dict[str, float], draw: Draw) -> None:
    step = trainer.state.global_step
    for name, value in terms.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step} (task {draw.task.name!r}, adversary "
                f"{draw.recipe.config()}); training stops and the last checkpoint is intact. "
                "Lower adversary_learning_rate, inner_steps or learning_rate."
            )
    trainer.readings.add(terms, step=step)
