"""Predictions on record: what is unpacked is what was scored, and nothing else passes for it."""

import base64

import numpy as np
import pytest
from made_reports import made_labels, made_probabilities

from hf_selfdestruct.report.packing import packed, packed_labels, rounded, unpacked, unpacked_labels

EXTREMES = np.array([[0.0, 1.0], [1.0, 0.0], [1e-300, 1.0], [0.5, 0.5], [1e-7, 1 - 1e-7]])


def text_of(logs):
    return base64.b64encode(np.asarray(logs, dtype="<f2").tobytes()).decode()


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("skill", [0.0, 2.0, 30.0])
def test_round_trip_gives_what_was_rounded(classes, skill):
    labels = made_labels(300, classes)
    given = made_probabilities(labels, skill, 0, classes)
    kept = rounded(given)
    assert np.array_equal(unpacked(packed(given), classes), kept)
    assert kept.sum(axis=1) == pytest.approx(1, abs=1e-12)
    # Half precision holds logarithms to a few thousandths of themselves.
    assert np.log(kept) == pytest.approx(np.log(given), rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("classes", [2, 3, 5, 18])
@pytest.mark.parametrize("skill", [0.0, 1.0, 30.0])
def test_rounding_again_changes_nothing(classes, skill):
    """Scores computed from the record are those beside it."""
    kept = rounded(made_probabilities(made_labels(300, classes), skill, 0, classes))
    assert packed(rounded(kept)) == packed(kept)
    assert rounded(kept) == pytest.approx(kept, rel=1e-12)


def test_certainty_is_kept_finite():
    kept = unpacked(packed(EXTREMES), 2)
    assert np.array_equal(kept, rounded(EXTREMES))
    assert ((kept > 0) & (kept <= 1)).all()
    assert np.isfinite(np.log(kept)).all()
    assert kept == pytest.approx(EXTREMES, abs=1e-6)
    assert kept[:, 0][[0, 2, 4, 3, 1]].tolist() == sorted(kept[:, 0]), "the order of the rows"


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_nearly_equal_classes_keep_their_order(gap):
    """A model at chance answers a hair beside one half: AUC and argmax live on that hair."""
    second = 0.5 + gap * np.arange(-8, 9)
    given = np.stack([1 - second, second], axis=1)
    kept = unpacked(packed(given), 2)
    assert np.array_equal(kept.argmax(axis=1), given.argmax(axis=1))
    assert (np.diff(kept[:, 1]) > 0).all()
    assert kept[:, 1] - 0.5 == pytest.approx(second - 0.5, rel=0.05)


HOSTILE = {
    "no base64": ("***", "base64"),
    "not ASCII": ("é" * 4, "base64"),
    "half a number": (base64.b64encode(b"abc").decode(), "base64|buffer"),
    "half a row": (text_of([0.1, -0.1, 0.2]), "reshape"),
    "not a number": (text_of([np.nan, 0.0]), "must be within"),
    "infinite": (text_of([np.inf, 0.0]), "must be within"),
    "too large": (text_of([65504, 0.0]), "must be within"),
    "too small": (text_of([0.0, -65504]), "must be within"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_array_of_predictions_is_refused(name):
    text, named = HOSTILE[name]
    with pytest.raises(ValueError, match=named):
        unpacked(text, 2)


@pytest.mark.parametrize("classes", [0, -1, 10**18])
def test_no_number_of_classes_is_too_strange_to_be_refused(classes):
    with pytest.raises(ValueError, match=r"."):
        unpacked(packed(EXTREMES), classes)


def test_labels_round_trip():
    labels = np.random.default_rng(0).integers(0, 2**16, size=500)
    assert np.array_equal(unpacked_labels(packed_labels(labels)), labels)
    assert unpacked_labels("").shape == (0,)
    with pytest.raises(ValueError, match="base64"):
        unpacked_labels("*")
