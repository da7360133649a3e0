"""What a configuration stands for: a method by the kind of model, an adversary, losses, a guard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..erasure.initial_weights import Forms, embeddings_of
from ..losses.base import BlockingLoss
from ..losses.blocking import BLOCKING_LOSSES
from ..losses.keeping import KEEPING_LOSSES, KeepingLoss
from ..losses.probe import RepresentationProbe
from ..models import heads
from ..tasks.blocked_task import BlockedTask, label_column_of
from .config import HardeningConfig
from .presets import ONE_PURPOSE


def default_method(model: PreTrainedModel, desired: Any, tasks: Sequence[BlockedTask] = ()) -> str:
    """The method that was measured to work best for a kind of model, where its user names none.

    ``one_purpose`` for classifiers of texts, which needs integer labels and embeddings that are wide enough;
    ``general`` for bare encoders and language models; ``mlac_fast`` for what reads no words; ``language``, not measured
    yet, where next tokens are blocked.

    Args:
        model: The model to harden.
        desired: The desired task's training rows.
        tasks: Blocked tasks.
    """
    if any(isinstance(task, BlockedTask) and task.kind.model_class is not None for task in tasks):  # not checked yet
        return "language"
    try:
        width = embeddings_of(model)[1].shape[1]
    except ValueError:
        return "mlac_fast"
    if not heads.has_task_head(model):
        return "general"
    labelled = label_column_of(getattr(desired, "column_names", None) or ()) is not None
    return "one_purpose" if labelled and width > ONE_PURPOSE["method_options"]["keep_directions"] else "mlac_fast"


def configured_adversary(config: HardeningConfig) -> Adversary:
    """The one adversary that a filled configuration describes."""
    return config.adversary_settings.adversary()


def configured_losses(config: HardeningConfig) -> list[BlockingLoss]:
    """The blocking losses that a filled configuration describes."""
    weight = config.options.probe_weight
    probe = [RepresentationProbe(weight=weight)] if weight else []
    return [*(BLOCKING_LOSSES[name]() for name in config.blocking_losses), *probe]


def configured_keeping(config: HardeningConfig) -> list[KeepingLoss]:
    """The keeping losses that a configuration names; may be none."""
    return [KEEPING_LOSSES[name]() for name in config.keeping_losses]


def configured_forms(config: HardeningConfig) -> Forms:
    """The closed forms that a configuration asks for."""
    options = config.options
    return Forms(**{f.name: getattr(options, f.name) for f in fields(Forms)})
