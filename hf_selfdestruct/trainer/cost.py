"""What hardening costs, said before the first step."""

from __future__ import annotations

import math
import time
from collections.abc import Sized
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..tasks.rows import LABELS
from .training_args import SelfDestructTrainingArguments

if TYPE_CHECKING:
    from .base import HardeningTrainer

PLACES = {"device": "the device's memory", "cpu": "main memory", "disk": "the folder for temporary files"}
SECOND_ORDER = {"double_backward": 3, "finite_difference": 2}  # further passes for each inner step


def passes(args: SelfDestructTrainingArguments, adversaries: list[Adversary]) -> float:
    """Forward-backward passes in a mean outer step after unlearning, where ordinary training makes one.

    One pass for the desired loss, one for the keeping losses (none in steps that only block), and for each blocking
    loss the adversary's K steps, the points at which it is measured, and what second order takes. With several
    adversaries the one with most steps counts.

    Args:
        args: Arguments filled by their method.
        adversaries: The adversaries that are drawn from.

    Example:
        Four inner steps by first order, measured at both ends, in one outer step of four: 1 + (4 + 2) / 4 = 2.5.
    """
    options = args.options
    kept = 1.0 if args.keeping_losses else 0.0
    kept -= kept / options.blocking_interval if options.blocking_learning_rate else 0.0
    if not args.blocking_weight:
        return 1.0 + kept
    steps = max(step for adversary in adversaries for step in adversary.options("steps"))
    measured = 1 + steps // options.blocking_every
    second = 0 if args.meta_gradient == "first_order" else SECOND_ORDER[options.hvp]
    return 1.0 + kept + (steps * (1 + second) + measured) / options.blocking_interval


def announcement(trainer: HardeningTrainer) -> str:
    """One line: the method, its passes in each step, and how long training takes here, as far as that can be known."""
    args = trainer.args
    many = passes(args, trainer.objective.adversaries)
    line = (
        f"hardening by method {args.method!r}: about {many:.3g} forward-backward passes in each step, where ordinary "
        "training makes one"
    )
    if size := trainer.objective.simulator.pool_bytes() if args.blocking_weight else 0:
        settings = args.adversary_settings
        each = " in each process" if settings.scope == "local" and args.world_size > 1 else ""
        where = f"{PLACES[settings.pool_storage]} and of each checkpoint{each}"
        line += f"; its pool of adversaries takes up to {size / 1e9:.2g} GB of {where}"
    first = args.options.unlearn_steps
    if first:
        line += f"; its first {first} steps unlearn, by about {_unlearning_passes(args):.3g} passes each"
    seconds, steps = _seconds_of_a_pass(trainer), planned_steps(trainer)
    if seconds is None or steps is None:
        return line
    made = many * (steps - first) + _unlearning_passes(args) * first
    total = seconds * made * args.gradient_accumulation_steps / 60
    return f"{line}; about {total:.2g} minutes for {steps} steps at {seconds:.2g} s a pass"


def _unlearning_passes(args: SelfDestructTrainingArguments) -> float:
    """Of the desired loss, the keeping losses, and the blocking loss at the weights as they are."""
    return 1.0 + bool(args.keeping_losses) + 1 / args.options.blocking_interval


def planned_steps(trainer: HardeningTrainer) -> int | None:
    """Number of steps of the whole training; ``None`` where the rows cannot be counted."""
    args, data = trainer.args, trainer.train_dataset
    if args.max_steps > 0:
        return args.max_steps
    if not isinstance(data, Sized):
        return None
    batch = args.train_batch_size * args.world_size
    batches = len(data) // batch if args.dataloader_drop_last else math.ceil(len(data) / batch)
    return math.ceil(args.num_train_epochs * max(1, math.ceil(batches / args.gradient_accumulation_steps)))


def _seconds_of_a_pass(trainer: HardeningTrainer) -> float | None:
    """The faster of two passes of the trunk on blocked rows, in evaluation mode: nothing of the training is disturbed.

    Not measured where processes would wait for each other.
    """
    task, model = trainer.blocked_tasks[0], trainer.plain_model()
    trunk = model.base_model if isinstance(model.base_model, PreTrainedModel) else model  # a U-Net takes other inputs
    weights = [p for p in trunk.parameters() if p.requires_grad]
    if trainer.args.world_size > 1 or not weights:
        return None
    rows = task.adversary_rows()[: trainer.args.per_device_train_batch_size].tolist()
    batch = trainer.blocked_batch(task.features("train", rows, trainer.input_columns))
    inputs = {name: value for name, value in batch.items() if name not in LABELS}
    if model.config.is_encoder_decoder and "input_ids" in inputs:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    training, times = model.training, []
    for _ in range(2):
        started = time.perf_counter()
        with trainer.accelerator.autocast():
            answer = trunk.eval()(**inputs)[0].sum()
        torch.autograd.grad(answer, weights, allow_unused=True)
        times.append(time.perf_counter() - started)
    model.train(training)
    return min(times)
