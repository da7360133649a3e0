"""Training arguments: those of ``transformers`` and the scalars of hardening."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

METHODS = ("mlac", "ac")
META_GRADIENTS = ("unrolled", "first_order")
INNER_OPTIMIZERS = ("adam", "sgd")
BLOCKING_LOSSES = ("head_adjusted_cross_entropy", "uniform_kl", "negative_cross_entropy")
HEADS = ("learned", "random", "keep")
TRAINABLE = ("all", "head")
STEP_WEIGHTS = ("uniform", "last", "exponential")


@dataclass
class SelfDestructTrainingArguments(TrainingArguments):
    """``TrainingArguments`` plus what hardening needs: scalars and strings only.

    What is left at ``None`` is filled by ``method`` (see ``presets.py``, where every value has its
    source). Changed defaults of the base class: ``ddp_find_unused_parameters`` and
    ``ddp_broadcast_buffers`` are ``False`` (either breaks a second forward through the same weights)
    and ``hub_strategy`` is ``"end"`` (a half-hardened model is never published).

    Raises:
        ValueError: A value is out of range or misspelt, or an option of ``transformers`` is on that
            the meta-gradient does not survive; the message says what to set instead.

    Example:
        ```python
        args = SelfDestructTrainingArguments("hardened", method="mlac", inner_steps=4)
        ```
    """

    method: str = field(default="mlac", metadata={"help": "Preset that fills what is not given: mlac or ac."})
    meta_gradient: str | None = field(
        default=None,
        metadata={"help": "How to differentiate through the adversary: unrolled or first_order."},
    )
    inner_steps: int | None = field(
        default=None, metadata={"help": "K, the optimizer steps of the adversary in each outer step."}
    )
    blocking_loss: str | None = field(
        default=None,
        metadata={"help": "head_adjusted_cross_entropy, uniform_kl or negative_cross_entropy."},
    )
    blocking_weight: float = field(
        default=1.0, metadata={"help": "Weight of the blocking loss beside the desired loss; 0 turns it off."}
    )
    blocking_batch_size: int = field(
        default=32, metadata={"help": "Held-out blocked examples on which the blocking loss is measured."}
    )
    step_weights: str | None = field(
        default=None, metadata={"help": "Weights of the K+1 blocking losses: uniform, last or exponential."}
    )
    adversary_optimizer: str | None = field(default=None, metadata={"help": "Optimizer of the adversary: adam or sgd."})
    adversary_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the adversary; where it starts if it is learned."}
    )
    adversary_learning_rate_max: float | None = field(
        default=None,
        metadata={"help": "If given, the rate is drawn log-uniformly from adversary_learning_rate up to this."},
    )
    adversary_learns_rate: bool | None = field(
        default=None, metadata={"help": "Whether the adversary learns its learning rate."}
    )
    adversary_head: str | None = field(
        default=None, metadata={"help": "Head the adversary starts from: learned, random or keep."}
    )
    adversary_trainable: str | None = field(default=None, metadata={"help": "What the adversary trains: all or head."})
    adversary_batch_size: int | None = field(default=None, metadata={"help": "Blocked examples in one inner step."})
    adversary_head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Adam rate at which the learned head (and 10x, the log rate) improve."},
    )

    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Must stay False: the weights take part in two forwards."}
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "Must stay False: buffers must not change between the forwards."}
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "Must stay 'end': only a finished, attacked model is published."}
    )

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        super().__post_init__()
        choices = {
            "method": METHODS,
            "meta_gradient": META_GRADIENTS,
            "blocking_loss": BLOCKING_LOSSES,
            "step_weights": STEP_WEIGHTS,
            "adversary_optimizer": INNER_OPTIMIZERS,
            "adversary_head": HEADS,
            "adversary_trainable": TRAINABLE,
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
        self._check_numbers()
        self._check_supported()

    def _check_numbers(self) -> None:
        for name, least in (("inner_steps", 0), ("adversary_batch_size", 1), ("blocking_batch_size", 2)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or int(value) != value or value < least):
                raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
        rates = ("adversary_learning_rate", "adversary_learning_rate_max", "adversary_head_learning_rate")
        for name in rates:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number; got {value!r}.")
        if not (self.blocking_weight >= 0 and math.isfinite(self.blocking_weight)):
            raise ValueError(f"blocking_weight must be zero or more; got {self.blocking_weight!r}.")
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

    def _check_supported(self) -> None:
        refused = {
            "activation_checkpointing": (
                "recomputed activations would use the wrong weights and give a silently wrong meta-gradient",
                "set activation_checkpointing=False, and a smaller per_device_train_batch_size to save memory",
            ),
            "torch_compile": ("compiled graphs have no second derivative", "set torch_compile=False"),
            "fp16": ("inner gradients are not loss-scaled and underflow", "use bf16=True or full precision"),
            "fsdp": ("sharded parameters are not supported yet", "launch without FSDP"),
            "deepspeed": ("DeepSpeed owns the backward pass", "launch without DeepSpeed"),
            "ddp_find_unused_parameters": (
                "the weights take part in two forwards",
                "set ddp_find_unused_parameters=False",
            ),
        }
        for name, (why, cure) in refused.items():
            if getattr(self, name, None):
                raise ValueError(f"{name}={getattr(self, name)!r} cannot be combined with hardening: {why}; {cure}.")
        if str(getattr(self.hub_strategy, "value", self.hub_strategy)) != "end":
            raise ValueError(
                f"hub_strategy={self.hub_strategy!r} would publish a half-hardened model with pickled trainer "
                "state; set hub_strategy='end' and call trainer.push_to_hub()."
            )
