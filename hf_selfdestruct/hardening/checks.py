"""What losses, adversaries and the desired task need, asked before any training starts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import find_labels

from ..adversaries.adversary import Adversary
from ..erasure.initial_weights import check_initialization
from ..losses.base import BlockingLoss
from ..losses.keeping import KeepingLoss
from ..models import heads
from ..tasks.blocked_task import BlockedTask, label_column_of
from ..tasks.checks import check_tasks
from ..tasks.classification import class_cure
from ..tasks.rows import LABELS
from .batch_norms import check_batch_norms
from .config import HardeningConfig
from .defaults import configured_forms
from .draw import Draw
from .kinds import check_ceiling, check_kinds, check_pairs, check_published_heads
from .readers import check_readers


def has_loss(model: PreTrainedModel) -> bool:
    """Whether the model has a loss of its own: it takes labels, or has a head (maybe on no named trunk)."""
    return bool(find_labels(type(model))) or model.base_model is not model or heads.has_task_head(model)


def check_hardening(
    config: HardeningConfig,
    model: PreTrainedModel,
    *,
    tasks: Sequence[BlockedTask],
    adversaries: Sequence[Adversary],
    blocking: Sequence[BlockingLoss],
    keeping: Sequence[KeepingLoss],
    desired: Any,
    keep: Any,
    columns: Sequence[str],
    processes: int,
) -> None:
    """Refuse data, tasks, adversaries and losses that cannot work together, with what to do instead."""
    check_desired({"desired": desired}, model)
    check_initialization(model, configured_forms(config), desired)
    check_tasks(tasks, columns)
    check_kinds(config, tasks, blocking)
    check_ceiling(config, blocking)
    check_published_heads(adversaries, tasks, model)
    check_pairs(adversaries, tasks)
    check_adversaries(adversaries, tasks, model, desired)
    check_pool(config, adversaries)
    check_batch_norms(config, model, adversaries, processes)
    check_readers(config, adversaries, tasks, processes)
    check_losses(blocking, keeping, model, keep_dataset=keep, desired=desired, erases=config.options.keeping_erases)
    check_held_out(blocking, tasks, config.blocking_batch_size or 0)
    check_processes(config, tasks, adversaries, blocking, processes)


def check_losses(
    blocking: Sequence[BlockingLoss],
    keeping: Sequence[KeepingLoss],
    model: PreTrainedModel,
    *,
    keep_dataset: Any,
    desired: Any,
    erases: bool = False,
) -> None:
    """Refuse losses that cannot be measured, and a model that nothing keeps good.

    Args:
        blocking: Losses at the adversary's weights.
        keeping: Distances to the original.
        model: The model to harden.
        keep_dataset: Rows to keep it on, if any.
        desired: The desired task's training rows.
        erases: Whether blocked tasks are erased from the original.

    Raises:
        TypeError: ``keep_dataset`` is no map-style dataset.
        ValueError: A loss has nothing to look at; the message says what to do.
    """
    losses: list[BlockingLoss | KeepingLoss] = [*blocking, *keeping]
    inside = [type(loss).__name__ for loss in losses if loss.wants_hidden_states]
    if inside and model.config.is_encoder_decoder:
        raise ValueError(
            f"{inside[0]} looks at hidden states, of which {type(model).__name__}, an encoder with a decoder, has two "
            "kinds: use method='mlac_fast', or set keeping_loss='' and method_options={'probe_weight': 0, "
            "'keeping_erases': False}."
        )
    if not has_loss(model) and not keeping:
        raise ValueError(
            f"{type(model).__name__} has no head and therefore no loss: pass keeping_losses=, such as "
            "[HiddenStateDistillation(), EmbeddingDistillation()]."
        )
    if keep_dataset is not None and not isinstance(keep_dataset, Dataset):
        raise TypeError(f"keep_dataset must be a map-style datasets.Dataset, got {type(keep_dataset).__name__}.")
    if keep_dataset is not None and len(keep_dataset) == 0:
        raise ValueError("keep_dataset is empty: give it at least one row.")
    if keep_dataset is not None and not keeping and not any(loss.on_general for loss in blocking):
        raise ValueError("keep_dataset is given, but no loss looks at it: give keeping_losses= or keeping_loss=.")
    if keep_dataset is None and not isinstance(desired, Dataset) and any(loss.on_general for loss in blocking):
        raise ValueError(
            "a blocking loss is measured on general rows: give keep_dataset=, or a map-style train_dataset "
            f"(got {type(desired).__name__})."
        )
    if erases and not any(loss.wants_hidden_states for loss in keeping):
        raise ValueError(
            "keeping_erases takes blocked tasks out of the original's hidden states, but no keeping loss looks at "
            "them: add hidden_state_distillation or embedding_distillation to keeping_loss, or set "
            "method_options={'keeping_erases': False}."
        )
    for loss in keeping:
        if loss.wants_labels and keep_dataset is None:
            raise ValueError(f"{type(loss).__name__} reads the rows to keep: give keep_dataset=.")


def check_held_out(blocking: Sequence[BlockingLoss], tasks: Sequence[BlockedTask], size: int) -> None:
    """Refuse losses that need more held-out rows than there are.

    Args:
        blocking: Losses at the adversary's weights.
        tasks: Blocked tasks.
        size: Held-out rows that are drawn in a step, where there are as many.

    Raises:
        ValueError: A task or a batch has too few rows.
    """
    for loss in blocking:
        for task in tasks:
            if (rows := min(len(task.held_out_rows()), size)) < loss.fewest_rows:
                raise ValueError(
                    f"{type(loss).__name__} needs {loss.fewest_rows} held-out rows or more, blocked task {task.name!r} "
                    f"gives it {rows} (a fifth of {len(task.train)}, and blocking_batch_size={size} at most): give "
                    "more, or leave it out (method_options={'probe_weight': 0})."
                )


def check_desired(datasets: Mapping[str, Any], model: PreTrainedModel) -> None:
    """Refuse an empty desired dataset, and integer labels that the model's head has no place for."""
    count = (model.config.num_labels or 0) if heads.has_task_head(model) else 0  # choices are no classes
    for name, data in datasets.items():
        if not isinstance(data, Dataset):
            continue
        if len(data) == 0:
            raise ValueError(f"{name} is empty: give it at least one row.")
        if has_loss(model) and len(named := [column for column in LABELS if column in data.column_names]) > 1:
            raise ValueError(
                f"{name} has {len(named)} columns that transformers takes for the desired task's labels, "
                f"{' and '.join(named)}, and collators differ in which they read: rename or remove one, even if it "
                "contains a blocked task's labels (BlockedTask(label_column=...) accepts any name)."
            )
        label = label_column_of(data.column_names)
        if label is None or count < 2 or model.config.problem_type == "multi_label_classification":
            continue
        cells = data.with_format(None)[label][:]
        if isinstance(cells[0], list):
            continue  # one label per token: the model's own loss knows what to make of them
        if strange := [(row, one) for row, one in enumerate(cells) if type(one) is not int]:
            raise ValueError(
                f"{name}, column {label!r}, row {strange[0][0]}: label {strange[0][1]!r} is not an integer; "
                f"{class_cure(strange[0][1], label)}."
            )
        labels = np.asarray(cells)
        wrong = np.flatnonzero((labels < 0) | (labels >= count))
        if len(wrong):
            cure = "load the model with num_labels= the desired task's number of classes."
            if labels[wrong[0]] < 0:
                cure = "a negative number marks a row without a label: leave such rows out."
            raise ValueError(
                f"{name}, column {label!r}, row {wrong[0]}: label {labels[wrong[0]]} is outside 0..{count - 1}; {cure}"
            )


