"""The undefended sibling: what is trained as the hardened model was, with nothing blocked."""

from __future__ import annotations

import copy
import json
import logging
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    set_seed,
)
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer import DEFAULT_CALLBACKS, DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import CallbackHandler, ExportableState

from ..attacks.target import quiet, refuse_adapter
from ..files import weights_hash
from ..tasks.blocked_task import fingerprint
from .callbacks import OuterStepCallback, StopCallback
from .ingredients import described, stored_names
from .judge_callback import JudgeCallback
from .recipe import recipe_of
from .termination import Termination
from .training_args import SelfDestructTrainingArguments

if TYPE_CHECKING:
    from .base import HardeningTrainer

# What weights depend on among the arguments that are not ours.
DECISIVE = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps", "num_train_epochs"),
    *("seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "label_smoothing_factor", "load_best_model_at_end", "neftune_noise_alpha"),
    *("bf16", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
)
# Callbacks that each trainer makes for itself.
ANEW: tuple[Any, ...] = (*DEFAULT_CALLBACKS, PrinterCallback, DEFAULT_PROGRESS_CALLBACK)

logger = logging.getLogger(__name__)


def trained_sibling(trainer: HardeningTrainer, base: str) -> HardeningTrainer:
    """The sibling: same start, data, steps and seed without blocking; trained once and found again.

    Args:
        trainer: A trainer whose training has ended.
        base: Folder of the model it started from.

    Returns:
        A trainer that holds the sibling, whose folder is ``output_dir/_undefended``.
    """
    folder = trainer.folder / "_undefended"
    marker = folder / "_recipe.json"
    made_of = json.dumps(_ingredients(trainer, base), sort_keys=True, default=str)
    if marker.is_file() and marker.read_text(encoding="utf-8") == made_of:
        return sibling_of(trainer, str(folder))
    logger.warning("training the undefended sibling, as long as the model itself")  # a second bar needs a word
    sibling = sibling_of(trainer, base, output_dir=str(folder))
    sibling.train()
    sibling.save_model()
    if sibling.is_world_process_zero():
        marker.write_text(made_of, encoding="utf-8")
    return sibling


def _ingredients(trainer: HardeningTrainer, base: str) -> dict[str, Any]:
    """Everything on which a sibling's weights depend."""
    data = {"train": trainer.train_dataset, "keep": trainer.keep_dataset}
    model, given = trainer.accelerator.unwrap_model(trainer.model), trainer.given_optimizer
    return {
        **recipe_of(trainer),
        **{name: getattr(trainer.args, name) for name in DECISIVE},
        **dict.fromkeys(("seconds", "blocking_weight", "max_blocking_grad_norm")),  # of no consequence to a sibling
        "base": weights_hash(base),
        "data": {name: fingerprint(rows) for name, rows in data.items() if isinstance(rows, Dataset)},
        "optimizer_class": trainer.optimizer_cls_and_kwargs,
        "given_optimizer": described(None if given is None else (given.kind, given.config())),
        "own": _users_own(trainer),
        "dropout": {name: value for name, value in model.config.to_dict().items() if "drop" in name},
        "frozen": _frozen(model),
    }


def _users_own(trainer: HardeningTrainer) -> dict[str, Any]:
    """What the user built into the trainer: code of subclasses, attributes, functions, callbacks, data of other kinds.

    What cannot be described counts as changed, so that the sibling is trained again.
    """
    known = [one for one in type(trainer).__mro__ if one.__module__.startswith((f"{__package__}.", "transformers."))]
    names = stored_names(*known)
    data = (trainer.train_dataset, trainer.keep_dataset)
    return described(
        {
            "classes": [one for one in type(trainer).__mro__ if one not in known],
            "attributes": {name: value for name, value in vars(trainer).items() if name not in names},
            "callbacks": [*_own_callbacks(trainer)],
            "loss": trainer.compute_loss_func,
            "collator": trainer.data_collator,
            "data": [rows for rows in data if not isinstance(rows, Dataset)],
        },
        instead={id(trainer): "the trainer", id(trainer.args): "its arguments"},
    )


def _frozen(model: PreTrainedModel) -> list[str]:
    """Names of the weights that training leaves as they are."""
    return [name for name, weight in model.named_parameters() if not weight.requires_grad]


def sibling_of(trainer: HardeningTrainer, source: str, *, output_dir: str | None = None) -> HardeningTrainer:
    """A trainer like the given one, but without blocking, around other weights.

    Args:
        trainer: The hardened model's.
        source: Folder of the weights.
        output_dir: Its folder; by default ``source``.

    Raises:
        ValueError: Weights of the model are missing there, or it is an adapter.
    """
    refuse_adapter(source)
    args = trainer.args.undefended()
    args.output_dir = output_dir or source
    args.save_strategy = args.eval_strategy = "no"
    args.load_best_model_at_end = args.push_to_hub = args.eval_on_start = False
    args.max_desired_drop = None
    args.max_steps = trainer.state.max_steps or args.max_steps  # the schedule's length, also where it was cut short
    live = trainer.accelerator.unwrap_model(trainer.model)
    with quiet():
        model, info = type(live).from_pretrained(
            source, dtype=live.dtype, use_safetensors=True, output_loading_info=True
        )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{source}: {missing[0]} is missing, and would be random; name a {type(live).__name__}.")
    frozen = _frozen(live)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name not in frozen)
    return _copied(trainer, model, args)


