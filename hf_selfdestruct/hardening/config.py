"""The settings of hardening: scalars and strings, checked when made."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from ..adversaries.adversary import HEADS, TRAINABLE
from ..adversaries.optimizers import INNER_OPTIMIZERS
from ..losses.blocking import BLOCKING_LOSSES
from ..losses.keeping import KEEPING_LOSSES
from ..meta_gradient.hessian import HVPS
from ..meta_gradient.methods import META_GRADIENTS
from ..meta_gradient.outer_loss import STEP_WEIGHTS
from ..meta_gradient.trajectory import TRAJECTORIES
from .presets import PRESETS

SCOPES = ("local", "global")
UNDEFENDED: dict[str, Any] = {  # what an undefended sibling is trained with
    "blocking_weight": 0.0,
    "keeping_erases": False,
    "erase_directions": 0,
    "merge_words": 0.0,
    "merge_groups": 0,
    "keep_directions": 0,
}


def option(default: Any, text: str, choices: Iterable[str] = ()) -> Any:
    """A field with the help text of the command line."""
    return field(default=default, metadata={"help": f"{text[:-1]}: {', '.join(choices)}." if choices else text})


@dataclass
class HardeningConfig:
    """What hardening needs to know, beside the model and the data: scalars and strings only.

    What is left at ``None`` is filled by ``method``, see :meth:`fill` (and ``presets.py``, where every value has its
    source).

    Raises:
        ValueError: A value is out of range or misspelt.

    Example:
        ```python
        config = HardeningConfig(method="mlac", inner_steps=4)
        ```
    """

    method: str | None = option(
        None,
        "Preset that fills what is not given; by default what was measured to work for the kind of model.",
        PRESETS,
    )
    meta_gradient: str | None = option(None, "How to differentiate through the adversary.", META_GRADIENTS)
    hvp: str = option(
        "double_backward",
        "Hessian-vector products of the exact meta-gradient; finite differences run with any attention kernel.",
        HVPS,
    )
    trajectory: str = option(
        "device",
        "Where to store the inner-loop trajectory; recompute saves memory and is slower.",
        TRAJECTORIES,
    )
    inner_steps: int | None = option(None, "K, the optimizer steps of the adversary in each outer step.")
    inner_steps_start: int | None = option(None, "If given, K grows by one at a time from this number to inner_steps.")
    inner_steps_every: int = option(100, "Outer steps after which a growing K grows by one.")
    blocking_loss: str | None = option(
        None, "What hardening minimises at the fast weights; several with +.", BLOCKING_LOSSES
    )
    blocking_weight: float = option(1.0, "Weight of the blocking loss; 0: nothing is blocked.")
    max_blocking_grad_norm: float | None = option(
        None, "Norm to which each micro-batch's blocking gradient is clipped, before it is weighted; 0: no clipping."
    )
    probe_weight: float | None = option(
        None, "Weight of linear probes of every hidden state, added to the blocking loss; 0: no probes."
    )
    blocking_batch_size: int | None = option(None, "Held-out blocked examples on which the blocking loss is measured.")
    blocking_every: int | None = option(None, "Measure the blocking loss at every so many inner steps.")
    blocking_interval: int | None = option(
        None,
        "Number of outer steps from one blocking loss to the next; those between train the desired task alone.",
    )
    step_weights: str | None = option(None, "Weights of the K+1 blocking losses.", STEP_WEIGHTS)
    adversary_optimizer: str | None = option(None, "Optimizer of the adversary.", INNER_OPTIMIZERS)
    adversary_learning_rate: float | None = option(
        None, "Learning rate of the adversary; where it starts if it is learned."
    )
    adversary_learning_rate_max: float | None = option(
        None, "If given, the rate is drawn log-uniformly from adversary_learning_rate up to this."
    )
    adversary_learns_rate: bool | None = option(None, "Whether the adversary learns its learning rate.")
    adversary_head: str | None = option(None, "Head the adversary starts from.", HEADS)
    adversary_trainable: str | None = option(
        None, "What the adversary trains: all, head, last_n (such as last_2) or lora."
    )
    adversary_batch_size: int | None = option(None, "Blocked examples in one inner step.")
    adversary_examples: int | None = option(None, "Most blocked examples the adversary has in an outer step.")
    adversary_prelude: int = option(0, "Benign steps of the adversary on the desired task, before the blocked ones.")
    adversary_dropout: bool = option(False, "Whether the adversary's steps run with dropout.")
    adversary_carries: int = option(
        1, "Number of consecutive outer steps before the adversary is reset to the current weights."
    )
    adversary_scope: str = option("local", "An adversary of its own for each process, or one for all.", SCOPES)
    adversary_head_learning_rate: float | None = option(
        None, "Adam rate at which the learned head (and 10x, the log rate) improve."
    )
    keeping_loss: str | None = option(
        None,
        "Distillation to the original (or its own language modelling), '' for none; several with +.",
        KEEPING_LOSSES,
    )
    keeping_weight: float | None = option(None, "Weight of the keeping losses.")
    keeping_erases: bool | None = option(
        None, "Distil from a copy of the original with the blocked tasks erased from its hidden states (LEACE)."
    )
    erase_directions: int | None = option(
        None, "Directions of each blocked task that are erased from the input embeddings before the first step."
    )
    merge_words: float | None = option(
        None,
        "Merge words that reveal blocked labels, until none does beyond so many standard errors; 0: no merging.",
    )
    merge_groups: int = option(0, "Maximum number of merged groups; fewer groups hide more. 0: no limit.")
    keep_directions: int | None = option(
        None, "Reduce the input embeddings to this many directions that predict the desired task; 0: no reduction."
    )
    max_desired_drop: float | None = option(
        None,
        "Guard: lower the blocking weight when validation is worse than its best by more than this, "
        "measured in metric_for_best_model (by default the loss).",
    )
    seed: int = option(42, "Seed of every draw, and of new heads.")

    @property
    def hardens(self) -> bool:
        """Whether anything but ordinary training is asked for; by a method, once it has filled the arguments."""
        return any((getattr(self, name) or 0) != value for name, value in UNDEFENDED.items())

    @property
    def blocking_losses(self) -> list[str]:
        """The names in ``blocking_loss``; none before a method has filled it."""
        return [] if self.blocking_loss is None else self.blocking_loss.split("+")

    @property
    def keeping_losses(self) -> list[str]:
        """The names in ``keeping_loss``; may be none, as before a method has filled it."""
        return self.keeping_loss.split("+") if self.keeping_loss else []

    def filled(self, method: str | None = None) -> Self:
        """A copy in which every setting left at ``None`` has its method's value; itself where nothing is left to fill.

        A fixed rate (``adversary_learning_rate`` alone) turns a preset's range off, a drawn one
        (``adversary_learning_rate_max``) its learned rate, and a learned one its range.

        Args:
            method: The preset where the configuration names none.

        Raises:
            ValueError: A range is upside down, with what the preset fills.
        """
        values: dict[str, Any] = {"method": method, **PRESETS.get(self.method or method or "", {})}
        if self.adversary_learning_rate_max is not None:
            values["adversary_learns_rate"] = False
        if self.adversary_learning_rate is not None or self.adversary_learns_rate:
            values["adversary_learning_rate_max"] = None
        values = {name: value for name, value in values.items() if value is not None and getattr(self, name) is None}
        found = copy.copy(self) if values else self
        for name, value in values.items():
            setattr(found, name, value)
        for low, high in (
            ("adversary_learning_rate", "adversary_learning_rate_max"),
            ("inner_steps_start", "inner_steps"),
        ):
            least, most = getattr(found, low), getattr(found, high)
            if least is not None and most is not None and least > most:
                raise ValueError(
                    f"{low}={least:g} is above {high}={most:g} (method {found.method!r} fills what is not given)."
                )
        return found

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        others = getattr(super(), "__post_init__", None)  # of the training arguments, in a class that is both
        if others is not None:
            others()
        choices: dict[str, Iterable[str]] = {
            "method": PRESETS,
            "meta_gradient": META_GRADIENTS,
            "hvp": HVPS,
            "trajectory": TRAJECTORIES,
            "step_weights": STEP_WEIGHTS,
            "adversary_optimizer": INNER_OPTIMIZERS,
            "adversary_head": HEADS,
            "adversary_scope": SCOPES,
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
        joined: dict[str, tuple[list[str], Iterable[str]]] = {
            "blocking_loss": (self.blocking_losses, BLOCKING_LOSSES),
            "keeping_loss": (self.keeping_losses, KEEPING_LOSSES),
        }
        for name, (values, known) in joined.items():
            for value in values:
                if value not in known:
                    raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}. Join several by +.")
        if self.adversary_trainable is not None and not TRAINABLE.fullmatch(self.adversary_trainable):
            raise ValueError(
                "adversary_trainable must be all, head, lora or last_n (such as last_2); "
                f"got {self.adversary_trainable!r}."
            )
        self._check_counts()
        self._check_numbers()

    def _check_counts(self) -> None:
        least = {
            "inner_steps": 0,
            "inner_steps_start": 0,
            "inner_steps_every": 1,
            "adversary_batch_size": 1,
            "adversary_examples": 1,
            "adversary_prelude": 0,
            "adversary_carries": 1,
            "blocking_batch_size": 2,
            "blocking_every": 1,
            "blocking_interval": 1,
            "erase_directions": 0,
            "merge_groups": 0,
            "keep_directions": 0,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or int(value) != value or value < bound):
                raise ValueError(f"{name} must be a whole number of at least {bound}; got {value!r}.")

    def _check_numbers(self) -> None:
        adversarys = ("adversary_learning_rate", "adversary_learning_rate_max", "adversary_head_learning_rate")
        for name in (*adversarys, "keeping_weight", "max_desired_drop"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number; got {value!r}.")
        for name in ("blocking_weight", "max_blocking_grad_norm", "probe_weight", "merge_words"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be zero or more; got {value!r}.")
        if self.adversary_learning_rate_max is not None:
            if self.adversary_learns_rate:
                raise ValueError(
                    "adversary_learning_rate_max (a drawn rate) and adversary_learns_rate (a learned one) "
                    "exclude each other: give one of them."
                )
            low = self.adversary_learning_rate
            if low is not None and low > self.adversary_learning_rate_max:
                raise ValueError(
                    f"adversary_learning_rate_max ({self.adversary_learning_rate_max}) is below "
                    f"adversary_learning_rate ({low})."
                )
