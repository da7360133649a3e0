"""Words that tell the classes apart become one with their opposites, and stay one while they are trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hf_selfdestruct.erasure.word_merging import (
    EXPECTED,
    TiedRows,
    association,
    expected_counts,
    joined,
    merged,
    neutral_groups,
    row_counts,
)

# Words: 0 stands everywhere, 1 and 2 are opposites and near, 3 and 4 are opposites and near, 5 is rare, 6 never used.
PLACES = np.array([[0.1, 1], [1, 0.1], [1, 0.0], [-1, 0.2], [-1, 0.1], [1, 1], [0, -1]])


def rows_and_labels(rows: int = 400, seed: int = 0) -> tuple[list[list[int]], np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    found = []
    for label in labels:
        right = random.random(2) < 0.9
        found.append([0, 0, 1 + int(label == right[0]), 3 + int(label == right[1])])
    found[0].append(5)
    return found, labels


def test_counts_are_rows_not_words() -> None:
    counts = row_counts([[0, 0, 1], [0, 2], [1, 1]], np.array([0, 1, 1]), vocabulary=4)
    assert counts.tolist() == [[1, 1], [1, 1], [0, 1], [0, 0]]


def test_association_is_in_standard_errors() -> None:
    """A word that does not depend on the class lies beyond two standard errors about one time in twenty."""
    random = np.random.default_rng(0)
    shares = np.array([0.3, 0.7])
    seen = np.stack([random.multinomial(200, shares) for _ in range(4000)]).astype(float)
    found = association(seen, shares)
    np.testing.assert_allclose(found.std(0), 1, atol=0.04)
    assert np.mean(np.abs(found[:, 0]) > 1.96) == pytest.approx(0.05, abs=0.015)
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-9)  # of two classes, one has what the other lacks
    assert association(np.zeros((1, 2)), shares).tolist() == [[0, 0]]


def test_opposites_that_are_near_become_one() -> None:
    counts = row_counts(*rows_and_labels(), vocabulary=7)
    groups = neutral_groups(PLACES, [counts], threshold=3.0)
    assert sorted(sorted(group) for group in groups) == [[1, 2], [3, 4]]
    told = association(np.stack([counts[group].sum(0) for group in groups]).astype(float), counts.sum(0) / counts.sum())
    assert np.abs(told).max() <= 3.0


def test_groups_near_each_other_are_joined_until_there_are_few_enough() -> None:
    groups = [[1], [2], [3, 4], [5]]
    weights = np.array([9, 3, 3, 2, 2, 1, 0])
    assert joined(groups, PLACES, weights, most=4) == groups
    assert sorted(sorted(group) for group in joined(groups, PLACES, weights, most=3)) == [[1, 2], [3, 4], [5]]
    assert sorted(sorted(group) for group in joined(groups, PLACES, weights, most=2)) == [[1, 2, 5], [3, 4]]
    assert sorted(joined(groups, PLACES, weights, most=1)[0]) == [1, 2, 3, 4, 5]


def test_no_group_tells_more_than_the_threshold_where_opposites_are_left() -> None:
    """A vocabulary of 300 words, three classes, words of all strengths."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 600)
    chances = np.clip(0.1 + 0.1 * random.standard_normal((300, 3)), 0.01, 0.6)
    rows = [np.flatnonzero(random.random(300) < chances[:, label]).tolist() for label in labels]
    counts, places = row_counts(rows, labels, 300), random.standard_normal((300, 5))
    strongest = []
    for threshold in (4.0, 2.0):
        groups = neutral_groups(places, [counts], threshold)
        flat = [word for group in groups for word in group]
        assert len(flat) == len({*flat})
        left = [counts[group].sum(0) for group in [*groups, *([w] for w in {*range(300)} - {*flat})]]
        told = np.abs(association(np.stack(left).astype(float), counts.sum(0) / counts.sum())).max(axis=1)
        strongest.append(told.max())
        assert np.mean(told > threshold) < 0.02
    assert np.abs(association(counts.astype(float), counts.sum(0) / counts.sum())).max() > strongest[0] > strongest[1]


