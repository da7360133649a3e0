"""What the hardened model and its undefended sibling are good for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from datasets import Dataset

from ..attacks.doubts import lost_desired
from ..report.facts import DesiredFacts
from . import similarity
from .desired_tasks import DesiredTasks
from .precision import narrowed

if TYPE_CHECKING:
    from .base import HardeningTrainer

TIMINGS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")

logger = logging.getLogger(__name__)


def desired_facts(
    trainer: HardeningTrainer,
    sibling: HardeningTrainer,
    start: str,
    dataset: Dataset | None,
    kept: Dataset | None,
    tasks: DesiredTasks,
) -> DesiredFacts:
    """What both models are good for; a lost task is said now, hours before the report.

    Args:
        trainer: A trainer whose training has ended.
        sibling: The undefended sibling's.
        start: Folder of the model that both started from.
        dataset: Where quality is measured; by default the trainer's ``eval_dataset``.
        kept: Rows on which models and start are compared, if any.
        tasks: Tasks of lm-eval to measure it on, too.
    """
    quality: dict[str, dict[str, float]] = {}
    for role, one in (("hardened", trainer), ("undefended", sibling)):
        with narrowed(one.plain_model(), one.saved_types, rounded=True):  # what is published is what is measured
            asked = tasks.scores(one.plain_model(), one.processing_class, one.args.per_device_eval_batch_size)
            quality[role] = _quality(one, dataset) | _alike(one, start, kept) | asked
    desired = DesiredFacts("the evaluation split" if dataset is None else "the desired task's test split", quality)
    for doubt in lost_desired(desired):
        logger.warning(doubt)
    return desired


def _alike(trainer: HardeningTrainer, base: str, rows: Dataset | None) -> dict[str, float]:
    if rows is None:
        return {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    return similarity.to_base(model, base, rows, columns=trainer.input_columns, collate=trainer.blocked_collator)


def _quality(trainer: HardeningTrainer, dataset: Dataset | None) -> dict[str, float]:
    if dataset is None and trainer.eval_dataset is None:
        return {}
    metrics = trainer.evaluate(dataset) if dataset is not None else trainer.evaluate()
    named = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    return {
        name: float(value)
        for name, value in named.items()
        if not name.endswith((*TIMINGS, "epoch")) and isinstance(value, int | float)  # of several sets: "name_runtime"
    }
