"""Presets: a method's name stands for arguments, each with its source."""

from __future__ import annotations

from typing import Any

from .training_args import SelfDestructTrainingArguments

MLAC: dict[str, Any] = {
    "meta_gradient": "unrolled",  # 2211.14946: second order through K steps
    "inner_steps": 16,  # the reference code's experiments and its best plotted run
    "blocking_loss": "head_adjusted_cross_entropy",  # its best plotted run uses the head adjustment alone
    "step_weights": "uniform",  # mean over theta_0 .. theta_K
    "adversary_optimizer": "adam",
    "adversary_learning_rate": 3e-4,  # start of the learned rate in the reference code
    "adversary_learns_rate": True,
    "adversary_head": "learned",
    "adversary_trainable": "all",
    "adversary_batch_size": 16,  # its search space is 8, 16, 24
    "adversary_head_learning_rate": 1e-3,  # ours; 1e-4 there, over 50,000 steps
}

# Adversarial censoring: the paper's baseline, which sees the model as published (K = 0). The reference
# code censors against an untrained random head; here the head is trained, a stronger baseline.
AC: dict[str, Any] = {
    **MLAC,
    "meta_gradient": "first_order",  # with no inner step both ways are the same
    "inner_steps": 0,
    "blocking_loss": "negative_cross_entropy",
    "adversary_learns_rate": False,
}

PRESETS: dict[str, dict[str, Any]] = {"mlac": MLAC, "ac": AC}


def fill(args: SelfDestructTrainingArguments) -> None:
    """Fill in place, from the preset ``args.method``, every argument that was left at ``None``.

    A drawn rate (``adversary_learning_rate_max``) turns the preset's learned rate off.
    """
    for name, value in PRESETS[args.method].items():
        if getattr(args, name) is None:
            drawn = name == "adversary_learns_rate" and args.adversary_learning_rate_max is not None
            setattr(args, name, False if drawn else value)
