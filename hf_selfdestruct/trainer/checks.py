"""What is refused, or warned of, before any training starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel

from ..hardening.checks import check_desired
from ..tasks.checks import check_tasks, warn_of_missing_splits
from ..tasks.positions import check_lengths
from .cost import planned_steps
from .training_args import SelfDestructTrainingArguments

if TYPE_CHECKING:
    from .base import HardeningTrainer

OTHERWISE = ("layerwise", "lomo", "schedule_free")  # in names of optimizers that move weights otherwise than by steps

logger = logging.getLogger(__name__)


def check_launch(args: SelfDestructTrainingArguments, peft_config: Any = None) -> None:
    """Refuse ways of launching that the meta-gradient does not survive."""
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process means DataParallel, which loses the adversary's gradients; "
            "start with `accelerate launch`, one process per GPU."
        )
    if args.fsdp and args.device.type == "cpu":
        raise ValueError("accelerate ignores FSDP on the CPU and would train whole weights; launch without FSDP.")
    if args.fsdp and peft_config is not None:
        raise ValueError("peft_config: an adapter changes whole weights, and FSDP shards them; launch without FSDP.")
    if args.fsdp:
        logger.warning("FSDP through the Trainer has not been tested; the engine has been, on raw `fully_shard`.")


def check_plugins(trainer: HardeningTrainer) -> None:
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
            "adversary={'scope': 'global'}, or launch without FSDP."
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


def check_phases(trainer: HardeningTrainer) -> None:
    """Refuse a training that ends before its unlearning does, or that may go back to a model from before.

    Raises:
        ValueError: It does; the message says what to set.
    """
    steps, planned = trainer.args.options.unlearn_steps, planned_steps(trainer)
    if steps and planned is not None and planned <= steps:
        raise ValueError(
            f"unlearn_steps={steps} leaves none of the {planned} steps of training for what follows unlearning: set "
            f"max_steps above {steps}, or method_options={{'unlearn_steps': ...}} below {planned}."
        )
    if steps and trainer.args.load_best_model_at_end:
        raise ValueError(
            "load_best_model_at_end may load a model from before unlearning ended, whose noise would be undone: set "
            "load_best_model_at_end=False with unlearn_steps."
        )


def check_trainer(trainer: HardeningTrainer, model: PreTrainedModel) -> None:
    """Refuse launches, data and guards that a trainer cannot work with, with what to do instead."""
    check_plugins(trainer)
    if trainer.given_optimizer is not None and trainer.given_optimizer.refusal:
        logger.warning(
            "no sibling can be trained as optimizers= say (%s): attack() will refuse it, after all training; give "
            "optimizer_cls_and_kwargs= instead, or plan to attack(undefended=...).",
            trainer.given_optimizer.refusal,
        )
    check_guard(trainer.args, trainer.eval_dataset)
    check_phases(trainer)
    desired = {"train_dataset": trainer.train_dataset, "eval_dataset": trainer.eval_dataset}
    check_desired(desired, model)
    check_tasks(trainer.blocked_tasks, trainer.input_columns)
    warn_of_missing_splits(trainer.blocked_tasks)
    check_lengths(model, {**desired, "keep_dataset": trainer.keep_dataset}, trainer.blocked_tasks)


def check_given_optimizer(trainer: HardeningTrainer, model: PreTrainedModel) -> None:
    """Refuse an optimizer of the user's own by which nothing could be blocked."""
    given, weights = trainer.given_optimizer, dict(model.named_parameters())
    if given is not None and trainer.objective.adapter is not None:
        raise ValueError(
            "optimizers= contain the model's weights, and peft_config= trains an adapter beside them: give the trainer "
            "optimizer_cls_and_kwargs= instead."
        )
    published = {n for n in trainer.objective.simulator.published & weights.keys() if weights[n].requires_grad}
    if trainer.args.blocks and given is not None and given.names and not published & {*chain(*given.names)}:
        raise ValueError(
            "optimizers= contain no weight that an adversary starts from, so hardening cannot block anything: create "
            "the optimizer from the weights of the model that the trainer trains (adapters are merged into them)."
        )
    check_blocking_steps(trainer, weights)


def check_blocking_steps(trainer: HardeningTrainer, weights: Mapping[str, nn.Parameter]) -> None:
    """Refuse optimizers that do not leave alone what steps that only block have, or the reverse.

    Raises:
        ValueError: The trainer's moves weights otherwise than by its steps' gradients, or not all that are trained.
    """
    if not trainer.args.options.blocking_learning_rate:
        return
    one_sum = "or set method_options={'blocking_learning_rate': 0}"
    optimizer = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if any(kind in optimizer for kind in OTHERWISE):
        raise ValueError(
            f"optim={optimizer!r} moves weights while gradients are computed, or without one; between steps that only "
            f"block they must rest: set optim='adamw_torch', {one_sum}."
        )
    given = trainer.given_optimizer
    known = {*chain(*given.names)} if given is not None and given.names else {*weights}
    if left := [name for name, weight in weights.items() if weight.requires_grad and name not in known]:
        raise ValueError(
            f"optimizers= leave out {left[0]}, which steps that only block would move: freeze it (requires_grad_("
            f"False)), let the optimizer train it, {one_sum}."
        )
