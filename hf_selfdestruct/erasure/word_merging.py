"""What single words tell of a blocked task, taken out of the vocabulary: opposites become one.

However a model is trained, the word it reads tells an attacker what a bag of words would. Here a word that one class
uses more than its share is merged with its nearest neighbour that other classes use more ("sister" with "brother",
"king" with "queen"): both then have one embedding, which tells less than either. Merging goes on, the most telling
word first, until no group tells more than a threshold. Most of what the words mean is kept, for neighbours mean
nearly the same. To tell merged words apart again takes an attacker examples of every single one.

Rows are few and words many: of most words a corpus tells little, but the model tells more ("megan" is not seen, and
lies near "jennifer"). So a ridge regression of what is seen on the embeddings says what to expect of each word, and
counts as some rows seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

PARTNER = 1.0  # standard errors from which on a word may be merged
EXPECTED = 30  # rows that an expectation counts for
SHRUNK = 3  # a ridge regression on so weak a signal falls short of it by about this factor
RIDGE = 0.5  # of the mean variance of a feature
RARE = 10  # rows at which a word's own share is believed half


def row_counts(rows: Sequence[Sequence[int]], labels: np.ndarray, vocabulary: int) -> np.ndarray:
    """In how many rows of each class each word stands.

    Args:
        rows: Word numbers of each row.
        labels: Integers from 0 on, shape ``(rows,)``.
        vocabulary: Number of words.

    Returns:
        Shape ``(vocabulary, classes)``.
    """
    classes = int(labels.max()) + 1
    flat = np.concatenate(
        [np.unique(np.asarray(row)) * classes + label for row, label in zip(rows, labels, strict=True)]
    )
    return np.bincount(flat, minlength=vocabulary * classes).reshape(vocabulary, classes)


def association(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """By how many standard errors each class has more or fewer of a word's rows than its share.

    Args:
        counts: Rows by word and class, shape ``(words, classes)``.
        shares: Share of each class in all rows, shape ``(classes,)``.

    Returns:
        Shape ``(words, classes)``; 0 for words that stand nowhere.
    """
    seen = counts.sum(axis=1, keepdims=True)
    errors = np.sqrt(seen * shares * (1 - shares))
    return np.divide(counts - seen * shares, errors, out=np.zeros_like(errors), where=errors > 0)


def expected_counts(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What each word's embedding lets expect, as rows by class.

    Args:
        table: Embeddings, shape ``(vocabulary, width)``.
        counts: Rows by word and class, shape ``(vocabulary, classes)``.

    Returns:
        Shape ``(vocabulary, classes)``; each word's sum is :data:`EXPECTED`.
    """
    seen, shares = counts.sum(axis=1), counts.sum(axis=0) / counts.sum()
    some = seen > 0
    weights = seen / (seen + RARE)
    surplus = (counts + RARE * shares) / (seen + RARE)[:, None] - shares
    places = table - np.average(table, axis=0, weights=weights)
    among = (places[some] * weights[some, None]).T @ places[some]
    penalised = among + RIDGE * np.trace(among) / len(among) * np.eye(len(among))
    found = places @ np.linalg.solve(penalised, (places[some] * weights[some, None]).T @ surplus[some])
    expected = np.clip(shares + SHRUNK * found, 0.02, None)
    return EXPECTED * expected / expected.sum(axis=1, keepdims=True)


