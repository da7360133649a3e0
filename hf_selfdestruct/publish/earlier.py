"""Set aside the existing evidence of a folder before its weights are replaced."""

from __future__ import annotations

import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any

from ..files import weights_hash
from .manifest import LEFT_BY_TRAINER, MANIFEST, REPORT, SIGNATURE

EARLIER = "_earlier"
CARD = "README.md"

logger = logging.getLogger(__name__)


def has_evidence(folder: Path) -> bool:
    """Whether a folder contains a report, a manifest or a signature."""
    return any((folder / name).exists() for name in (REPORT, MANIFEST, SIGNATURE))


def holds(folder: Path, model: Path) -> bool:
    """Whether a folder contains every file of a saved model unchanged, except for the stamp in the configuration."""
    others = (p for p in model.iterdir() if p.is_file() and p.suffix != ".safetensors" and p.name != LEFT_BY_TRAINER)
    return weights_hash(folder) == weights_hash(model) and all(_content(folder / p.name) == _content(p) for p in others)


def _content(path: Path) -> Any:
    if not path.is_file():
        return None
    if path.name != "config.json":
        return path.read_bytes()
    return {
        name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if name != "hf_selfdestruct"
    }


def set_aside(folder: Path) -> None:
    """Move the evidence of a folder, including card and signature, to ``_earlier/<n>``."""
    if not has_evidence(folder):
        return
    place = next(p for n in itertools.count(1) if not (p := folder / EARLIER / str(n)).exists())
    place.mkdir(parents=True)
    for name in (CARD, SIGNATURE, Path(MANIFEST).parent.name):  # the last one marks an unfinished move
        if (folder / name).exists():
            os.replace(folder / name, place / name)
    logger.warning(
        "the evidence in %s belongs to the previous weights, which are being replaced: moved to %s", folder, place
    )
