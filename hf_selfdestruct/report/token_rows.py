"""What a report holds of language models: sums over the tokens of each row, and scores that are ratios of them."""

from __future__ import annotations

import base64
import math

import numpy as np

from .attack_run import AttackRun, Scores
from .packing import unpacked_numbers

SUMS = ("nats", "tokens", "right", "bytes")  # of each row
BITS, RIGHT = "bits_per_byte", "next_token_accuracy"


def packed_tokens(sums: np.ndarray) -> str:
    """Encode the :data:`SUMS` of rows, ``(rows, 4)``, as text, for :func:`unpacked_tokens`."""
    return base64.b64encode(np.asarray(sums).astype("<f4").tobytes()).decode()


def unpacked_tokens(text: str) -> np.ndarray:
    """Decode the sums of rows.

    Raises:
        ValueError: The text is not such an array.
    """
    sums = unpacked_numbers(text, "<f4").reshape(-1, len(SUMS)).astype(np.float64)
    nats, tokens, right, size = sums.T
    if not (np.isfinite(sums).all() and (nats >= 0).all() and (tokens >= 1).all() and (size >= 0).all()):
        raise ValueError("sums of nats, tokens and bytes must be finite and not negative, and each row have a token.")
    if not ((right >= 0) & (right <= tokens)).all():
        raise ValueError("a row cannot have more tokens predicted right than tokens.")
    return sums


def token_scores(sums: np.ndarray) -> Scores:
    """The scores of rows from their sums.

    Example:
        >>> token_scores(np.array([[2.0, 2, 1, 0], [4.0, 2, 0, 0]])).loss
        1.5
    """
    nats, tokens, right, size = np.asarray(sums, dtype=np.float64).sum(axis=0)
    bits = float(nats / math.log(2) / size) if size else None
    extra = {BITS: bits, RIGHT: float(right / tokens)}
    return Scores(None, None, None, float(nats / tokens), extra, score=-float(nats / tokens))


def known_general(run: AttackRun) -> tuple[float, ...]:
    """The general loss before an attack and at its best look; empty where it was not measured."""
    return (run.general[0], run.general[0] + (run.desired_drop or 0.0)) if run.general else ()


def token_contributions(sums: np.ndarray) -> np.ndarray:
    """What each row adds to the log-likelihood per token: the ratio plus the row's influence on it.

    The mean is the ratio of sums, and the spread over rows is that of the ratio (its linearisation, as in the delta
    method), so that rows can be drawn as those of any mean.
    """
    nats, tokens = sums[:, 0], sums[:, 1]
    ratio = -nats.sum() / tokens.sum()
    return ratio + (-nats - ratio * tokens) / tokens.mean()