def check_adversaries(
    adversaries: Sequence[Adversary], tasks: Sequence[BlockedTask], model: PreTrainedModel, desired: Any
) -> None:
    """Refuse an adversary that cannot run on these tasks."""
    count = model.config.num_labels if heads.has_task_head(model) else None
    for adversary in adversaries:
        for task in tasks:
            published = task.kind.model_class is not None  # see check_published_heads
            if "keep" in adversary.options("head") and not published and task.num_labels != count:
                raise ValueError(
                    f"adversary head 'keep' needs the desired task's label space: the model has {count} "
                    f"labels, blocked task {task.name!r} has {task.num_labels}; use 'learned' or 'random'."
                )
        if any(adversary.options("prelude")) and not (isinstance(desired, Dataset) and has_loss(model)):
            raise ValueError(
                "an adversary's prelude trains on the desired task: it needs a model with a head and a map-style "
                f"train_dataset, got {type(model).__name__} and {type(desired).__name__}; or set adversary="
                "{'prelude': 0}."
            )


def check_pool(config: HardeningConfig, adversaries: Sequence[Adversary]) -> None:
    """Refuse a pool of adversaries that never move."""
    still = [adversary for adversary in adversaries if not max(adversary.options("steps"))]
    if config.blocking_weight and config.adversary_settings.pool and still:
        raise ValueError(
            "an adversary of a pool continues by inner steps, and one here makes none (steps=0): set inner_steps=4, or "
            "adversary={'pool': 0}."
        )
    falling = any("linear" in adversary.options("schedule") for adversary in adversaries)
    if config.blocking_weight and falling and not config.adversary_settings.pool:
        raise ValueError(
            "adversary={'schedule': 'linear'} is of the life of an adversary in a pool: set adversary={'pool': 1}, or "
            "schedule='constant'."
        )


