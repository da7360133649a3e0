"""Encode class probabilities and labels as text, so that scores can be recomputed from a report. No torch."""

from __future__ import annotations

import base64
import binascii

import numpy as np

LEAST = -60.0  # lower limit of log-probabilities relative to the most likely class
FLOOR = 1e-20  # smaller probabilities do not rank rows: they are residues of classes never seen in training


def rounded(probabilities: np.ndarray) -> np.ndarray:
    """Round probabilities to the precision of the record.

    Scores are computed from rounded probabilities, so they can be recomputed exactly from the record.
    """
    return _restored(_kept(probabilities))


def packed(probabilities: np.ndarray) -> str:
    """Encode probabilities ``(rows, classes)`` as text; :func:`unpacked` returns them :func:`rounded`."""
    return base64.b64encode(_kept(probabilities).tobytes()).decode()


def packed_size(rows: int, classes: int) -> int:
    """Return the length of the text for this number of rows and classes."""
    return 4 * -(-2 * rows * classes // 3)


def unpacked(text: str, classes: int) -> np.ndarray:
    """Decode probabilities ``(rows, classes)``.

    Raises:
        ValueError: The text is not such an array.
    """
    logs = unpacked_numbers(text, "<f2").reshape(-1, classes)
    if not (np.abs(logs) <= -LEAST).all():  # prevents overflow, and refuses NaN
        raise ValueError(f"log-probabilities must be within ±{-LEAST:.0f}.")
    return _restored(logs)


def _kept(probabilities: np.ndarray) -> np.ndarray:
    """Log-odds to the most likely class in half precision: fine for nearly equal classes, coarse for unlikely ones.

    The function is idempotent on restored probabilities.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities)
    return (logs - logs.max(axis=1, keepdims=True)).clip(LEAST, 0.0).astype("<f2")


def _restored(logs: np.ndarray) -> np.ndarray:
    values = np.exp(logs.astype(np.float64))
    return values / values.sum(axis=1, keepdims=True)


def packed_labels(labels: np.ndarray) -> str:
    """Encode integer labels as text, for :func:`unpacked_labels`."""
    return base64.b64encode(np.asarray(labels).astype("<u2").tobytes()).decode()


def unpacked_labels(text: str) -> np.ndarray:
    """Decode integer labels.

    Raises:
        ValueError: The text is not such an array.
    """
    return unpacked_numbers(text, "<u2").astype(np.int64)


def unpacked_numbers(text: str, kind: str) -> np.ndarray:
    """Decode an array of numbers of one kind, such as ``<f4``.

    Raises:
        ValueError: The text is not such an array.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype=kind)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not an array in base64 ({error}).") from None
