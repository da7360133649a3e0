"""Class probabilities and labels as text, so that a report holds what its scores follow from. It knows no torch."""

from __future__ import annotations

import base64
import binascii

import numpy as np

LEAST = -60.0  # log-probabilities below this are cut, counted from the likeliest class
FLOOR = 1e-20  # probabilities below this rank no rows: they are what is left of a class that was never seen


def rounded(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities as they can be kept on record.

    Scores are computed from these, so that the record says exactly what the scores say.
    """
    return _restored(_kept(probabilities))


def packed(probabilities: np.ndarray) -> str:
    """Probabilities ``(rows, classes)`` as text; :func:`unpacked` gives back what :func:`rounded` gives."""
    return base64.b64encode(_kept(probabilities).tobytes()).decode()


def packed_size(rows: int, classes: int) -> int:
    """Length of the text of so many probabilities."""
    return 4 * -(-2 * rows * classes // 3)


def unpacked(text: str, classes: int) -> np.ndarray:
    """Probabilities ``(rows, classes)`` from text.

    Raises:
        ValueError: The text is not such an array.
    """
    logs = _array(text, "<f2").reshape(-1, classes)
    if not (np.abs(logs) <= -LEAST).all():  # so that nothing overflows; what is not a number fails too
        raise ValueError(f"log-probabilities must lie within ±{-LEAST:.0f}.")
    return _restored(logs)


def _kept(probabilities: np.ndarray) -> np.ndarray:
    """Log-odds to the likeliest class, in half precision: fine where classes are nearly equal, coarse elsewhere.

    What is kept of kept ones is the same.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities)
    return (logs - logs.max(axis=1, keepdims=True)).clip(LEAST, 0.0).astype("<f2")


def _restored(logs: np.ndarray) -> np.ndarray:
    values = np.exp(logs.astype(np.float64))
    return values / values.sum(axis=1, keepdims=True)


def packed_labels(labels: np.ndarray) -> str:
    """Integer labels as text, for :func:`unpacked_labels`."""
    return base64.b64encode(np.asarray(labels).astype("<u2").tobytes()).decode()


def unpacked_labels(text: str) -> np.ndarray:
    """Integer labels from text.

    Raises:
        ValueError: The text is not such an array.
    """
    return _array(text, "<u2").astype(np.int64)


def _array(text: str, kind: str) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype=kind)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not an array in base64 ({error}).") from None
