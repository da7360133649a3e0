"""``JudgeCallback``: a real attack on the model while it is trained, as a reading of the training log."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from ..attacks import Attack, AttackData, HeadOnly, Target
from ..attacks.methods.pair_words import of_pairs
from ..attacks.suites.attack_list import available
from ..attacks.suites.ledger import Ledger
from ..attacks.suites.search import Search
from ..attacks.target import quiet
from ..models.distributed import is_sharded
from ..tasks.blocked_task import BlockedTask
from .base import HardeningTrainer
from .precision import narrowed
from .rehearsal import left_alone

PROBE = HeadOnly(every_layer=True, strengths=(0.01, 0.1, 1.0))

logger = logging.getLogger(__name__)


class JudgeCallback(TrainerCallback):
    """Attacks the model before the first step and then every few steps, and logs how far the attack gets.

    The attack is one that ``trainer.attack()`` could run, on a copy of the model that is saved to a temporary folder.
    It trains on the attacker's training rows and is scored on the attacker's selection rows; test and development rows
    stay unread. Training goes on bitwise as without the callback. The log gets, for each task:

    - ``judge/<task>/<attack>``: the attack's score on this model, less what it owes to the choice of settings and
      layers on the rows that it is scored on;
    - ``judge/<task>/<attack>/base`` and ``/scratch``: the same on the model before hardening and on random weights;
    - ``judge/seconds``: what the reading cost.

    It is one attack at one seed: a curve to watch, no evidence. Of several processes the first judges, and the others
    wait for it in their next step: choose an attack much shorter than ``ddp_timeout`` (30 minutes by default).

    Args:
        trainer: The trainer.
        every: Outer steps between two readings.
        attack: The attack; by default logistic regression on each layer's frozen features, which costs two forward
            passes over the rows. Its whole search space is tried.
        examples: Number of the attacker's training rows; by default all.

    Raises:
        TypeError: ``trainer`` does not harden.
        ValueError: A task cannot be attacked so, no process has the whole weights, or a number is out of range.

    Example:
        ```python
        trainer.add_callback(JudgeCallback(trainer, every=100))
        ```
    """

    def __init__(
        self, trainer: HardeningTrainer, *, every: int = 100, attack: Attack = PROBE, examples: int | None = None
    ) -> None:
        if not isinstance(trainer, HardeningTrainer):
            raise TypeError(f"JudgeCallback needs a SelfDestructTrainer; got {type(trainer).__name__}.")
        if every < 1:
            raise ValueError(f"every must be at least 1 step; got {every}.")
        _check_whole(trainer)
        self._trainer, self._every = trainer, every
        self._plan = [_planned(task, trainer, attack, examples) for task in trainer.blocked_tasks]
        self._references: dict[str, float] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge what training starts from; a resumed run has done so."""
        if state.global_step == 0:
            self._judge(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge when it is time."""
        if state.global_step % self._every == 0:
            self._judge(control)

    def _judge(self, control: Any) -> None:
        trainer, start = self._trainer, time.perf_counter()
        if not trainer.is_world_process_zero():
            return  # no barrier: the next step is one
        model, base = trainer.plain_model(), trainer.folder / "_base"
        with left_alone(), tempfile.TemporaryDirectory() as folder:
            with narrowed(model, trainer.saved_types), quiet():
                model.save_pretrained(folder)
            if self._references is None:
                self._references = self._scores(Target("scratch", folder, random=True), "/scratch")
                if trainer.args.hardens and base.is_dir():
                    self._references |= self._scores(Target("base", str(base)), "/base")
            found = self._scores(Target("hardened", folder)) | self._references
        due = control.should_log  # a log line counts as the one that this step owes
        trainer.log({**found, "judge/seconds": time.perf_counter() - start})
        control.should_log = due

    def _scores(self, target: Target, of: str = "") -> dict[str, float]:
        """The attack's score on a model, by task; a run that failed has none, and did not fail for being resisted."""
        found = {}
        for attack, data in self._plan:
            fresh = replace(data, memory={})  # features of a model that is gone next time
            search, ledger = Search(attack, target, fresh, len(data.train.labels), (0,), "judge"), Ledger()
            search.work(ledger, lambda run: None)
            (run,) = (run for run in search.recall(ledger) if run.chosen)
            if run.selection is None:
                words = (attack.name, target.role, data.task, run.error)
                logger.warning("%s on %s failed on task %r (%s): its score is not logged.", *words)
                continue
            name = re.sub(r"\W+", "_", attack.name)
            found[f"judge/{data.task}/{name}{of}"] = run.selection.value - run.optimism
        return found


def _check_whole(trainer: HardeningTrainer) -> None:
    if is_sharded(trainer.plain_model()) or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "JudgeCallback attacks a copy of the whole model, and the weights are sharded over processes: launch "
            "without FSDP, or leave the callback out and call trainer.attack() after training."
        )


def _planned(
    task: BlockedTask, trainer: HardeningTrainer, attack: Attack, examples: int | None
) -> tuple[Attack, AttackData]:
    """The attack as far as it fits a task, and what the attacker has of it."""
    where = f"JudgeCallback cannot attack blocked task {task.name!r} by {attack.name!r}"
    if not attack.fits(task.kind):
        raise ValueError(
            f"{where}, which is for {', '.join(attack.kinds or ())}, and not for {task.kind.name}: pass attack= one "
            "that fits, such as FullFineTuning(learning_rates=(5e-5,), steps=(40,))."
        )
    data = AttackData.unscored(task, trainer.input_columns, trainer.blocked_collator, examples=examples)
    has = available(pairs=of_pairs(data.train))
    if (fitting := attack.fitting(has)) is None:
        raise ValueError(f"{where}, which needs {', '.join(sorted(attack.needs - has))}: pass another attack=.")
    return fitting, data
