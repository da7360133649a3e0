"""The development split: test rows set aside to choose on, by a hash of their source document."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

TEST, DEVELOPMENT = "test", "development"
READINGS = "readings.jsonl"


def check_development(share: float, document_column: str | None) -> None:
    """Refuse a share that is none, and a column that nothing would use.

    Raises:
        ValueError: With what was given.
    """
    if not 0 <= share < 1:
        raise ValueError(f"development must be a share of the test rows, at least 0 and below 1; got {share}.")
    if document_column is not None and not share:
        raise ValueError(
            f"document_column {document_column!r} only decides which test rows are development rows: set development, "
            "or remove document_column."
        )


def is_development(document: str, share: float) -> bool:
    """Whether a document's rows are development rows; depends on nothing else, neither the task nor other rows.

    Example:
        >>> [is_development(page, 0.5) for page in ("12", "13", "14", "15")]
        [True, True, True, False]
    """
    digest = hashlib.sha256(f"development/{document}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def cut(test: Dataset, documents: Sequence[str], share: float) -> dict[str, Dataset]:
    """Cut test rows in two parts that share no document.

    Args:
        test: The rows.
        documents: The document of each row.
        share: About which share of the documents is for development.

    Returns:
        ``test`` and ``development``, each in the order of the rows.
    """
    chosen = {document: is_development(document, share) for document in {*documents}}
    parts = {TEST: False, DEVELOPMENT: True}
    return {
        split: test.select([row for row, document in enumerate(documents) if chosen[document] == developed])
        for split, developed in parts.items()
    }


def check_parts(labels: Mapping[str, np.ndarray], where: str) -> None:
    """Refuse a cut that leaves a part without a class that the other has.

    Args:
        labels: Labels of the ``test`` and ``development`` rows.
        where: The task and its share, for the message.

    Raises:
        ValueError: With the part and the class.
    """
    classes = {split: {*known.tolist()} if known.dtype.kind == "i" else set() for split, known in labels.items()}
    for split, other in ((TEST, DEVELOPMENT), (DEVELOPMENT, TEST)):
        if missing := sorted(classes[other] - classes[split]):
            raise ValueError(
                f"{where} leaves no row of class {missing[0]} in split {split!r} ({len(labels[split])} rows): give "
                "more test rows, or another share."
            )