def _copied(trainer: HardeningTrainer, model: PreTrainedModel, args: SelfDestructTrainingArguments) -> Any:
    """A copy of a trainer that trains another model by other arguments: whatever its user built into it is there."""
    set_seed(args.seed)  # as Trainer does when it is made: the same dropout
    twin = copy.copy(trainer)
    twin.args, twin.model, twin.model_wrapped = args, model, model
    twin.create_accelerator_and_postprocess()
    if twin.place_model_on_device:
        twin._move_model_to_device(model, args.device)
    given = trainer.given_optimizer
    twin.optimizer, twin.lr_scheduler = None if given is None or given.refusal else given.over(model), None
    twin._created_lr_scheduler, twin.current_flos, twin._loggers_initialized = False, 0, False
    anew = [type(one)() for one in trainer.callback_handler.callbacks if type(one) in ANEW]
    twin.callback_handler = CallbackHandler(anew, model, twin.processing_class, None, None)
    twin.prepare_hardening(model)
    for callback in _own_callbacks(trainer):
        twin.add_callback(_rebound(callback, trainer, twin))
    twin.add_callback(StopCallback(trainer.state.global_step))
    twin.control = TrainerControl()
    exportable: list[Any] = [
        one for one in (*twin.callback_handler.callbacks, twin.control) if isinstance(one, ExportableState)
    ]
    twin.state = TrainerState(
        is_local_process_zero=twin.is_local_process_zero(),
        is_world_process_zero=twin.is_world_process_zero(),
        stateful_callbacks=exportable,
    )
    model.config.use_cache = args.use_cache
    return twin


def _own_callbacks(trainer: HardeningTrainer) -> list[TrainerCallback]:
    """The user's callbacks that weights may depend on, but for early stopping: it stops where the model did."""
    reporting = get_reporting_integration_callbacks(trainer.args.report_to)  # the run on show is the model's
    own = (OuterStepCallback, Termination, StopCallback, EarlyStoppingCallback, JudgeCallback)
    others = (*ANEW, *reporting, *own)
    return [one for one in trainer.callback_handler.callbacks if not isinstance(one, others)]


def _rebound(callback: TrainerCallback, trainer: HardeningTrainer, twin: HardeningTrainer) -> TrainerCallback:
    """A copy of a callback that knows the twin where it knew the trainer."""
    copied = copy.copy(callback)
    for name, value in vars(callback).items():
        if value is trainer:
            setattr(copied, name, twin)
    return copied
