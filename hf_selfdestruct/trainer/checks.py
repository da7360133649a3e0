"""What is refused, or warned of, before any training starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import DistributedType
from datasets import Dataset
from sklearn.metrics import homogeneity_completeness_v_measure
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..erasure.initial_weights import check_initialization
from ..hardening.checks import check_held_out, check_losses, has_loss
from ..models import heads
from ..tasks.blocked_task import BlockedTask, content_hashes, label_column_of
from ..tasks.positions import check_lengths
from ..tasks.rows import LABELS, class_cure, columns_of
from .training_args import SelfDestructTrainingArguments

if TYPE_CHECKING:
    from .trainer import SelfDestructTrainer

ASSOCIATION_WARNING, FEWEST_SHARED_ROWS, MOST_ROWS = 0.5, 50, 20_000

logger = logging.getLogger(__name__)


def check_launch(args: SelfDestructTrainingArguments) -> None:
    """Refuse ways of launching that the meta-gradient does not survive."""
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process means DataParallel, which loses the adversary's gradients; "
            "start with `accelerate launch`, one process per GPU."
        )
    if args.fsdp and args.device.type == "cpu":
        raise ValueError("accelerate ignores FSDP on the CPU and would train whole weights; launch without FSDP.")
    if args.fsdp:
        logger.warning("FSDP through the Trainer has not been tested; the engine has been, on raw `fully_shard`.")


def check_plugins(trainer: SelfDestructTrainer) -> None:
    """Refuse what `accelerate` was configured to, by variables or a file that the training arguments do not know of."""
    state = trainer.accelerator.state
    if (precision := state.mixed_precision) not in ("no", "bf16"):
        raise ValueError(
            f"accelerate is configured for mixed_precision={precision!r} (ACCELERATE_MIXED_PRECISION), in which inner "
            "gradients underflow; use 'bf16' or 'no'."
        )
    if (backend := state.dynamo_plugin.backend.value) != "NO":
        raise ValueError(
            f"accelerate is configured to compile the model by {backend.lower()} (ACCELERATE_DYNAMO_BACKEND), and "
            "compiled graphs have no second derivative; unset it."
        )
    if state.distributed_type == DistributedType.MEGATRON_LM or trainer.accelerator.parallelism_config is not None:
        raise ValueError("accelerate is configured to split the model over processes; launch without that.")
    if trainer.is_deepspeed_enabled:
        raise ValueError("accelerate is configured for DeepSpeed, which owns the backward pass; launch without it.")
    if trainer.is_fsdp_enabled and not trainer.args.fsdp:
        raise ValueError(
            "accelerate is configured for FSDP, which the training arguments do not know of: set fsdp=True and "
            "adversary_scope='global', or launch without FSDP."
        )


def check_unquantized(model: PreTrainedModel) -> None:
    """Refuse weights that no gradient reaches."""
    quantized = (type(m).__name__ for m in model.modules() if type(m).__module__.startswith("torch.ao.nn.quantized"))
    if (name := next(quantized, None)) is not None:
        raise ValueError(
            f"the model is quantized (it has a quantized {name}), and no gradient reaches such weights: harden the "
            "model in floating point, and quantize the hardened one."
        )


def check_guard(args: SelfDestructTrainingArguments, evaluated: Any) -> None:
    """Refuse a guard that does not say which of several validation sets it looks at."""
    if args.max_desired_drop is None or not isinstance(evaluated, dict):
        return
    named = (args.metric_for_best_model or "").removeprefix("eval_")
    if not any(named.startswith(f"{name}_") for name in evaluated):
        raise ValueError(
            f"max_desired_drop guards one of the validation sets ({', '.join(evaluated)}): set metric_for_best_model, "
            f"for example to 'eval_{next(iter(evaluated), '')}_loss'; got {args.metric_for_best_model!r}."
        )


def check_hardening(trainer: SelfDestructTrainer, model: PreTrainedModel) -> None:
    """Refuse data, tasks, adversaries and losses that cannot work together, with what to do instead."""
    check_plugins(trainer)
    if trainer.given_optimizer is not None and trainer.given_optimizer.refusal:
        logger.warning(
            "no sibling can be trained as optimizers= say (%s): attack() will refuse it, after all training; give "
            "optimizer_cls_and_kwargs= instead, or plan to attack(undefended=...).",
            trainer.given_optimizer.refusal,
        )
    check_guard(trainer.args, trainer.eval_dataset)
    desired = {"train_dataset": trainer.train_dataset, "eval_dataset": trainer.eval_dataset}
    check_desired(desired, model)
    check_initialization(model, trainer.args, trainer.train_dataset)
    check_tasks(trainer.blocked_tasks, trainer.input_columns)
    check_lengths(model, {**desired, "keep_dataset": trainer.keep_dataset}, trainer.blocked_tasks)
    check_adversaries(trainer.adversaries, trainer.blocked_tasks, model, trainer.train_dataset)
    check_losses(
        trainer.blocking_losses,
        trainer.keeping_losses,
        model,
        keep_dataset=trainer.keep_dataset,
        desired=trainer.train_dataset,
        erases=bool(trainer.args.keeping_erases),
    )
    check_held_out(trainer.blocking_losses, trainer.blocked_tasks, trainer.args.blocking_batch_size or 0)
    if trainer.args.world_size > 1:
        check_processes(trainer)
    warn_of_association(trainer.blocked_tasks, trainer.train_dataset)


def check_simulation(trainer: SelfDestructTrainer, model: PreTrainedModel) -> None:
    """Refuse a model that hardening would not reach."""
    weights = dict(model.named_parameters())
    if any(".base_layer." in name for name in weights):
        raise ValueError(
            "the model holds PEFT adapters, which the stock model of an adversary does not: merge them into its "
            "weights first (an adversary with adapters of its own is adversary_trainable='lora')."
        )
    reached = {name for name in trainer.simulation.published & weights.keys() if weights[name].requires_grad}
    given, cure = trainer.given_optimizer, "unfreeze layers of the trunk, or set blocking_weight=0."
    if trainer.args.blocking_weight and not reached:
        raise ValueError(
            f"no weight that an adversary starts from requires a gradient, so that nothing could be blocked: {cure}"
        )
    if trainer.args.blocking_weight and given is not None and given.names and not reached & {*chain(*given.names)}:
        raise ValueError(
            "optimizers= hold no weight that an adversary starts from, so that nothing could be blocked: make the "
            "optimizer of the weights of the model that the trainer trains (adapters are merged into them)."
        )


def check_processes(trainer: SelfDestructTrainer) -> None:
    """Refuse adversaries that several processes cannot simulate as ``adversary_scope`` says."""
    args, tasks, count = trainer.args, trainer.blocked_tasks, trainer.args.world_size
    if args.adversary_scope == "local":
        if any(adversary.carries > 1 for adversary in trainer.adversaries):
            raise ValueError(
                "an adversary that goes on from where it was (carries) is one process's own, and would be lost in a "
                "checkpoint of several; set adversary_scope='global' or adversary_carries=1."
            )
        return
    if args.meta_gradient == "unrolled":
        raise ValueError("meta_gradient='unrolled' is one process's own; 'exact' gives the same and can be shared.")
    if twice := [type(loss).__name__ for loss in trainer.blocking_losses if loss.second_order]:
        raise ValueError(f"{twice[0]} cannot be added up over processes; leave it out or set adversary_scope='local'.")
    sizes = {"adversary_batch_size": min(min(a.options("batch_size")) for a in trainer.adversaries)}
    given = [n for a in trainer.adversaries for n in a.options("examples") if n is not None]
    sizes |= {"adversary_examples": min(given)} if given else {}
    sizes |= {f"rows of blocked task {t.name!r} to train on": len(t.adversary_rows()) for t in tasks}
    sizes |= {f"held-out rows of blocked task {t.name!r}": len(t.held_out_rows()) for t in tasks}
    for name, size in {**sizes, "blocking_batch_size": args.blocking_batch_size}.items():
        if size < count:
            raise ValueError(
                f"{name} is {size}: too few for {count} processes that share them out (adversary_scope='global'); "
                "give more, or launch fewer processes."
            )


def listed_tasks(given: Any) -> list[BlockedTask]:
    """``blocked_tasks`` as a list; a single task is refused, for a trainer takes several."""
    if isinstance(given, BlockedTask | Mapping | str):
        raise TypeError(f"blocked_tasks must be a list of BlockedTask, got {type(given).__name__}; give [task].")
    return list(given)


def check_tasks(tasks: Sequence[BlockedTask], columns: Sequence[str]) -> None:
    """Refuse missing or doubled tasks and splits the model cannot read."""
    if not tasks:
        raise ValueError("blocked_tasks is empty: give at least one BlockedTask, or use transformers.Trainer.")
    for task in tasks:
        if not isinstance(task, BlockedTask):
            raise TypeError(f"blocked_tasks must hold BlockedTask objects, got {type(task).__name__}.")
        for split, data in task.splits().items():
            if not ({*(found := columns_of(data))} - {*LABELS, task.label_column}) & {*columns}:
                raise ValueError(
                    f"blocked task {task.name!r}, split {split!r}: none of its columns ({', '.join(found)}) is an "
                    "input of the model; tokenise (or transform) it the way train_dataset is."
                )
        if missing := [split for split in ("attack", "test") if split not in task.splits()]:
            logger.warning(
                "blocked task %r has no %r split: attack() will refuse it, after all training; give "
                "BlockedTask(..., %s=...) if it is to be attacked.",
                *(task.name, missing[0], missing[0]),
            )
    names = [task.name for task in tasks]
    if len({*names}) < len(names):
        raise ValueError(f"blocked tasks must have different names; got {', '.join(names)}.")


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
                f"{' and '.join(named)}, and collators differ in which they read: rename or remove one, also where it "
                "holds a blocked task's labels (BlockedTask(label_column=...) takes any name)."
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
            if "keep" in adversary.options("head") and task.num_labels != count:
                raise ValueError(
                    f"adversary head 'keep' needs the desired task's label space: the model has {count} "
                    f"labels, blocked task {task.name!r} has {task.num_labels}; use 'learned' or 'random'."
                )
        if any(adversary.options("prelude")) and not (isinstance(desired, Dataset) and has_loss(model)):
            raise ValueError(
                "an adversary's prelude trains on the desired task: it needs a model with a head and a map-style "
                f"train_dataset, got {type(model).__name__} and {type(desired).__name__}."
            )


def warn_of_association(tasks: Sequence[BlockedTask], desired: Any) -> None:
    """Warn when desired and blocked labels nearly determine each other on the rows they share.

    The association is Theil's U (the share of one label's entropy that the other explains), in both
    directions; from 0.5 on, blocking will cost the desired task.
    """
    if not isinstance(desired, Dataset):
        return
    label = label_column_of(desired.column_names)
    if label is None:
        return
    some = desired.select(range(min(len(desired), MOST_ROWS)))
    classes = some.with_format(None)[label][:]
    if not all(isinstance(one, int) for one in classes):
        return  # several labels in a row, or a quantity: no classes to compare
    known = dict(zip(content_hashes(some, label), classes, strict=True))
    for task in tasks:
        rows = zip(task.contents("train"), task.labels("train"), strict=True)
        pairs = [(known[row], int(blocked)) for row, blocked in islice(rows, MOST_ROWS) if row in known]
        if len(pairs) < FEWEST_SHARED_ROWS:
            continue
        blocked_given_desired, desired_given_blocked, _ = homogeneity_completeness_v_measure(
            [b for _, b in pairs], [d for d, _ in pairs]
        )
        strongest = max(blocked_given_desired, desired_given_blocked)
        if strongest >= ASSOCIATION_WARNING:
            logger.warning(
                "blocked task %r and the desired task nearly determine each other on the %d rows they share "
                "(Theil's U %.2f of the blocked label given the desired one, %.2f the other way): blocking it "
                "will cost the desired task.",
                task.name,
                len(pairs),
                blocked_given_desired,
                desired_given_blocked,
            )
