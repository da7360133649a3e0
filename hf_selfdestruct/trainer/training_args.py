"""Training arguments: those of ``transformers`` and the settings of hardening."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments

from ..hardening.config import HardeningConfig
from ..hardening.fields import option
from ..hardening.guard import Guard
from ..hardening.renamed import refuses_old_names


@refuses_old_names
@dataclass
class SelfDestructTrainingArguments(HardeningConfig, TrainingArguments):
    """``TrainingArguments`` plus what hardening needs, see :class:`HardeningConfig`.

    What is left at ``None`` is filled by ``method`` when a trainer is made, for good (see ``presets.py``,
    where every value has its source). Changed defaults of the base class: ``ddp_find_unused_parameters`` and
    ``ddp_broadcast_buffers`` are ``False`` (either breaks a second forward through the same weights)
    and ``hub_strategy`` is ``"end"`` (a half-hardened model is never published).

    Raises:
        ValueError: A value is out of range or misspelt, or an option of ``transformers`` is on that
            the meta-gradient does not survive; the message says what to set instead.

    Example:
        ```python
        args = SelfDestructTrainingArguments("hardened", method="mlac", inner_steps=4, adversary={"head": "random"})
        ```
    """

    dry_run: bool = option(False, "Check everything, say what hardening will cost, and end before training.")
    ddp_find_unused_parameters: bool | None = option(False, "Must stay False: the weights take part in two forwards.")
    ddp_broadcast_buffers: bool | None = option(False, "Must stay False: buffers must not change between the forwards.")
    hub_strategy: str = option("end", "Must stay 'end': only a finished, attacked model is published.")

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        super().__post_init__()
        if self.max_desired_drop is not None and str(getattr(self.eval_strategy, "value", self.eval_strategy)) == "no":
            raise ValueError("max_desired_drop needs readings of the desired task: set eval_strategy='steps'.")
        self._check_supported()

    def to_dict(self) -> dict[str, Any]:
        """As in the base class; an adversary's own optimizer or adapters, which JSON does not have, as their text."""
        found = super().to_dict()
        return {**found, "adversary": json.loads(json.dumps(found["adversary"], default=str))}

    def _check_supported(self) -> None:
        refused = {
            "torch_compile": ("compiled graphs have no second derivative", "set torch_compile=False"),
            "fp16": ("inner gradients are not loss-scaled and underflow", "use bf16=True or full precision"),
            "enable_jit_checkpoint": (
                "it saves in the middle of a step, from where no run goes on exactly",
                "leave it out: a checkpoint is saved on SIGTERM anyway",
            ),
            "deepspeed": ("DeepSpeed owns the backward pass", "launch without DeepSpeed"),
            "ddp_find_unused_parameters": (
                "the weights take part in two forwards",
                "set ddp_find_unused_parameters=False",
            ),
        }
        for name, (why, cure) in refused.items():
            if getattr(self, name, None):
                raise ValueError(f"{name}={getattr(self, name)!r} cannot be combined with hardening: {why}; {cure}.")
        if self.fsdp:
            self._check_sharded()
        if str(getattr(self.hub_strategy, "value", self.hub_strategy)) != "end":
            raise ValueError(
                f"hub_strategy={self.hub_strategy!r} would publish a half-hardened model with pickled trainer "
                "state; set hub_strategy='end' and call trainer.push_to_hub()."
            )

    def _check_sharded(self) -> None:
        if self.adversary_settings.scope != "global":
            raise ValueError(
                "with sharded weights all processes must simulate one adversary: set "
                f"adversary={{'scope': 'global'}} with fsdp={self.fsdp!r}, or launch without FSDP."
            )
        config = self.fsdp_config if isinstance(self.fsdp_config, dict) else {}
        if int(config.get("version", 2)) != 2 or config.get("activation_checkpointing"):
            raise ValueError(
                "hardening works with FSDP2 and without activation checkpointing (recomputed activations would use "
                f"the wrong weights); got fsdp_config={config}: set version=2, activation_checkpointing=False."
            )
        accumulated = getattr(self.accelerator_config, "gradient_accumulation_kwargs", None) or {}
        apart = self.gradient_accumulation_steps > 1 and not accumulated.get("sync_each_batch")
        if apart and self.options.episode == "in_place":
            raise ValueError(
                "episode='in_place' runs in the sharded weights, and FSDP would add its gradients to those of earlier "
                "micro-steps: set accelerator_config={'gradient_accumulation_kwargs': {'sync_each_batch': True}}, or "
                f"gradient_accumulation_steps=1; got {self.gradient_accumulation_steps}."
            )


def guard_of(args: SelfDestructTrainingArguments) -> Guard | None:
    """The guard that arguments ask for; the start is then evaluated too."""
    if args.max_desired_drop is None:
        return None
    args.eval_on_start = True
    greater = args.greater_is_better
    if greater is None:
        greater = not (args.metric_for_best_model or "loss").endswith("loss")  # as transformers decides it
    return Guard(args.max_desired_drop, greater_is_better=greater)