def test_a_tokenizers_own_words_stay() -> None:
    counts = row_counts(*rows_and_labels(), vocabulary=7)
    words = {word for group in neutral_groups(PLACES, [counts], threshold=3.0, spared=[1]) for word in group}
    assert words
    assert 1 not in words


def test_two_tasks_are_both_neutral() -> None:
    rows, labels = rows_and_labels()
    other = np.array([int(3 in row) for row in rows])
    counts = [row_counts(rows, given, 7) for given in (labels, other)]
    groups = neutral_groups(PLACES, counts, threshold=3.0)
    for task in counts:
        told = association(np.stack([task[g].sum(0) for g in groups]).astype(float), task.sum(0) / task.sum())
        assert np.abs(told).max() <= 3.0


def test_nothing_to_merge() -> None:
    rows = [[0, 1], [0, 1], [0, 1], [0, 1]]
    assert neutral_groups(PLACES[:2], [row_counts(rows, np.array([0, 1, 0, 1]), 2)], 1.0) == []
    one_sided = row_counts([[0, 1], [0], [0, 1], [0]], np.array([0, 1, 0, 1]), 2)
    assert neutral_groups(PLACES[:2], [one_sided], 1.0) == []  # there is no opposite


def test_a_merged_row_is_the_mean_of_its_words_as_they_are_used() -> None:
    table = torch.tensor([[0.0, 0.0], [2.0, 4.0], [8.0, 8.0]])
    found = merged(table, [[0, 1]], np.array([2.0, 0.0, 5.0]))
    assert found.tolist() == [[0.5, 1.0], [0.5, 1.0], [8.0, 8.0]]
    assert table[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_tied_rows_learn_as_one_parameter(optimizer) -> None:
    """The twin: a table with one row per group, looked up through the group."""
    torch.manual_seed(0)
    group = torch.tensor([0, 1, 1, 2, 1, 3])
    small = nn.Parameter(torch.randn(4, 33, dtype=torch.float64))
    large = nn.Parameter(small.detach()[group].clone())
    tied = TiedRows(large)
    ours, theirs = (optimizer([p], lr=0.1) for p in (large, small))
    for step in range(5):
        words = torch.randint(0, 6, (20,), generator=torch.Generator().manual_seed(step))
        (large[words].sin() * torch.arange(33)).sum().backward()
        tied.gather()
        ours.step()
        tied.spread()
        (small[group[words]].sin() * torch.arange(33)).sum().backward()
        theirs.step()
        ours.zero_grad()
        theirs.zero_grad()
        torch.testing.assert_close(large.detach(), small.detach()[group])
        assert torch.equal(large[1], large[2])
        assert torch.equal(large[1], large[4])


def test_a_table_without_equal_rows_is_left_alone() -> None:
    table = nn.Parameter(torch.randn(5, 3))
    table.sum().backward()
    before, gradient = table.detach().clone(), table.grad.clone()
    tied = TiedRows(table)
    tied.gather()
    tied.spread()
    assert torch.equal(table.detach(), before)
    assert torch.equal(table.grad, gradient)


def test_what_neighbours_tell_is_expected_of_words_never_seen() -> None:
    """The first feature tells the class; half of the words are never seen."""
    random = np.random.default_rng(0)
    table, shares = random.standard_normal((400, 6)), np.array([0.4, 0.6])
    more = np.clip(shares[1] + 0.2 * table[:, 0], 0.02, 0.98)
    seen = random.integers(20, 60, 400) * (np.arange(400) < 200)
    second = random.binomial(seen, more)
    expected = expected_counts(table, np.stack([seen - second, second], axis=1))
    np.testing.assert_allclose(expected.sum(axis=1), EXPECTED)
    assert np.corrcoef(expected[200:, 1], more[200:])[0, 1] > 0.9
    flat = expected_counts(table, np.stack([seen, seen], axis=1))
    np.testing.assert_allclose(flat, EXPECTED / 2, atol=1e-6)
