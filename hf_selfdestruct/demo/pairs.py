"""Pairs of real handwritten digits, side by side, with a label to be desired (the left digit) and one to be blocked.

The pictures are scikit-learn's (``load_digits``: 1,797 of 8 x 8 pixels, by 43 people). The blocked label says whether
both show the same digit: pixels alone do not say it to a linear classifier, and a model that knows it has a head start.

Example:
    >>> int(pairs("train", 40).matches.sum())
    20
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value
from sklearn.datasets import load_digits

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MATCHES = ("different", "same")

# A picture's hash assigns it to one of four equal parts and so to a split: no two splits share a picture.
SPLIT_PARTS: dict[str, tuple[int, ...]] = {"train": (0, 1), "validation": (2,), "test": (3,)}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Different pairs of different pictures.

    Args:
        pixels: From 0 (paper) to 255 (ink), ``(pairs, 8, 16)``.
        digits: The left digits, ``(pairs,)``.
        matches: 1 where both show the same digit, ``(pairs,)``.
    """

    pixels: np.ndarray
    digits: np.ndarray
    matches: np.ndarray

    def dataset(self) -> Dataset:
        """The pairs as images, with their labels as words in ``digit`` and ``match``."""
        columns: dict[str, Any] = {
            "image": [*self.pixels],
            "digit": [DIGITS[digit] for digit in self.digits],
            "match": [MATCHES[match] for match in self.matches],
        }
        return Dataset.from_dict(
            columns, features=Features(image=Image(), digit=Value("string"), match=Value("string"))
        )


def pairs(split: str, count: int, *, seed: int = 0) -> Pairs:
    """Draw the pairs of one split.

    Each block of 20 has every digit on the left once in a matching pair and once in another.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        count: Number of pairs, a positive multiple of 20.
        seed: Seed of the pairs. Splits never share a picture, even with different seeds.

    Returns:
        Different pairs, the same on every machine.

    Raises:
        ValueError: If the split is unknown, or the count cannot be balanced.

    Example:
        >>> pairs("test", 20).pixels.shape
        (20, 8, 16)
    """
    if split not in SPLIT_PARTS:
        raise ValueError(f"unknown split: got {split!r}; use one of {', '.join(SPLIT_PARTS)}")
    if count <= 0 or count % (2 * len(DIGITS)):
        raise ValueError(f"count cannot be balanced: got {count}; use a positive multiple of {2 * len(DIGITS)}")
    pictures, rng = _pictures(split), random.Random(f"pairs/{split}/{seed}")
    drawn: dict[tuple[int, int, int, int], np.ndarray] = {}  # left and right digits, and pictures of them
    while len(drawn) < count:
        left, match = len(drawn) // 2 % len(DIGITS), len(drawn) % 2
        right = left if match else (left + 1 + _below(rng, len(DIGITS) - 1)) % len(DIGITS)
        first, second = (_below(rng, len(pictures[digit])) for digit in (left, right))
        if not (match and first == second):
            drawn.setdefault((left, right, first, second), np.hstack([pictures[left][first], pictures[right][second]]))
    names = np.array([*drawn])
    return Pairs(np.stack([*drawn.values()]), names[:, 0], (names[:, 0] == names[:, 1]).astype(int))


@functools.cache
def _pictures(split: str) -> Sequence[np.ndarray]:
    """A split's pictures of each digit."""
    images, digits = load_digits(return_X_y=True)
    found: list[list[np.ndarray]] = [[] for _ in range(len(DIGITS))]
    for image, digit in zip(images, digits, strict=True):
        picture = np.minimum(255, 16 * image.reshape(8, 8)).astype(np.uint8)
        if hashlib.sha256(picture.tobytes()).digest()[0] % 4 in SPLIT_PARTS[split]:
            found[digit].append(picture)
    return [np.stack(one) for one in found]


# Python guarantees reproducible numbers across versions only for random().
def _below(rng: random.Random, count: int) -> int:
    return int(rng.random() * count)
