"""Align the class numbers of a classifier and of the data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..attacks.target import auto_class
from ..models.heads import head_names

logger = logging.getLogger(__name__)


def order_of(names: Sequence[str], config: PretrainedConfig) -> list[int] | None:
    """Map each class of the data to its number in a classifier.

    Classes are matched by name, ignoring case. If one side has numbers instead of names (``LABEL_0`` in a model, ``0``
    in data), classes are matched by number.

    Args:
        names: Classes of the data.
        config: Configuration of the classifier.

    Returns:
        One number for each name; ``None`` if the classes differ.

    Example:
        >>> order_of(["cook", "nurse"], PretrainedConfig(id2label={0: "NURSE", 1: "COOK"}))
        [1, 0]
    """
    own = names_of(config)
    if len(own) != len(names):
        return None
    for alike in (str, str.casefold):
        numbers = {alike(name): number for number, name in enumerate(own)}
        if len(numbers) == len(own) and {*numbers} == {alike(name) for name in names}:
            return [numbers[alike(name)] for name in names]
    if {*names} == {str(number) for number in range(len(names))}:
        return [int(name) for name in names]
    return [*range(len(names))] if unnamed(config) else None


def numbers_of(names: Sequence[str], config: PretrainedConfig, where: str) -> list[int]:
    """As :func:`order_of`, but raise if the classes differ.

    Raises:
        ValueError: The classes, or their number, differ.
    """
    own, order = names_of(config), order_of(names, config)
    if len(own) != len(names):
        raise ValueError(
            f"{where} has a head for {len(own)} classes, but the desired task has {len(names)}, so its desired quality "
            "cannot be measured; check data.label_column."
        )
    if order is None:
        raise ValueError(
            f"{where} has the classes {', '.join(own)}, but the desired task has {', '.join(names)}, so its desired "
            "quality cannot be measured; use the same class names in the data and in id2label of the model's "
            "config.json."
        )
    if unnamed(config) and own != [*names]:
        logger.warning(
            "%s has no class names; assuming the class numbers of the data: %s.",
            *(where, ", ".join(f"{number} {name}" for number, name in sorted(zip(order, names, strict=True)))),
        )
    return order


def renumbered(data: DatasetDict, order: Sequence[int] | None) -> DatasetDict:
    """Renumber the classes of ``label``; return the data unchanged if ``order`` is ``None`` or the identity."""
    if order is None or [*order] == [*range(len(order))]:
        return data
    names = data["train"].features["label"].names
    renamed = ClassLabel(names=[name for _, name in sorted(zip(order, names, strict=True))])
    # Drop the transform that converts images to pixels.
    plain = data.with_format(None).map(
        lambda rows: {"label": [order[label] for label in rows["label"]]},
        batched=True,
        desc="renumbering classes",
    )
    return DatasetDict(
        {split: _as_before(rows, data[split]) for split, rows in plain.cast_column("label", renamed).items()}
    )


def _as_before(rows: Dataset, before: Dataset) -> Dataset:
    """Restore the format, or the transform, of the rows."""
    given = before.format
    return rows.with_format(given["type"], **given["format_kwargs"])


def numbered_as(data: DatasetDict, model: str | Path) -> DatasetDict:
    """Renumber the classes of the data as in a classifier; return the data unchanged if the classes differ."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    return renumbered(data, order_of(data["train"].features["label"].names, config))


def classifier(model: str, names: Sequence[str]) -> PreTrainedModel:
    """Load a classifier for these classes, with its own head if that has them in this order, else with a new head.

    Args:
        model: Folder or Hub id.
        names: Classes of the desired task.
    """
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    known = AutoConfig.from_pretrained(model, trust_remote_code=False)
    auto = auto_class(known)
    keeps = order_of(names, known) == [*range(len(names))]
    if not keeps or unnamed(known):
        numbered = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        options |= {"num_labels": len(names), **numbered}
    if len(names) > 1:  # else a model sets it at its first loss, after the base was saved
        options["problem_type"] = "single_label_classification"
    found, info = auto.from_pretrained(model, ignore_mismatched_sizes=True, **options)
    head = head_names(found)
    lost = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if not keeps and not lost.issuperset(head):
        logger.warning(
            "the head of %s has the classes %s, but the desired task has %s: a new head is initialised.",
            *(model, ", ".join(names_of(known)), ", ".join(names)),
        )
        fresh = auto.from_config(found.config).state_dict()
        found.load_state_dict({name: fresh[name] for name in head}, strict=False)
    elif keeps and unnamed(known) and not lost & {*head}:
        logger.warning(
            "%s has no class names; assuming that its head has the class numbers of the data: %s.",
            *(model, ", ".join(f"{number} {name}" for number, name in enumerate(names))),
        )
    return found


def names_of(config: PretrainedConfig) -> list[str]:
    """Return the class names of a classifier, ordered by class number."""
    return [str(name) for _, name in sorted((config.id2label or {}).items())]


def unnamed(config: PretrainedConfig) -> bool:
    """Whether a classifier has numbers instead of class names."""
    names = names_of(config)
    return any(names == [f"{word}{number}" for number in range(len(names))] for word in ("LABEL_", ""))
