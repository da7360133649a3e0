"""Closed-form erasure: no linear probe is left with anything, and nothing more than needed is changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression

from hf_selfdestruct.erasure.leace import directions, leace


def rows_of(classes: int, seed: int = 0, rows: int = 400, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features, some of which tell the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    return (torch.randn(rows, width, generator=generator, dtype=torch.float64) + centres[labels]) @ mixing, labels


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_no_linear_probe_beats_the_majority(classes: int) -> None:
    features, labels = rows_of(classes)
    majority = np.bincount(labels).max() / len(labels)

    def score(rows: torch.Tensor) -> float:
        return LogisticRegression(C=1e6, max_iter=2000).fit(rows, labels).score(rows, labels)

    assert score(features) > majority + 0.2
    erased = leace([(features, labels)])(features)
    means = torch.stack([erased[labels == c].mean(0) for c in range(classes)])
    torch.testing.assert_close(means, means[:1].expand_as(means), atol=1e-8, rtol=0)
    assert score(erased) <= majority + 0.02


def test_it_is_the_smallest_change_of_its_kind() -> None:
    """Theorem 4.2: among affine maps that equalise the classes' means, least squared distance in every norm."""
    features, labels = rows_of(2)
    erased = leace([(features, labels)])(features)
    hot = torch.nn.functional.one_hot(labels).double().numpy()
    # Another guarded map: take the part of the features that a regression on the labels predicts away along the
    # direction of the difference of the means, an orthogonal projection.
    away = (features[labels == 1].mean(0) - features[labels == 0].mean(0))[:, None]
    away = away / away.norm()
    projected = features - (features - features.mean(0)) @ away @ away.T
    left = LinearRegression().fit(projected.numpy(), hot).score(projected.numpy(), hot)
    assert left < 1e-9  # it is guarded too
    assert (erased - features).square().sum() < (projected - features).square().sum()


def test_rank_is_below_the_number_of_classes_and_twice_is_once() -> None:
    features, labels = rows_of(5)
    erasure = leace([(features, labels)])
    assert erasure.left.shape == (12, 4)
    once = erasure(features)
    torch.testing.assert_close(erasure(once), once)


def test_several_tasks_at_once() -> None:
    features, first = rows_of(2)
    second = (features[:, 0] > features[:, 0].median()).long()
    erased = leace([(features, first), (features, second)])(features)
    for labels in (first, second):
        torch.testing.assert_close(erased[labels == 0].mean(0), erased[labels == 1].mean(0), atol=1e-8, rtol=0)


def test_a_mean_of_erased_states_is_the_erased_mean() -> None:
    features, labels = rows_of(2)
    erasure, states = leace([(features, labels)]), torch.randn(3, 5, 12, dtype=torch.float32)
    torch.testing.assert_close(erasure(states).mean(1), erasure(states.mean(1)))
    assert erasure(states).dtype == torch.float32


@pytest.mark.parametrize("flaw", ["a constant feature", "one class", "fewer rows than features"])
def test_degenerate_rows(flaw: str) -> None:
    features, labels = rows_of(2)
    if flaw == "a constant feature":
        features[:, 3] = 7.0
    if flaw == "one class":
        labels = torch.zeros_like(labels)
    if flaw == "fewer rows than features":
        features, labels = features[:8], labels[:8]
    erased = leace([(features, labels)])(features)
    assert erased.isfinite().all()
    if flaw == "one class":
        torch.testing.assert_close(erased, features)
    else:
        torch.testing.assert_close(erased[labels == 0].mean(0), erased[labels == 1].mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("classes", "count"), [(2, 6), (4, 9)])
def test_directions_tell_the_classes_and_without_them_nothing_does(classes: int, count: int) -> None:
    features, labels = rows_of(classes, rows=2000)
    found = directions(features, labels, count)
    torch.testing.assert_close(found.T @ found, torch.eye(count, dtype=torch.float64))
    majority = np.bincount(labels).max() / len(labels)

    def score(rows: torch.Tensor) -> float:
        return LogisticRegression(max_iter=2000).fit(rows, labels).score(rows, labels)

    first = found[:, : classes - 1]
    assert score(features @ first) > score(features) - 0.1  # the first ones tell nearly all
    assert score(features - features @ found @ found.T) < majority + 0.3 * (score(features) - majority)


def test_directions_end_where_nothing_is_left_to_tell() -> None:
    features, labels = rows_of(2)
    assert directions(features, torch.zeros_like(labels), 3).shape == (12, 0)
    assert directions(features, labels, 50).shape[1] <= 12
    assert directions(features, labels, 0).shape == (12, 0)
