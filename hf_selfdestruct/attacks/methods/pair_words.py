"""What the words of two texts share: the raw input of pairs, without any weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from ..data import Split

Tokens = list[int]


class Overlap(BaseEstimator, TransformerMixin):
    """What the words of two texts share: cosine, number, share and rarity of common words, and lengths.

    Args:
        products: Whether ``|a - b|`` and ``a * b`` of the TF-IDF vectors are features too.
    """

    def __init__(self, *, products: bool = False) -> None:
        self.products = products

    def fit(self, pairs: Sequence[tuple[Tokens, Tokens]], labels: Any = None) -> Self:
        """Weigh words by the texts of the pairs."""
        self._words = TfidfVectorizer(analyzer=_words, sublinear_tf=True)
        self._words.fit([text for pair in pairs for text in pair])
        self._scaler = StandardScaler().fit(self._shared(pairs, *self._vectors(pairs)))
        return self

    def transform(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> Any:
        """Features of pairs, ``(rows, features)``."""
        a, b = self._vectors(pairs)
        shared = self._scaler.transform(self._shared(pairs, a, b))
        if not self.products:
            return shared
        return sparse.hstack([sparse.csr_matrix(shared / 10), abs(a - b), a.multiply(b)]).tocsr()

    def _vectors(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> tuple[Any, Any]:
        first, second = (self._words.transform([pair[i] for pair in pairs]) for i in (0, 1))
        return first, second

    def _shared(self, pairs: Sequence[tuple[Tokens, Tokens]], a: Any, b: Any) -> np.ndarray:
        cosines = np.asarray(a.multiply(b).sum(axis=1)).ravel()
        rarity = {word: self._words.idf_[i] for word, i in self._words.vocabulary_.items()}
        most = float(self._words.idf_.max())
        rows = []
        for first, second in pairs:
            common, either = {*_words(first)} & {*_words(second)}, {*first} | {*second}
            rare = [rarity.get(word, most) for word in common]
            lengths = (len(first), len(second), len(first) - len(second))
            rows.append((len(common), len(common) / len(either), sum(rare), max(rare, default=0.0), *lengths))
        return np.column_stack([cosines, np.asarray(rows, dtype=float)])


def of_pairs(split: Split) -> bool:
    """Whether rows are pairs of texts, as far as they say so."""
    return any(1 in row.get("token_type_ids", ()) for row in split.features[:1])


def two_texts(row: dict[str, Any]) -> tuple[Tokens, Tokens]:
    """The tokens of each text of a row without padding, each with the tokens that open and close an input.

    Example:
        >>> two_texts({"input_ids": [101, 7, 102, 8, 9, 102], "token_type_ids": [0, 0, 0, 1, 1, 1]})
        ([101, 7, 102], [101, 8, 9, 102])
    """
    mask = row.get("attention_mask", [1] * len(row["input_ids"]))
    ids, types = (list(itertools.compress(row[name], mask)) for name in ("input_ids", "token_type_ids"))
    second = types.index(1) if 1 in types else len(ids)  # a long first text may leave no room
    return ids[:second], [ids[0], *ids[second:]]


def _words(tokens: Tokens) -> list[str]:
    """Tokens as words, without those that open and close an input."""
    return [str(token) for token in tokens[1:-1]]
