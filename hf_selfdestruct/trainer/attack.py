"""Evidence: the sibling is trained, the models are attacked, and the folder is completed."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evaluate
from datasets import Dataset

from .. import __version__
from ..attacks import AttackSuite, DesiredData, Target, named_suite
from ..attacks.data import check_attackable, check_controls
from ..attacks.doubts import doubted
from ..attacks.methods.general import desired_texts
from ..attacks.metrics import check_metrics
from ..attacks.suites.ledger import Ledger, storage_at
from ..attacks.target import check_shape
from ..files import file_hash, weights_hash
from ..models.heads import has_task_head
from ..publish import manifest
from ..publish.card import render_folder
from ..publish.card_details import CardDetails
from ..publish.earlier import has_evidence, holds, set_aside
from ..report.attack_run import FILTERED
from ..report.plots import save_plots
from ..report.report import AttackReport
from ..tasks.blocked_task import BlockedTask
from ..tasks.positions import check_lengths
from . import similarity
from .checks import check_desired
from .desired_quality import desired_facts
from .desired_tasks import DesiredTasks, asked_tasks
from .plainly import unlike_plain
from .provenance import known_details
from .recipe import recipe_of
from .sentence_encoder import carry_sentence_files
from .sibling import sibling_of, trained_sibling

if TYPE_CHECKING:
    from .base import HardeningTrainer

logger = logging.getLogger(__name__)


def attack_trainer(
    trainer: HardeningTrainer,
    suite: str | AttackSuite = "default",
    *,
    undefended: str | Path | None = None,
    base: str | Path | None = None,
    filtered: str | Path | None = None,
    desired_dataset: Dataset | None = None,
    kept_dataset: Dataset | None = None,
    card: CardDetails | Mapping[str, Any] | None = None,
    storage: str | None = None,
    controls: Sequence[BlockedTask] = (),
    metrics: Mapping[str, evaluate.Metric] | None = None,
    desired_tasks: Sequence[str] | DesiredTasks = (),
    workers: int = 1,
) -> AttackReport:
    """Save a trainer's model, attack it beside its references, and write the evidence into its folder.

    Under several processes on one machine all of them share the attacks, and the first one writes the folder.

    Args:
        trainer: A trainer whose training has ended.
        suite: A shipped suite's name, see :func:`.named_suite`, or a suite of your own.
        undefended: Folder of the sibling; by default it is trained now (same start, data, steps and
            seed, blocking weight 0) into ``output_dir/_undefended``. It keeps its last weights, also where the hardened
            model is the best of its checkpoints.
        base: Folder or Hub id of the model an attacker may start from; by default ``output_dir/_base``, which is where
            training started and so does the sibling.
        filtered: Folder or Hub id of a model trained as the base was, but never on the blocked task: a reference.
        desired_dataset: Where desired quality is measured; by default the trainer's ``eval_dataset``.
        kept_dataset: Held-out unlabelled rows on which the models' general use is measured: how alike the hardened
            model and its sibling find them, beside the base (see :func:`similarity.rank_correlation`).
        card: The user's own words.
        storage: Optuna storage URL; by default a file in the folder. One storage for several hardened models
            lets them share the runs on base, undefended and scratch.
        controls: Benign tasks, fine-tuned to as a control of what hardening costs others.
        metrics: ``evaluate`` metrics of your own, by name, for the report.
        desired_tasks: Tasks of lm-eval on which desired quality is measured too, for language models.
        workers: Processes that share the attacks, where no launcher started several.

    Returns:
        The report, also in ``output_dir/selfdestruct/report.json``.

    Raises:
        ValueError: Unknown suite, a task without ``attack`` or ``test`` rows, a control that is blocked, rows or
            metrics by which nothing can be measured, or an optimizer that no sibling can have.
    """
    chosen = _suite(suite, [*trainer.blocked_tasks, *controls])
    _check_references(trainer, undefended=undefended, base=base, filtered=filtered)
    details = card if isinstance(card, CardDetails) else CardDetails.from_dict(dict(card or {}))
    started = (folder := trainer.folder) / "_base"
    if base is None and not started.is_dir():
        raise ValueError(f"{started} is missing: call train() first, or pass base= the model it started from.")
    start, base = str(started if started.is_dir() else base), str(base or started)
    _check(trainer, chosen, trains_sibling=undefended is None, controls=controls)
    _check_measures(trainer, metrics or {}, controls, desired_dataset, kept_dataset)
    asked = asked_tasks(desired_tasks, trainer)
    _save(trainer)
    unlike = _unlike_plain(trainer)
    sibling = trained_sibling(trainer, start) if undefended is None else sibling_of(trainer, str(undefended))
    desired = desired_facts(trainer, sibling, start, desired_dataset, kept_dataset, asked)
    storage = _stored(trainer, storage)
    report = chosen.run(
        _targets(base, str(sibling.folder), trainer, filtered),
        trainer.blocked_tasks,
        columns=trainer.input_columns,
        collate=trainer.blocked_collator,
        controls=controls,
        desired=_rows_to_heal(trainer),
        metrics=metrics,
        storage=storage,
        workers=workers,
        progress=trainer.is_world_process_zero() and not trainer.args.disable_tqdm,
    )
    trainer.accelerator.wait_for_everyone()  # who still attacks would find that the folder's configuration changed
    if trainer.is_world_process_zero():
        models = report.models | {"hardened": dataclasses.replace(report.models["hardened"], unlike_plain=unlike)}
        report = doubted(report, desired=desired, recipe=recipe_of(trainer), models=models)
        complete_folder(folder, report, known_details(trainer, details))
    trainer.accelerator.wait_for_everyone()
    return AttackReport.load(folder / manifest.REPORT)


def _stored(trainer: HardeningTrainer, storage: str | None) -> str:
    """Where the runs are stored: one process makes the file, all others find it."""
    storage = storage or storage_at(trainer.folder / "_attacks.db")
    with trainer.accelerator.main_process_first():
        Ledger(storage)
    return storage


def _check_references(trainer: HardeningTrainer, **folders: str | Path | None) -> None:
    if folders[FILTERED]:
        check_shape(Target(FILTERED, str(folders[FILTERED])), trainer.plain_model().config)
    for role, given in folders.items():
        if given is not None and Path(given).is_absolute() and not Path(given).is_dir():
            raise ValueError(f"{role}={str(given)!r}: no such folder.")


def _suite(suite: Any, tasks: Sequence[BlockedTask]) -> AttackSuite:
    chosen = named_suite(suite, [task.kind for task in tasks]) if isinstance(suite, str) else suite
    if not isinstance(chosen, AttackSuite):
        raise TypeError(f"suite must be the name of a shipped suite or an AttackSuite, got {type(suite).__name__}.")
    return chosen


def _unlike_plain(trainer: HardeningTrainer) -> str:
    """What a report says of the hardened model where plain transformers makes another one of it; said now, too."""
    unlike = unlike_plain(trainer)
    if unlike and trainer.is_world_process_zero():
        logger.warning("plain transformers does not load the model as it was trained: %s", unlike)
    return unlike


def _save(trainer: HardeningTrainer) -> None:
    """Save the model; evidence of another one that the folder holds is set aside first.

    Raises:
        ValueError: The folder holds another model, and this trainer has trained none.
    """
    folder, trained = trainer.folder, trainer.state.global_step > 0
    taken = has_evidence(folder) or (weights_hash(folder) and not trained)
    trainer.accelerator.wait_for_everyone()  # each process has looked before the first one writes
    if taken:
        again = folder / "_saved"
        trainer.save_model(str(again))
        trainer.accelerator.wait_for_everyone()
        same, other = holds(folder, again), weights_hash(folder) not in ("", weights_hash(again))
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            shutil.rmtree(again)
        if same:
            return
        if other and not trained:
            raise ValueError(
                f"{folder} contains a model with other weights than this trainer's, which has not trained; nothing was "
                f"overwritten. Load the model from {folder} into the trainer, call train() first, or set another "
                "output_dir."
            )
        if trainer.is_world_process_zero():
            set_aside(folder)
    trainer.save_model()
    if trainer.is_world_process_zero():
        carry_sentence_files(trainer.plain_model().name_or_path or "", folder)
    trainer.accelerator.wait_for_everyone()  # each process reads the folder next


def _check(
    trainer: HardeningTrainer, suite: AttackSuite, *, trains_sibling: bool, controls: Sequence[BlockedTask]
) -> None:
    """Refuse what cannot be attacked, before anything is trained or written."""
    if trains_sibling and trainer.given_optimizer is not None and trainer.given_optimizer.refusal:
        raise ValueError(
            f"no sibling can be trained as the trainer's optimizers= say ({trainer.given_optimizer.refusal}): "
            "give the trainer optimizer_cls_and_kwargs= instead, or attack(undefended=) a sibling's folder."
        )
    for task in (*trainer.blocked_tasks, *controls):
        check_attackable(task)
    check_controls(trainer.blocked_tasks, controls)
    suite.check_fits([*trainer.blocked_tasks, *controls])


def _check_measures(
    trainer: HardeningTrainer,
    metrics: Mapping[str, evaluate.Metric],
    controls: Sequence[BlockedTask],
    desired: Dataset | None,
    kept: Dataset | None,
) -> None:
    """Refuse what could not be measured, before anything is trained or written."""
    for task in (*trainer.blocked_tasks, *controls):
        check_metrics(metrics, task.labels("test"), task.outputs, kind=task.kind)
    check_desired({"desired_dataset": desired}, trainer.plain_model())
    check_lengths(trainer.plain_model(), {"desired_dataset": desired, "kept_dataset": kept}, controls)
    if kept is not None:
        model, collate = trainer.plain_model(), trainer.blocked_collator
        similarity.check_kept(model, kept, columns=trainer.input_columns, collate=collate)


def _rows_to_heal(trainer: HardeningTrainer) -> DesiredData | None:
    """The desired task's rows, where it is one for the models that attackers train (unlike multiple choice)."""
    if any(task.kind.model_class is not None for task in trainer.blocked_tasks):
        return desired_texts(trainer.train_dataset, trainer.eval_dataset, trainer.input_columns)
    if not has_task_head(trainer.plain_model()):
        return None
    return DesiredData.of(trainer.train_dataset, trainer.eval_dataset, trainer.input_columns)