def check_processes(
    config: HardeningConfig,
    tasks: Sequence[BlockedTask],
    adversaries: Sequence[Adversary],
    losses: Sequence[BlockingLoss],
    count: int,
) -> None:
    """Refuse adversaries that several processes cannot simulate as the adversary's ``scope`` says.

    Args:
        config: The settings.
        tasks: Blocked tasks.
        adversaries: Adversaries to draw from.
        losses: Losses at the adversary's weights.
        count: How many processes there are.

    Raises:
        ValueError: They cannot share an adversary, or its rows.
    """
    if count == 1 or config.adversary_settings.scope == "local":
        return
    if config.meta_gradient == "unrolled":
        raise ValueError("meta_gradient='unrolled' is one process's own; 'exact' gives the same and can be shared.")
    if twice := [type(loss).__name__ for loss in losses if loss.second_order]:
        raise ValueError(
            f"{twice[0]} cannot be added up over processes; leave it out or set adversary={{'scope': 'local'}}."
        )
    sizes = {"the adversary's batch_size": min(min(a.options("batch_size")) for a in adversaries)}
    given = [n for a in adversaries for n in a.options("examples") if n is not None]
    sizes |= {"the adversary's examples": min(given)} if given else {}
    sizes |= {f"rows of blocked task {t.name!r} to train on": len(t.adversary_rows()) for t in tasks}
    sizes |= {f"held-out rows of blocked task {t.name!r}": len(t.held_out_rows()) for t in tasks}
    for name, size in {**sizes, "blocking_batch_size": config.blocking_batch_size}.items():
        if size < count:
            raise ValueError(
                f"{name} is {size}: too few for {count} processes that share them out (scope 'global'); "
                "give more, or launch fewer processes."
            )


def check_reached(model: PreTrainedModel, config: HardeningConfig, published: Collection[str]) -> None:
    """Refuse a model that hardening would not reach.

    Args:
        model: The model to harden.
        config: The settings.
        published: Names of the weights that adversaries start from.

    Raises:
        ValueError: None of them is trained, or they are hidden under adapters.
    """
    weights = dict(model.named_parameters())
    if any(".base_layer." in name for name in weights):
        raise ValueError(
            "the model contains PEFT adapters, which the stock model of an adversary does not: merge them into the "
            "weights first (merge_and_unload); to train an adapter alone, give the trainer peft_config=; for an "
            "adversary that trains adapters, set adversary={'trainable': 'lora'}."
        )
    reached = any(weights[name].requires_grad for name in {*published} & weights.keys())
    if config.blocks and not reached:
        raise ValueError(
            "no weight that an adversary starts from requires a gradient, so hardening cannot block anything: unfreeze "
            "layers of the trunk, or set blocking_weight=0 and method_options={'unlearn_steps': 0}."
        )


def check_finite(terms: Mapping[str, float], draw: Draw, step: int) -> None:
    """Refuse a reading that is not finite.

    Raises:
        FloatingPointError: One is not; it names the step, the task and the adversary.
    """
    for name, value in terms.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {step} (task {draw.task.name!r}, adversary "
                f"{draw.fine_tuning.config()}); training stops and the last checkpoint is intact. "
                "Lower the adversary's learning_rate, inner_steps or learning_rate."
            )
