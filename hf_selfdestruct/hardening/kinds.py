"""Which losses and closed forms fit which kind of blocked task, or an adapter, asked before any training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..losses.base import BlockingLoss
from ..losses.blocking import BLOCKING_LOSSES
from ..models import heads
from ..models.distributed import is_sharded
from ..models.pairs import KINDS
from ..tasks.blocked_task import BlockedTask
from ..tasks.classification import CLASSIFICATION
from .config import HardeningConfig

CHANGING = (
    "merge_words",
    "erase_directions",
    "keep_directions",
    "selective_steps",
    "noise",
)  # settings of closed forms
READING_CLASSES = ("merge_words", "erase_directions", "keeping_erases")  # settings of closed forms on blocked tasks


def check_kinds(config: HardeningConfig, tasks: Sequence[BlockedTask], blocking: Sequence[BlockingLoss]) -> None:
    """Refuse losses and closed forms that a task's kind does not fit.

    Raises:
        ValueError: One does not; the message names those that do, or what to set.
    """
    for task in tasks:
        for loss in blocking:
            if not _fits(loss, task):
                known = [name for name, one in BLOCKING_LOSSES.items() if _fits(one, task)]
                raise ValueError(
                    f"{type(loss).__name__} cannot be measured on blocked task {task.name!r}, a {task.kind.name}: of "
                    f"the shipped blocking losses {', '.join(known)} can (blocking_loss={known[0]!r}, method_options="
                    "{'probe_weight': 0}); "
                    f"a loss of your own that can names {task.kind.name!r} among its kinds (blocking_losses=[...])."
                )
            if task.kind.name == CLASSIFICATION.name and task.outputs < loss.fewest_classes:
                raise ValueError(
                    f"{type(loss).__name__} needs {loss.fewest_classes} classes, blocked task {task.name!r} has "
                    f"{task.outputs}, and a model that only swaps their labels would count as blocked: use "
                    "blocking_loss='uniform_kl', which reads no labels, or 'head_adjusted_cross_entropy', which undoes "
                    "a swap first."
                )
        for name in READING_CLASSES if task.kind.name != CLASSIFICATION.name else ():
            if asked := getattr(config.options, name):
                raise ValueError(
                    f"{name} reads classes, and blocked task {task.name!r} is a {task.kind.name}: set "
                    f"method_options={{{name!r}: {type(asked)()}}}, or choose a method "
                    "that leaves it out, such as 'mlac_fast'."
                )


def check_published_heads(
    adversaries: Sequence[Adversary], tasks: Sequence[BlockedTask], model: PreTrainedModel
) -> None:
    """Refuse models and adversaries without the published head that a task's kind is fine-tuned with.

    Raises:
        ValueError: The model has another head, or an adversary would not train the published one.
    """
    for task in tasks:
        if (wanted := task.kind.model_class) is None:
            continue
        if not heads.is_of(model, wanted):
            raise ValueError(
                f"blocked task {task.name!r} is a {task.kind.name}, for which {type(model).__name__} has no head: load "
                f"the model by {wanted.__name__}."
            )
        if other := [head for one in adversaries for head in one.options("head") if head != "keep"]:
            raise ValueError(
                f"an adversary with a {other[0]} head does not fine-tune a model to blocked task {task.name!r}, a "
                f"{task.kind.name}, as attackers do: set adversary={{'head': 'keep'}}."
            )


def check_pairs(adversaries: Sequence[Adversary], tasks: Sequence[BlockedTask]) -> None:
    """Refuse adversaries that encode two texts apart, where a task's rows have but one.

    Raises:
        ValueError: A task has no second text in any row.
    """
    for task in tasks if any("apart" in one.options("pairs") for one in adversaries) else ():
        known = KINDS in task.train.column_names
        if not known or not any(1 in kinds for kinds in task.train.with_format(None)[KINDS][:]):
            raise ValueError(
                f"an adversary with pairs='apart' encodes the two texts of a row apart, and {KINDS} mark none in "
                f"blocked task {task.name!r}: tokenise both texts, tokenizer(first, second), or set adversary="
                "{'pairs': 'joined'}."
            )


def check_ceiling(config: HardeningConfig, losses: Sequence[BlockingLoss]) -> None:
    """Refuse a ceiling that none of the blocking losses has.

    Raises:
        ValueError: With the losses, and what to do.
    """
    ceiling = config.options.blocking_ceiling
    if ceiling and not any(getattr(loss, "ceiling", None) == ceiling for loss in losses):
        raise ValueError(
            f"blocking_ceiling={ceiling:g} is for blocking_loss='negative_cross_entropy'; got "
            f"{', '.join(type(loss).__name__ for loss in losses)}: name that loss, pass NegativeCrossEntropy(ceiling="
            f"{ceiling:g}), or leave out the ceiling."
        )


def check_adapter(config: HardeningConfig, model: PreTrainedModel, adapter: Any) -> None:
    """Refuse an adapter beside what changes the model's weights otherwise.

    Raises:
        ValueError: The weights are sharded, or a closed form would change them first.
    """
    if adapter is None:
        return
    if is_sharded(model):
        raise ValueError("peft_config: the weights are sharded, an adapter changes whole ones; launch without FSDP.")
    if asked := [name for name in CHANGING if getattr(config.options, name)]:
        raise ValueError(
            f"peft_config: {asked[0]} changes the model's weights otherwise than by steps, which no adapter contains: "
            f"leave peft_config= out, or choose a method without {asked[0]}, such as 'mlac_fast' or 'pool'."
        )


def _fits(loss: BlockingLoss | type[BlockingLoss], task: BlockedTask) -> bool:
    return loss.kinds is None or task.kind.name in loss.kinds
