"""What a trainer knows of where its model and its data came from, for a card."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .details import CardDetails

if TYPE_CHECKING:
    from .trainer import SelfDestructTrainer

ON_HUB = re.compile(r"hf://datasets/([^@]+)@")


def known_details(trainer: SelfDestructTrainer, details: CardDetails) -> CardDetails:
    """The details, with base model and data as the trainer's objects name them where the user named none.

    Args:
        trainer: A trainer.
        details: The user's own words, which stand.
    """
    named = str(getattr(trainer.plain_model().config, "_name_or_path", "") or "")
    return dataclasses.replace(
        details,
        base_model=details.base_model or (named if is_hub_id(named) else ""),
        datasets=details.datasets or data_names(trainer.train_dataset),
    )


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
