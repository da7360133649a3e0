"""Evidence that a folder holds already: set aside before other weights come into the folder."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path

from .manifest import MANIFEST, REPORT, SIGNATURE

EARLIER = "_earlier"
CARD = "README.md"

logger = logging.getLogger(__name__)


def has_evidence(folder: Path) -> bool:
    """Whether a folder holds a report, a manifest or a signature."""
    return any((folder / name).exists() for name in (REPORT, MANIFEST, SIGNATURE))


def set_aside(folder: Path) -> None:
    """Move the evidence that a folder holds, card and signature included, into ``_earlier/<n>``."""
    if not has_evidence(folder):
        return
    place = next(p for n in itertools.count(1) if not (p := folder / EARLIER / str(n)).exists())
    place.mkdir(parents=True)
    for name in (CARD, SIGNATURE, Path(MANIFEST).parent.name):  # the last one marks what is still to be moved
        if (folder / name).exists():
            os.replace(folder / name, place / name)
    logger.warning(
        "the evidence in %s belongs to the weights it was made with, which are replaced: moved to %s", folder, place
    )
