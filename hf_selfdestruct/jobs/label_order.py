"""The classes of a classifier and of data: one number is one class, whatever order each names them in."""

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
    """The number that a classifier gives each class of the data.

    Classes are found by name, in any case of letters. Where one side numbers its classes and names none (``LABEL_0``
    of a model, ``0`` of data), they are found by number.

    Args:
        names: The data's classes.
        config: The classifier's configuration.

    Returns:
        One number for each name; ``None`` where the classes are others.

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
    """:func:`order_of`, refusing what cannot be mapped.

    Raises:
        ValueError: The classes are others, or more or fewer.
    """
    own, order = names_of(config), order_of(names, config)
    if len(own) != len(names):
        raise ValueError(
            f"{where} has a head for {len(own)} classes, the desired task has {len(names)}: "
            "its desired quality cannot be measured; check data.label_column."
        )
    if order is None:
        raise ValueError(
            f"{where} has the classes {', '.join(own)}, the desired task has {', '.join(names)}: its desired quality "
            "cannot be measured; name the classes alike in the data, or in the id2label of the model's config.json."
        )
    if unnamed(config) and own != [*names]:
        logger.warning(
            "%s names none of its classes: they are taken to be numbered as those of the data, %s.",
            *(where, ", ".join(f"{number} {name}" for number, name in sorted(zip(order, names, strict=True)))),
        )
    return order


def renumbered(data: DatasetDict, order: Sequence[int] | None) -> DatasetDict:
    """Data whose ``label`` has other numbers for the same classes; with no order, or the same one, as it is."""
    if order is None or [*order] == [*range(len(order))]:
        return data
    names = data["train"].features["label"].names
    renamed = ClassLabel(names=[name for _, name in sorted(zip(order, names, strict=True))])
    # Without the transform that makes pixels of images.
    plain = data.with_format(None).map(
        lambda rows: {"label": [order[label] for label in rows["label"]]},
        batched=True,
        desc="numbering the classes as the model does",
    )
    return DatasetDict(
        {split: _as_before(rows, data[split]) for split, rows in plain.cast_column("label", renamed).items()}
    )


def _as_before(rows: Dataset, before: Dataset) -> Dataset:
    """Rows with the format, or the transform, that they had."""
    given = before.format
    return rows.with_format(given["type"], **given["format_kwargs"])


def numbered_as(data: DatasetDict, model: str | Path) -> DatasetDict:
    """Data whose classes have the numbers that a classifier gives them; as it is where the classes are others."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    return renumbered(data, order_of(data["train"].features["label"].names, config))


def classifier(model: str, names: Sequence[str]) -> PreTrainedModel:
    """A classifier for these classes: a model with its own head where that has them in this order, else a new one.

    Args:
        model: Folder or Hub id.
        names: The desired task's classes.
    """
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    known = AutoConfig.from_pretrained(model, trust_remote_code=False)
    auto = auto_class(known)
    keeps = order_of(names, known) == [*range(len(names))]
    if not keeps or unnamed(known):
        numbered = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        options |= {"num_labels": len(names), **numbered}
    if len(names) > 1:  # else a model notes it at its first loss, after the base was saved
        options["problem_type"] = "single_label_classification"
    found, info = auto.from_pretrained(model, ignore_mismatched_sizes=True, **options)
    head = head_names(found)
    lost = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if not keeps and not lost.issuperset(head):
        logger.warning(
            "the head of %s is for the classes %s, the desired task has %s: it is drawn anew.",
            *(model, ", ".join(names_of(known)), ", ".join(names)),
        )
        fresh = auto.from_config(found.config).state_dict()
        found.load_state_dict({name: fresh[name] for name in head}, strict=False)
    elif keeps and unnamed(known) and not lost & {*head}:
        logger.warning(
            "the classes of %s have no names: its head is taken to number them as the data does, %s.",
            *(model, ", ".join(f"{number} {name}" for number, name in enumerate(names))),
        )
    return found


def names_of(config: PretrainedConfig) -> list[str]:
    """The names of a classifier's classes, in the order of their numbers."""
    return [str(name) for _, name in sorted((config.id2label or {}).items())]


def unnamed(config: PretrainedConfig) -> bool:
    """Whether a classifier's classes have numbers for names."""
    names = names_of(config)
    return any(names == [f"{word}{number}" for number in range(len(names))] for word in ("LABEL_", ""))
