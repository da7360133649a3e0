"""Callbacks of a trainer that hardens."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from .base import HardeningTrainer

logger = logging.getLogger(__name__)


class OuterStepCallback(TrainerCallback):
    """Lets the objective step whenever the model does, and the guard read every evaluation."""

    def __init__(self, trainer: HardeningTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the adversaries step by their gradients, averaged over processes.

        Raises:
            RuntimeError: A blocking loss was due in this step, and none was added.
        """
        trainer, objective = self._trainer, self._trainer.objective
        if objective.blocks(state.global_step) and objective.blocked_step != state.global_step:
            raise RuntimeError(
                f"step {state.global_step} added no blocking loss, so training would not harden the model: "
                f"{type(trainer).__name__}.training_step must call super().training_step(...), which adds the loss to "
                "what compute_loss returns; override compute_loss alone to change the desired loss."
            )
        objective.before_optimizer_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the objective see the step that was made."""
        self._trainer.objective.after_optimizer_step()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Hand the desired validation quality to the guard, once per step: a resumed run evaluates again."""
        guard, step = self._trainer.guard, state.global_step
        if guard is None or not self._trainer.is_in_train or step <= self._trainer.guarded_step:
            return
        name = str(args.metric_for_best_model or "loss")
        name = name if name.startswith("eval_") else f"eval_{name}"
        if name not in (metrics or {}):
            if isinstance(self._trainer.eval_dataset, dict):
                return  # another one of several sets
            raise ValueError(
                f"max_desired_drop guards {name!r}, which the evaluation does not give "
                f"({', '.join(metrics or {})}); set metric_for_best_model to one of them."
            )
        self._trainer.guarded_step = step
        if message := guard.update(float(metrics[name])):
            logger.warning("step %d: %s", step, message)


class StopCallback(TrainerCallback):
    """Ends training after a step, whatever its schedule; after step 0: never."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop when the step is done."""
        if state.global_step == self._step:
            control.should_training_stop = True
