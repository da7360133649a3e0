"""The interval of a comparison: it knows the textbook's case, and covers where nothing differs."""

import functools

import numpy as np
import pytest
from scipy.stats import t as student

from hf_selfdestruct.report.comparison import interval


def test_constant_values_have_no_interval():
    assert interval(np.full((2, 3, 50), 0.25)) == (0.25, 0.25)


def test_many_rows_of_one_run_have_the_interval_of_the_textbook():
    values = np.random.default_rng(0).normal(1.0, 2.0, size=(1, 1, 3000))
    low, high = interval(values, draws=4000)
    error = values.std(ddof=1) / np.sqrt(3000)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_seeds_alone_have_students_interval(seeds):
    """A spread known from three seeds is not well known."""
    values = np.random.default_rng(seeds).normal(1.0, 2.0, size=(1, seeds, 1)).repeat(50, axis=2)
    low, high = interval(values, draws=4000)
    error = values[0, :, 0].std(ddof=1) / np.sqrt(seeds)
    assert high - low == pytest.approx(2 * student.ppf(0.975, seeds - 1) * error, rel=0.15)


def test_seeds_that_disagree_widen_the_interval_beyond_that_of_rows():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(1, 3, 1000))
    low, high = interval(rows)
    far_low, far_high = interval(rows + np.array([-1.0, 0.0, 1.0])[None, :, None])
    assert far_high - far_low > 10 * (high - low)


ATTACKS, ROWS, RUNS = 20, 400, 300
# How good each attack is, on both models alike: log-odds' worth of knowledge, in deviations of a row's noise.
STRENGTHS = 0.14 + 0.07 * np.random.default_rng(7).normal(size=ATTACKS)


def attacked(generator, difficulty, seeds):
    """One model under every attack: the selection split's score of each, and hits of shape (attacks, seeds, rows)."""
    selection = STRENGTHS + generator.normal(0, 0.03, size=ATTACKS)
    of_seed = STRENGTHS[:, None] + generator.normal(0, 0.07, size=(ATTACKS, seeds))
    hits = difficulty + generator.standard_normal((ATTACKS, seeds, ROWS), dtype=np.float32) < of_seed[..., None]
    return selection, hits.astype(float)


@functools.cache
def simulated(models, seeds):
    """Hardened and scratch alike in distribution: how often the interval misses zero, and the maximum over attacks."""
    misses, maxima = 0, []
    for k in range(RUNS):
        generator = np.random.default_rng([k, models, seeds])
        difficulty = generator.normal(size=ROWS)
        values = []
        for _ in range(models):
            (chosen, hits), (others_choice, other) = (attacked(generator, difficulty, seeds) for _ in range(2))
            values.append(hits[chosen.argmax()] - other[others_choice.argmax()])
            maxima.append((hits.mean(axis=(1, 2)) - other.mean(axis=(1, 2))).max())
        low, high = interval(np.stack(values), draws=500)
        misses += not low <= 0 <= high
    return misses / RUNS, float(np.mean(maxima))


@pytest.mark.parametrize(("models", "seeds"), [(1, 3), (1, 5), (3, 3)])
def test_noise_alone_is_called_noise(models, seeds):
    """The maximum over many noisy cells finds a break where there is none; the interval does so rarely, but does."""
    missed, maximum = simulated(models, seeds)
    assert maximum > 0.03, "the case should tempt"
    assert 0.01 <= missed <= 0.09
