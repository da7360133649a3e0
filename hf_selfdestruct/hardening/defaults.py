"""What a configuration stands for: a method by the kind of model, an adversary, losses, a guard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..erasure.initial_weights import Forms, embeddings_of
from ..losses.base import BlockingLoss
from ..losses.blocking import BLOCKING_LOSSES, NegativeCrossEntropy
from ..losses.keeping import KEEPING_LOSSES, KeepingLoss
from ..losses.probe import RepresentationProbe
from ..models import heads
from ..tasks.blocked_task import BlockedTask
from .config import HardeningConfig


def default_method(model: PreTrainedModel, tasks: Sequence[BlockedTask] = ()) -> str:
    """The method for a kind of model, where its user names none.

    ``pool`` for classifiers, which blocks most of what was measured, on images, and for diffusion models; ``general``
    for bare encoders and language models, which it keeps of general use; ``language``, a pool too, where next tokens
    are blocked.

    Args:
        model: The model to harden.
        tasks: Blocked tasks.
    """
    if any(isinstance(task, BlockedTask) and task.kind.running_text for task in tasks):  # not checked yet
        return "language"
    if heads.has_task_head(model):
        return "pool"
    try:
        embeddings_of(model)
    except ValueError:  # nothing to edit for the closed forms of "general"
        return "pool"
    return "general"


def configured_adversary(config: HardeningConfig) -> Adversary:
    """The one adversary that a filled configuration describes."""
    return config.adversary_settings.adversary()


def configured_losses(config: HardeningConfig) -> list[BlockingLoss]:
    """The blocking losses that a filled configuration describes."""
    weight, ceiling = config.options.probe_weight, config.options.blocking_ceiling
    probe = [RepresentationProbe(weight=weight)] if weight else []
    limited = {"negative_cross_entropy": NegativeCrossEntropy(ceiling=ceiling)} if ceiling else {}
    return [*(limited.get(name) or BLOCKING_LOSSES[name]() for name in config.blocking_losses), *probe]


def configured_keeping(config: HardeningConfig) -> list[KeepingLoss]:
    """The keeping losses that a configuration names; may be none."""
    return [KEEPING_LOSSES[name]() for name in config.keeping_losses]


def configured_forms(config: HardeningConfig) -> Forms:
    """The closed forms that a configuration asks for; noise that is mixed in after unlearning is none of them."""
    options = config.options
    asked = {f.name: getattr(options, f.name) for f in fields(Forms)}
    return Forms(**{**asked, "noise": 0.0} if options.unlearn_steps else asked)
