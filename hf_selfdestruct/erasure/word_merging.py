"""Merge words that reveal a blocked label with their opposites, so that they share one embedding.

However a model is trained, its input reveals to an attacker as much as a bag-of-words classifier finds. Merging gives a
word that one class uses more often ("sister", "king") one shared embedding with its nearest neighbour that other
classes use more often ("brother", "queen"); the shared embedding is less predictive than either word. Merging starts
with the most predictive word and ends when no group is predictive beyond a threshold. Most of the meaning is preserved,
because neighbours have similar meanings. To separate merged words again, an attacker needs examples of every word.

Most words are too rare for a reliable estimate from the rows alone, but the embeddings add information: "megan" may not
occur, and lies near "jennifer". A ridge regression on the embeddings predicts the class counts of each word, and the
prediction counts as a fixed number of observed rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

PARTNER = 1.0  # minimum association, in standard errors, of a word that may be merged
EXPECTED = 30  # number of rows that a prediction counts as
SHRUNK = 3  # corrects the shrinkage of the ridge regression, which underestimates weak signals by about this factor
RIDGE = 0.5  # relative to the mean variance of a feature
RARE = 10  # number of rows at which a word's own counts have weight 1/2


def row_counts(rows: Sequence[Sequence[int]], labels: np.ndarray, vocabulary: int) -> np.ndarray:
    """Count the rows of each class in which each word occurs.

    Args:
        rows: Token ids of each row.
        labels: Integers from 0, shape ``(rows,)``.
        vocabulary: Size of the vocabulary.

    Returns:
        Shape ``(vocabulary, classes)``.
    """
    classes = int(labels.max()) + 1
    flat = np.concatenate(
        [np.unique(np.asarray(row)) * classes + label for row, label in zip(rows, labels, strict=True)]
    )
    return np.bincount(flat, minlength=vocabulary * classes).reshape(vocabulary, classes)


def association(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Deviation, in standard errors, of each class's share of a word's rows from its share of all rows.

    Args:
        counts: Rows by word and class, shape ``(words, classes)``.
        shares: Share of each class in all rows, shape ``(classes,)``.

    Returns:
        Shape ``(words, classes)``; 0 for words that do not occur.
    """
    seen = counts.sum(axis=1, keepdims=True)
    errors = np.sqrt(seen * shares * (1 - shares))
    return np.divide(counts - seen * shares, errors, out=np.zeros_like(errors), where=errors > 0)


def expected_counts(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Predict the rows by class of each word from its embedding.

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
    """Find groups of words to merge.

    Args:
        table: Embeddings to find neighbours in, shape ``(vocabulary, width)``; erase the tasks' directions first, so
            that opposites are neighbours.
        tasks: For each blocked task, rows by word and class, shape ``(vocabulary, classes)``: observed, predicted or
            both.
        threshold: Merging ends when no group's association with any class exceeds this many standard errors, or no
            opposites remain.
        spared: Tokens to leave unchanged: a tokenizer's special tokens.

    Returns:
        Groups of at least two words; each word is in at most one group.
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
    """Join groups to fewer, larger ones by k-means.

    The context may still reveal which of two merged opposites was meant; in a large group it reveals less.

    Args:
        groups: Groups of words.
        table: Embeddings to find neighbours in, shape ``(vocabulary, width)``.
        weights: Number of rows with each word, shape ``(vocabulary,)``.
        most: Maximum number of groups.
    """
    if len(groups) <= most:
        return [list(group) for group in groups]
    places = merged(torch.as_tensor(table), groups, weights)[[group[0] for group in groups]].numpy()
    found = KMeans(most, n_init=4, random_state=0).fit_predict(_units(places))
    return [[word for i in np.flatnonzero(found == number) for word in groups[int(i)]] for number in range(most)]


def merged(table: Tensor, groups: Sequence[Sequence[int]], counts: np.ndarray) -> Tensor:
    """Replace the embeddings of each group by their mean, weighted by the frequency of the words.

    Args:
        table: Shape ``(vocabulary, width)``.
        groups: Words to merge.
        counts: Number of rows with each word, shape ``(vocabulary,)``.
    """
    found = table.clone()
    for group in groups:
        weights = torch.as_tensor(counts[list(group)] + 1.0).to(table)
        found[list(group)] = (weights @ table[list(group)]) / weights.sum()
    return found


class TiedRows:
    """Tie the rows of a table that are equal now, so that training updates them together.

    Ties need no storage: a table loaded from a checkpoint has the same equal rows.

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
        """Assign the sum of a group's gradients to each of its rows; call before the optimizer step."""
        if self._table.grad is not None and len(self._rows):
            gradient = self._table.grad
            sums = gradient.new_zeros(len(self._first), gradient.shape[1])
            sums.index_add_(0, self._group, gradient[self._rows])
            gradient[self._rows] = sums[self._group]

    def spread(self) -> None:
        """Copy the first row of a group to the others, bitwise; call after the optimizer step."""
        with torch.no_grad():
            self._table[self._rows] = self._table[self._first[self._group]]


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