def neutral_groups(
    table: np.ndarray, tasks: Sequence[np.ndarray], threshold: float, *, spared: Sequence[int] = ()
) -> list[list[int]]:
    """Groups of words to merge.

    Args:
        table: Embeddings to find neighbours by, shape ``(vocabulary, width)``: those without the tasks' directions, so
            that opposites are near.
        tasks: For each blocked task rows by word and class, shape ``(vocabulary, classes)``: those seen, those expected
            or both.
        threshold: Merging ends when no group's association with any class is larger, in standard errors, or none has
            an opposite left.
        spared: Words that stay as they are: a tokenizer's own.

    Returns:
        Groups of two words or more; each word is in one group at most.
    """
    shares = [counts.sum(axis=0) / max(counts.sum(), 1) for counts in tasks]
    told = np.hstack([association(c.astype(float), s) for c, s in zip(tasks, shares, strict=True)])
    seen = np.max([counts.sum(axis=1) for counts in tasks], axis=0)
    words = np.setdiff1d(np.flatnonzero(np.abs(told).max(axis=1) >= PARTNER), list(spared))
    groups, alive = [[int(word)] for word in words], np.ones(len(words), dtype=bool)
    held = [counts[words].astype(float) for counts in tasks]
    told, weights, places = told[words], seen[words].astype(float), _units(table[words].astype(float))
    while alive.any():
        strength = np.where(alive, np.abs(told).max(axis=1), 0)
        one = int(strength.argmax())
        opposite = alive & (told @ told[one] < 0)
        if strength[one] <= threshold or not opposite.any():
            break
        other = int(np.where(opposite, places @ places[one], -np.inf).argmax())
        groups[one] += groups[other]
        alive[other] = False
        for counts in held:
            counts[one] += counts[other]
        told[one] = np.hstack([association(c[one : one + 1], s)[0] for c, s in zip(held, shares, strict=True)])
        places[one] = _units(weights[one] * places[one] + weights[other] * places[other])
        weights[one] += weights[other]
    return [group for group, left in zip(groups, alive, strict=True) if left and len(group) > 1]


def joined(groups: Sequence[Sequence[int]], table: np.ndarray, weights: np.ndarray, most: int) -> list[list[int]]:
    """Groups joined to fewer, those near each other first.

    Opposites made one can still be told apart where they stand in different contexts. In a large group they cannot.

    Args:
        groups: Groups of words.
        table: Embeddings to find neighbours by, shape ``(vocabulary, width)``.
        weights: How often each word is used, shape ``(vocabulary,)``.
        most: Groups wanted; fewer stay as they are.
    """
    if len(groups) <= most:
        return [list(group) for group in groups]
    places = merged(torch.as_tensor(table), groups, weights)[[group[0] for group in groups]].numpy()
    found = KMeans(most, n_init=4, random_state=0).fit_predict(_units(places))
    return [[word for i in np.flatnonzero(found == number) for word in groups[int(i)]] for number in range(most)]


def merged(table: Tensor, groups: Sequence[Sequence[int]], counts: np.ndarray) -> Tensor:
    """A table of embeddings in which each group has one row: the mean of its own, weighted by how often they are used.

    Args:
        table: Shape ``(vocabulary, width)``.
        groups: Words to merge.
        counts: How often each word is used, shape ``(vocabulary,)``.
    """
    found = table.clone()
    for group in groups:
        weights = torch.as_tensor(counts[list(group)] + 1.0).to(table)
        found[list(group)] = (weights @ table[list(group)]) / weights.sum()
    return found


class TiedRows:
    """Keeps rows of a table equal that are equal now: they learn as one.

    Nothing has to be stored for it: a table loaded from a checkpoint has the same equal rows.

    Args:
        table: The embeddings.
    """

    def __init__(self, table: nn.Parameter) -> None:
        self._table = table
        _, group, size = torch.unique(table.detach(), dim=0, return_inverse=True, return_counts=True)
        self._rows = torch.nonzero(size[group] > 1).squeeze(1)
        _, self._group = torch.unique(group[self._rows], return_inverse=True)
        first = torch.full((int(self._group.max()) + 1 if len(self._rows) else 0,), len(group), device=table.device)
        self._first = first.scatter_reduce(0, self._group, self._rows, "amin")

    def gather(self) -> None:
        """Before the optimizer steps: every row of a group gets the sum of their gradients."""
        if self._table.grad is not None and len(self._rows):
            gradient = self._table.grad
            sums = gradient.new_zeros(len(self._first), gradient.shape[1])
            sums.index_add_(0, self._group, gradient[self._rows])
            gradient[self._rows] = sums[self._group]

    def spread(self) -> None:
        """After it: every row of a group is what the first one is, to the last bit."""
        with torch.no_grad():
            self._table[self._rows] = self._table[self._first[self._group]]


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