def _targets(base: str, undefended: str, trainer: HardeningTrainer, filtered: str | Path | None = None) -> list[Target]:
    padding = getattr(trainer.plain_model().config.get_text_config(), "pad_token_id", None)
    return [
        Target("base", base, padding=padding),  # a base that was given may name none
        Target("undefended", undefended, padding=padding),
        Target("hardened", str(trainer.folder), sibling=undefended, padding=padding),
        *([Target(FILTERED, str(filtered), padding=padding)] if filtered else []),
        Target("scratch", base, random=True, padding=padding),
    ]


def complete_folder(folder: Path, report: AttackReport, details: CardDetails) -> None:
    """Write report, plots, config stamp, card and manifest, in this order, so that what exists is true."""
    evidence = folder / "selfdestruct"
    for old in (manifest.MANIFEST, manifest.SIGNATURE):  # they no longer hold
        (folder / old).unlink(missing_ok=True)
    for plot in evidence.glob("*.png"):  # also one of a task that has gone
        plot.unlink()
    report.save(evidence / "report.json")
    save_plots(report, evidence)
    details = details.of_model(json.loads(manifest.config_file(folder).read_text(encoding="utf-8")))
    (evidence / "card.json").write_text(details.to_json(), encoding="utf-8")
    stamp = {
        "version": __version__,
        "method": report.recipe.get("method", "not stated"),
        "blocked_tasks": report.blocked(),
        "report_sha256": file_hash(evidence / "report.json"),
    }
    manifest.stamp_config(folder, stamp)
    render_folder(folder)
    manifest.write_manifest(folder)
