"""Run a configuration: harden, attack, and write the folder."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModel, BaseImageProcessor, TrainerState, set_seed

from ..attacks import DesiredData, Split, Target, named_suite
from ..attacks.data import Collate, check_controls, in_batches
from ..attacks.doubts import doubted
from ..attacks.methods.general import desired_texts
from ..attacks.target import check_shape
from ..models.distributed import working_in
from ..report.attack_run import FILTERED
from ..report.facts import DesiredFacts
from ..report.report import AttackReport
from ..tasks.blocked_task import BlockedTask
from ..tasks.rows import rows_of
from ..trainer import intact, similarity
from ..trainer.trainer import SelfDestructTrainer
from .config import HardenConfig, lora_config, training_arguments
from .earlier_run import check_the_same
from .label_order import classifier, numbered_as, numbers_of, renumbered
from .model_checks import check_alike, check_storage, check_target, refuse_quantized
from .processors import Processor, collator_of, padding_of, processor_of
from .sections import TaskConfig
from .sources import check_sources
from .text_data import load_data, load_kept, load_own
from .texts import general_quality, language_model, language_task, load_texts, padded_batch

logger = logging.getLogger(__name__)


def blocked_tasks(config: HardenConfig, data: DatasetDict, processor: Processor) -> list[BlockedTask]:
    """Build the blocked tasks: adversaries use ``train``, attacks ``validation``, reports what is left of ``test``."""
    return _tasks(config.blocked_tasks, config, data, processor)


def _tasks(
    configured: Sequence[TaskConfig], config: HardenConfig, data: DatasetDict, processor: Processor
) -> list[BlockedTask]:
    if config.data.of_texts:
        return [language_task(task, config.data, processor) for task in configured]
    tasks = []
    for task in configured:
        rows = load_own(task, config, processor) or data
        feature = rows["train"].features[task.label_column]
        tasks.append(
            BlockedTask(
                task.name,
                train=rows["train"],
                attack=rows["validation"],
                test=rows["test"],
                label_column=task.label_column,
                num_labels=feature.num_classes,
                weight=task.weight,
                development=task.development,
                document_column=task.document_column,
                readings=task.readings,
            )
        )
    return tasks


def accuracy(prediction: Any) -> dict[str, float]:
    """Compute the accuracy; ``compute_metrics`` of the command line."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def trainer_of(
    config: HardenConfig,
    data: DatasetDict,
    processor: Processor,
    *,
    kept: DatasetDict | None = None,
) -> SelfDestructTrainer:
    """Build the trainer of a configuration."""
    args = training_arguments(config)
    if isinstance(processor, BaseImageProcessor):
        args.remove_unused_columns = False  # the transform needs the image column
    set_seed(args.seed)  # the new head depends on it
    texts = config.data.of_texts
    model = language_model(config.model) if texts else classifier(config.model, data["train"].features["label"].names)
    return SelfDestructTrainer(
        model,
        args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        blocked_tasks=blocked_tasks(config, data, processor),
        processing_class=processor,
        data_collator=attacker_collate(config, processor),
        compute_metrics=None if texts else accuracy,
        keep_dataset=kept["train"] if kept else None,
        peft_config=lora_config(config),
    )


