"""What a trainer knows of where its model and its data came from, for a card."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..publish.card_details import CardDetails

if TYPE_CHECKING:
    from .base import HardeningTrainer

# What Trainer.create_model_card takes, and the card's own field for it.
WORDS = {
    "language": "language",
    "license": "license",
    "tags": "tags",
    "model_name": "title",
    "finetuned_from": "base_model",
    "tasks": "pipeline_tag",
    "dataset_tags": "datasets",
    "dataset": "dataset_name",
    "dataset_args": "dataset_config",
}
ON_HUB = re.compile(r"hf://datasets/([^@]+)@")

logger = logging.getLogger(__name__)


def known_details(trainer: HardeningTrainer, details: CardDetails) -> CardDetails:
    """The details, with the words of ``create_model_card``, and base model and data as the trainer's objects name them.

    Args:
        trainer: A trainer.
        details: The user's own words, which stand.
    """
    own = {name: value for name, value in json.loads(details.to_json()).items() if value}
    details = CardDetails.from_dict(json.loads(said(CardDetails(), trainer.card_words).to_json()) | own)
    named = str(getattr(trainer.plain_model().config, "_name_or_path", "") or "")
    return dataclasses.replace(
        details,
        base_model=details.base_model or (named if is_hub_id(named) else ""),
        datasets=details.datasets or data_names(trainer.train_dataset),
    )


def said(details: CardDetails, words: Mapping[str, Any]) -> CardDetails:
    """The details with a script's words; an identifier that the Hub would not know stays out.

    Args:
        details: The words so far.
        words: What ``Trainer.create_model_card`` takes.
    """
    given = {name: value for name, value in words.items() if value}
    if is_hub_id(str(given.get("dataset", ""))):
        given.setdefault("dataset_tags", given["dataset"])
    fields: dict[str, Any] = {}
    for name, value in given.items():
        several = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
        if name in ("finetuned_from", "dataset_tags"):
            if others := [one for one in several if not is_hub_id(one)]:
                logger.warning("%s=%r is no identifier of the Hub: the card does not name it", name, others[0])
            several = [one for one in several if is_hub_id(one)]
        if several:
            several_stand = WORDS[name] in ("language", "tags", "datasets")
            fields[WORDS[name]] = several if several_stand else several[0]
    return CardDetails.from_dict(json.loads(details.to_json()) | fields)


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repository of the Hub and is no path of this machine.

    Example:
        >>> is_hub_id("google-bert/bert-base-uncased"), is_hub_id("/home/me/model")
        (True, False)
    """
    if not name or os.path.exists(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def data_names(rows: Any) -> tuple[str, ...]:
    """Hub ids of the data sets that rows were downloaded from, sorted; empty where ``datasets`` did not record them."""
    sources = getattr(getattr(rows, "info", None), "download_checksums", None) or {}
    return tuple(sorted({found[1] for source in sources if (found := ON_HUB.match(source))}))
