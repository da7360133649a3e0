"""Whether two English texts belong together, as a reader judges it without a model: the raw input of pairs again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from ..data import AttackData, Split
from .english import KINDS, about, continues, kinds
from .pair_words import two_texts
from .tamper import NotApplicable

FEW_TOPICS = 0.7  # added to a norm: a text with one known word says little of its topics
RARE = 1e-3  # added to a variance


class Likeness(BaseEstimator, TransformerMixin):
    """How alike two texts are: by topics, by kinds of words, and by whether the second continues the first.

    Each is standardised, so that a larger number always speaks for two texts that belong together.

    Args:
        summed: Whether the sum is the only feature; otherwise the three are, and each kind of word apart.

    Example:
        ```python
        Likeness().fit_transform(np.stack([signs(a, b) for a, b in pairs]))
        ```
    """

    def __init__(self, *, summed: bool = False) -> None:
        self.summed = summed

    def fit(self, rows: np.ndarray, labels: Any = None) -> Self:
        """Learn how common each kind of word is, and the scale of each number.

        Args:
            rows: What :func:`signs` gives, ``(rows, signs)``.
            labels: Not read.
        """
        _, first, second, last = _parts(rows)
        self._rates = np.concatenate([first, second]).mean(axis=0)
        self._last = last.mean(axis=0), last.std(axis=0)
        sums = self._sums(rows)
        self._scale = sums.mean(axis=0), sums.std(axis=0)
        return self

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """Features of rows, ``(rows, features)``."""
        scaled = _scaled(self._sums(rows), *self._scale)
        return scaled.sum(axis=1, keepdims=True) if self.summed else np.hstack([scaled, self._agreement(rows)])

    def _agreement(self, rows: np.ndarray) -> np.ndarray:
        """Of each kind of word, whether both texts have it or neither: more, the less that says by chance."""
        _, first, second, _ = _parts(rows)
        return (first - self._rates) * (second - self._rates) / (self._rates * (1 - self._rates) + RARE)

    def _sums(self, rows: np.ndarray) -> np.ndarray:
        topic, _, _, last = _parts(rows)
        return np.column_stack([topic, self._agreement(rows).sum(axis=1), _scaled(last, *self._last).sum(axis=1)])


def signs(first: str, second: str) -> np.ndarray:
    """What a reader notes of two texts: how far topics agree, kinds of words of each, whether the second continues one.

    Args:
        first: A text.
        second: Another one.

    Returns:
        Array ``(signs,)``.
    """
    a, b = (of / (np.linalg.norm(of) + FEW_TOPICS) for of in map(about, (first, second)))
    return np.concatenate([[a @ b], kinds(first), kinds(second), continues(second)])


def reader(data: AttackData) -> Callable[[Split], np.ndarray]:
    """What reads the signs of a split's rows, which are pairs of texts in tokens.

    Args:
        data: What the attacker has; its collator knows the tokenizer.

    Raises:
        NotApplicable: It knows none.
    """
    tokenizer = getattr(data.collate, "tokenizer", None)
    if tokenizer is None:
        raise NotApplicable(
            "raw input, likeness: tokens cannot be read as English, because the collator has no attribute 'tokenizer': "
            "give transformers.DataCollatorWithPadding(tokenizer)."
        )

    def spelled(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    known: dict[tuple[int, ...], np.ndarray] = data.memory.setdefault("signs of likeness", {})  # for every setting

    def signs_of(row: dict[str, Any]) -> np.ndarray:
        texts = two_texts(row)
        key = (len(texts[0]), *texts[0], *texts[1])
        if key not in known:
            known[key] = signs(*map(spelled, texts))
        return known[key]

    def read(split: Split) -> np.ndarray:
        return np.stack([signs_of(row) for row in split.features])

    return read


def _parts(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    ends = np.cumsum([1, len(KINDS), len(KINDS)])
    topic, first, second, last = np.split(rows, ends, axis=1)
    return topic[:, 0], first, second, last


def _scaled(values: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Standardised; what is the same for every row stays 0."""
    return (values - means) / np.where(deviations > 0, deviations, np.inf)