def trained(
    config: HardenConfig,
    data: DatasetDict,
    processor: Processor,
    *,
    kept: DatasetDict | None = None,
    goes_on: bool = False,
) -> SelfDestructTrainer:
    """Train as configured; if ``goes_on``, resume from the newest intact checkpoint."""
    trainer = trainer_of(config, data, processor, kept=kept)
    config.desired_tasks.check(trainer.plain_model(), processor)
    if not goes_on:
        trainer.train()
        return trainer
    checkpoint = intact.last_complete(trainer.args.output_dir, trainer.plain_model())
    logger.warning("resuming from %s; remove the folder to start over", checkpoint)
    state = TrainerState.load_from_json(str(Path(checkpoint, intact.LAST_FILE)))
    if state.global_step >= state.max_steps:  # finished: ``Trainer`` would take one more step
        trainer.take_up(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def harden(config: HardenConfig) -> AttackReport:
    """Harden, attack and write the folder; after an interruption, call it again to resume.

    Returns:
        The report, also in ``output_dir/selfdestruct/report.json``.
    """
    check_sources(config)
    args = training_arguments(config)
    with working_in(args.output_dir or "."):
        goes_on = intact.begun(args.output_dir or ".")
        check_the_same(config, args, goes_on=goes_on)
        processor = processor_of(config.model, config.data)
        refuse_quantized(config.model)
        if config.filtered:
            filtered = Target(FILTERED, config.filtered)
            check_target(filtered)
            check_shape(filtered, Target("base", config.model).config())
        data = examples(config, processor, config.model)
        kept = load_kept(config.data, processor)
        controls = _tasks(config.control_tasks, config, data, processor)
        if controls:
            check_controls(blocked_tasks(config, data, processor), controls)
        trainer = trained(config, data, processor, kept=kept, goes_on=goes_on)
        return trainer.attack(
            config.suite,
            filtered=config.filtered or None,
            base=config.model,  # the initial model has a new head for every seed; all seeds share one base
            desired_dataset=data["test"],
            kept_dataset=kept["test"] if kept else None,
            card=config.card,
            workers=config.workers,
            controls=controls,
            desired_tasks=config.desired_tasks,
        )


def examples(config: HardenConfig, processor: Processor, numbering: str) -> DatasetDict:
    """Load the desired examples: rows of tokens, or labelled ones with the class numbers of a model's configuration."""
    if config.data.of_texts:
        return load_texts(config.data, processor)
    return numbered_as(load_data(config, processor), numbering)


def attacker_desired(config: HardenConfig, data: DatasetDict, columns: Sequence[str]) -> DesiredData | None:
    """The desired examples that an attacker has."""
    of = desired_texts if config.data.of_texts else DesiredData.of
    return of(data["train"], data["validation"], columns)


def attacker_collate(config: HardenConfig, processor: Processor) -> Collate:
    """How an attacker makes a batch of rows."""
    return padded_batch if config.data.of_texts else collator_of(processor)


def attack(
    config: HardenConfig,
    model: str,
    *,
    undefended: str | None = None,
    base: str | None = None,
    filtered: str | None = None,
    storage: str | None = None,
    workers: int = 1,
    progress: bool = True,
) -> AttackReport:
    """Attack any model and its references.

    Args:
        config: Data, blocked tasks and suite; ``training`` is not used.
        model: Folder or Hub id of the hardened model.
        undefended: Folder or Hub id of the undefended model; by default it is not measured.
        base: Folder or Hub id of the base; by default ``config.model``.
        filtered: Folder or Hub id of a model trained as the base was, but never on the blocked task; by default
            ``config.filtered``, and where there is none, none is measured.
        storage: Optuna storage URL of the ledger.
        workers: Number of processes on this machine.
        progress: Whether to show a progress bar.

    Returns:
        The report.

    Raises:
        ValueError: A model or the storage cannot be used; all are checked before the first attack.
    """
    references = {"base": base or config.model, "undefended": undefended, FILTERED: filtered or config.filtered}
    targets = [Target(role, folder) for role, folder in references.items() if folder]
    targets.append(Target("hardened", model, sibling=undefended or ""))
    check_sources(config)
    for target in reversed(targets):  # check the command line's models before the configuration's
        check_target(target)
    check_alike(targets)
    check_storage(storage)
    processor = processor_of(model, config.data)
    targets = [replace(target, padding=padding_of(processor)) for target in targets]
    columns = processor.model_input_names
    collate = attacker_collate(config, processor)
    if config.data.of_texts:
        data = load_texts(config.data, processor)
        quality = {t.role: general_quality(t, data["test"], columns) for t in targets[1:]}
        if config.desired_tasks.names:
            config.desired_tasks.check(language_model(model), processor)
            for target in targets[1:]:
                quality[target.role] |= config.desired_tasks.scores(language_model(target.folder), processor)
    else:
        data = load_data(config, processor)
        data = renumbered(data, numbers_of(data["train"].features["label"].names, targets[-1].config(), model))
        kept = load_kept(config.data, processor)
        rated = [t for t in targets[1:] if t.role != FILTERED]  # it need not have the desired task's head
        general = {t.role: _alike(t, targets[0], kept["test"], collate) for t in rated} if kept else {}
        quality = {t.role: _accuracy(t, data["test"], collate) | general.get(t.role, {}) for t in rated}
    tasks, controls = blocked_tasks(config, data, processor), _tasks(config.control_tasks, config, data, processor)
    report = named_suite(config.suite, [task.kind for task in (*tasks, *controls)]).run(
        [*targets, replace(targets[-1], role="scratch", random=True, sibling="")],
        tasks,
        columns=columns,
        collate=collate,
        controls=controls,
        desired=attacker_desired(config, data, columns),
        storage=storage,
        workers=workers,
        progress=progress,
    )
    return doubted(report, desired=DesiredFacts("the desired task's test split", quality))


def _accuracy(target: Target, rows: Dataset, collate: Collate) -> dict[str, float]:
    """Measure the desired accuracy of a stock model with its own head and its own numbering of the classes."""
    order = numbers_of(rows.features["label"].names, target.config(), target.folder)
    model = target.published()
    if model is None:
        raise ValueError(
            f"{target.folder} lacks its head or other weights, so its desired quality cannot be measured; pass a "
            "complete model."
        )
    model.eval()
    accepted = {*inspect.signature(type(model).forward).parameters} - {"labels"}
    labels = rows.with_format(None)["label"][:]
    split = Split(rows_of(rows, range(len(rows)), accepted), np.asarray(order)[labels])
    predicted = in_batches(split, collate, lambda batch: model(**batch).logits)
    return {"accuracy": float((predicted.argmax(axis=1) == split.labels).mean())}


def _alike(target: Target, base: Target, rows: Dataset, collate: Collate) -> dict[str, float]:
    """Measure how well a model preserves the base's similarities between texts."""
    model = AutoModel.from_pretrained(target.folder, dtype=torch.float32, use_safetensors=True)
    columns = list(inspect.signature(type(model).forward).parameters)
    return similarity.to_base(model, base.folder, rows, columns=columns, collate=collate)
