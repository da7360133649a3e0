"""How a trainer hardened, as plain values: for the report, and for the seal of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..hardening.method_options import NOTHING
from . import precision

if TYPE_CHECKING:
    from .base import HardeningTrainer

STEPS = ("blocking_learning_rate", "max_blocking_grad_norm")  # options of blocking steps, said where they are set


def settings_of(trainer: HardeningTrainer) -> dict[str, Any]:
    """What may not change when a run goes on: its recipe without its progress, and without the processes it has."""
    others = ("outer_steps", "seconds", "outer_batch", "processes", "adversary_scope", "sharded")
    known = {name: value for name, value in recipe_of(trainer).items() if name not in others}
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    return {**known, **{name: getattr(trainer.args, name) for name in batch}}


def recipe_of(trainer: HardeningTrainer) -> dict[str, Any]:
    """How a trainer hardens, as plain values for the report."""
    args, objective = trainer.args, trainer.objective
    options, scope, pool = args.options, args.adversary_settings.scope, args.adversary_settings.adversary_pool()
    keeping = {str(i): loss.config() for i, loss in enumerate(objective.keeping_losses)}
    several = {"processes": args.world_size, "adversary_scope": scope, "sharded": bool(args.fsdp)}
    return {
        "method": args.method,
        "meta_gradient": args.meta_gradient,
        **({"hvp": options.hvp} if args.meta_gradient == "exact" else {}),
        "adversaries": {str(i): adversary.config() for i, adversary in enumerate(objective.adversaries)},
        **({"pool": pool.config()} if pool else {}),
        "blocking_losses": {str(i): loss.config() for i, loss in enumerate(objective.blocking_losses)},
        "blocking_weight": args.blocking_weight,
        "blocking_batch_size": args.blocking_batch_size,
        "blocking_every": options.blocking_every,
        **({"blocking_interval": options.blocking_interval} if options.blocking_interval != 1 else {}),
        "step_weights": options.step_weights,
        **({"keeping_weight": args.keeping_weight, "keeping_losses": keeping} if keeping else {}),
        **{n: getattr(options, n) for n in (*STEPS, *NOTHING) if getattr(options, n)},
        **({"selective_budget": options.selective_budget} if options.selective_steps else {}),
        **({"unlearn_weight": options.unlearn_weight} if options.unlearn_steps else {}),
        **({"max_desired_drop": args.max_desired_drop} if args.max_desired_drop is not None else {}),
        **({"adapter": objective.adapter.described()} if objective.adapter is not None else {}),
        "outer_steps": trainer.state.global_step,
        "outer_batch": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **(several if args.world_size > 1 else {}),
        "learning_rate": args.learning_rate,
        "learning_rate_schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        **(trainer.given_optimizer.recipe() if trainer.given_optimizer is not None else {}),
        "bf16": trainer.accelerator.mixed_precision == "bf16",
        **({"saved_in": precision.named(trainer.saved_types)} if trainer.saved_types else {}),
        "seed": args.seed,
        "seconds": round(trainer.seconds(), 1),
    }
