"""The undefended sibling: what is trained as the hardened model was, with nothing blocked."""

from __future__ import annotations

import copy
import json
import logging
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedModel

from .attacks.target import refuse_adapter
from .files import weights_hash
from .tasks import fingerprint
from .trainer_parts import StopCallback, recipe_of
from .training_args import UNDEFENDED

if TYPE_CHECKING:
    from .trainer import SelfDestructTrainer

# What weights depend on among the arguments that are not ours.
DECISIVE = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps", "num_train_epochs"),
    *("seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "label_smoothing_factor", "load_best_model_at_end", "neftune_noise_alpha"),
    *("bf16", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
)
PLAIN = (bool, int, float, str)

logger = logging.getLogger(__name__)


def trained_sibling(trainer: SelfDestructTrainer, base: str) -> SelfDestructTrainer:
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


def _ingredients(trainer: SelfDestructTrainer, base: str) -> dict[str, Any]:
    """Everything on which a sibling's weights depend."""
    data = {"train": trainer.train_dataset, "keep": trainer.keep_dataset}
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        **recipe_of(trainer),
        **{name: getattr(trainer.args, name) for name in DECISIVE},
        **dict.fromkeys(("seconds", "blocking_weight", "max_blocking_grad_norm")),  # of no consequence to a sibling
        "base": weights_hash(base),
        "data": {name: fingerprint(rows) for name, rows in data.items() if isinstance(rows, Dataset)},
        "optimizer_class": trainer.optimizer_cls_and_kwargs,
        "loss": _named(trainer.compute_loss_func),
        "collator": _named(trainer.data_collator),
        "dropout": {name: value for name, value in model.config.to_dict().items() if "drop" in name},
        "frozen": _frozen(model),
    }


def _named(what: Any) -> list[Any]:
    """A function's name; an object's class, with those of its settings that are plain values."""
    settings = {name: value for name, value in getattr(what, "__dict__", {}).items() if isinstance(value, PLAIN)}
    return [getattr(what, "__qualname__", type(what).__qualname__), settings]


def _frozen(model: PreTrainedModel) -> list[str]:
    """Names of the weights that training leaves as they are."""
    return [name for name, weight in model.named_parameters() if not weight.requires_grad]


def sibling_of(trainer: SelfDestructTrainer, source: str, *, output_dir: str | None = None) -> SelfDestructTrainer:
    """A trainer like the given one, but without blocking, around other weights.

    Args:
        trainer: The hardened model's.
        source: Folder of the weights.
        output_dir: Its folder; by default ``source``.

    Raises:
        ValueError: Weights of the model are missing there, or it is an adapter.
    """
    refuse_adapter(source)
    args = copy.copy(trainer.args)
    for name, value in UNDEFENDED.items():
        setattr(args, name, value)
    args.output_dir = output_dir or source
    args.save_strategy = args.eval_strategy = "no"
    args.load_best_model_at_end = args.push_to_hub = args.eval_on_start = False
    args.max_desired_drop = None
    args.max_steps = trainer.state.max_steps or args.max_steps  # the schedule's length, also where it was cut short
    live = trainer.accelerator.unwrap_model(trainer.model)
    model, info = type(live).from_pretrained(source, use_safetensors=True, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{source}: {missing[0]} is missing, and would be random; name a {type(live).__name__}.")
    frozen = _frozen(live)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name not in frozen)
    return type(trainer)(
        model,
        args,
        data_collator=trainer.data_collator,
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
        processing_class=trainer.processing_class,
        compute_loss_func=trainer.compute_loss_func,
        compute_metrics=trainer.compute_metrics,
        preprocess_logits_for_metrics=trainer.preprocess_logits_for_metrics,
        callbacks=[StopCallback(trainer.state.global_step)],
        optimizer_cls_and_kwargs=trainer.optimizer_cls_and_kwargs,
        blocked_tasks=trainer.blocked_tasks,
        adversaries=trainer.adversaries,
        blocking_losses=trainer.blocking_losses,
        keeping_losses=trainer.keeping_losses,
        keep_dataset=trainer.keep_dataset,
    )
