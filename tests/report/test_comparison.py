"""Best against best: contributions that sum to their metric, pairing that cancels, intervals that cover."""

import dataclasses

import numpy as np
import pytest
from made_reports import made_labels, made_probabilities, made_report, predicted_report

from hf_selfdestruct.attacks.metrics import scores
from hf_selfdestruct.report.comparison import Difference, difference
from hf_selfdestruct.report.contributions import METRICS, contributions

LABELS = made_labels()
VALUE = {"accuracy": lambda s: s.accuracy, "auc": lambda s: s.auc, "balanced_accuracy": lambda s: s.balanced_accuracy,
         "loss": lambda s: s.loss}  # fmt: skip


def case(classes, rows=240, seed=0):
    """Labels of unequal frequency, and probabilities that know something of them, with ties."""
    labels = made_labels(rows, classes, seed)
    labels[: rows // 4] = 0
    return labels, made_probabilities(labels, 0.7, seed, classes).round(2).clip(0.01)


def several(skill, seeds=range(3), labels=LABELS):
    return [made_probabilities(labels, skill, seed) for seed in seeds]


# Contributions


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classes", [2, 5])
def test_contributions_mean_is_the_metric(metric, classes):
    labels, probabilities = case(classes)
    found = contributions(labels, probabilities, metric)
    assert found.shape == labels.shape
    assert found.std() > 0
    assert found.mean() == pytest.approx(VALUE[metric](scores(labels, probabilities)), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_contributions_of_a_single_label_are_the_metric_too(metric):
    labels = np.zeros(30, dtype=int)
    probabilities = made_probabilities(labels, 0.5, 0)
    found = contributions(labels, probabilities, metric)
    assert found.mean() == pytest.approx(VALUE[metric](scores(labels, probabilities)), abs=1e-12)


@pytest.mark.parametrize("metric", ["auc", "balanced_accuracy"])
@pytest.mark.parametrize("classes", [2, 5])
def test_standard_error_agrees_with_a_bootstrap_of_rows(metric, classes):
    """Slow obvious twin: draw the rows again, score them again."""
    labels, probabilities = case(classes, rows=400)
    found = contributions(labels, probabilities, metric)
    draws = np.random.default_rng(1).integers(0, len(labels), size=(400, len(labels)))
    again = [VALUE[metric](scores(labels[rows], probabilities[rows])) for rows in draws]
    assert found.std() / np.sqrt(len(labels)) == pytest.approx(np.std(again), rel=0.15)


# Difference


def test_difference_is_that_of_the_scores_it_stands_on():
    report = predicted_report(LABELS, {"hardened": several(2.5), "scratch": several(0.2, range(5, 8))})
    for metric in METRICS:
        means = {
            role: np.mean([VALUE[metric](run.test) for run in report.runs if run.role == role])
            for role in ("hardened", "scratch")
        }
        found = difference(report, "gender", 20, metric=metric)
        assert found.mean == pytest.approx(means["hardened"] - means["scratch"], abs=1e-12)
        assert found.low < found.mean < found.high
        assert (found.seeds, found.models, found.attacks) == (3, 1, ("head only", "head only"))
        assert (found.low > 0) == (metric != "loss"), "far apart: the interval should tell"


@pytest.mark.parametrize("metric", METRICS)
def test_identical_models_differ_by_nothing(metric):
    report = predicted_report(LABELS, {"hardened": several(0.5), "scratch": several(0.5)})
    found = difference(report, "gender", 20, metric=metric)
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_rows_are_paired():
    """Two models that answer alike but for a few rows differ by little more than those rows, not by two samples."""
    other = [p.copy() for p in several(0.5)]
    for one in other:
        one[:4] = one[:4, ::-1]
    paired = difference(predicted_report(LABELS, {"hardened": several(0.5), "scratch": other}), "gender", 20)
    apart = {"hardened": several(0.5), "scratch": several(0.5, range(5, 8))}
    unpaired = difference(predicted_report(LABELS, apart), "gender", 20)
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 3


def test_seeds_are_paired():
    """What a seed does to both roles cancels, in whatever order the runs stand."""
    skills = (0.0, 1.0, 2.0)
    found = {r: [made_probabilities(LABELS, s, seed) for seed, s in enumerate(skills)] for r in ("hardened", "scratch")}
    report = predicted_report(LABELS, found)
    shuffled = dataclasses.replace(report, runs=tuple(reversed(report.runs)))
    assert difference(shuffled, "gender", 20) == difference(report, "gender", 20)
    assert difference(report, "gender", 20).high == 0
    crossed = predicted_report(LABELS, {**found, "scratch": found["scratch"][::-1]})
    assert difference(crossed, "gender", 20).high > 0.1


def test_only_seeds_of_both_count():
    found = {"hardened": several(2.0), "scratch": several(0.0)[:2]}
    assert difference(predicted_report(LABELS, found), "gender", 20).seeds == 2
    same = difference(predicted_report(LABELS, {**found, "hardened": several(2.0)[:2]}), "gender", 20)
    assert difference(predicted_report(LABELS, found), "gender", 20) == same


@pytest.mark.parametrize("metric", METRICS)
def test_swapping_the_roles_flips_the_sign(metric):
    report = predicted_report(LABELS, {"hardened": several(0.6), "scratch": several(0.3, range(5, 8))})
    there = difference(report, "gender", 20, metric=metric)
    back = difference(report, "gender", 20, "scratch", "hardened", metric=metric)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), abs=1e-12)


def test_a_higher_level_is_a_wider_interval():
    report = predicted_report(LABELS, {"hardened": several(0.6), "scratch": several(0.3, range(5, 8))})
    narrow, wide = (difference(report, "gender", 20, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_scratch_again_is_paired_in_the_order_of_its_seeds():
    """Its seeds are others; as many pairs are made all the same."""
    found = {"scratch": several(0.5), "null": several(0.5, range(7, 10))}
    report = predicted_report(LABELS, found)
    assert {run.seed for run in report.runs if run.role == "null"} == {1000, 1001, 1002}
    one = difference(report, "gender", 20, "null", "scratch")
    assert (one.seeds, one.low < one.mean < one.high) == (3, True)
    same = predicted_report(LABELS, {**found, "null": found["scratch"]})
    assert difference(same, "gender", 20, "null", "scratch").high == 0


def test_the_attack_is_chosen_on_selection_not_on_test():
    """A rival that did better on test, and worse on selection, changes nothing."""
    report = predicted_report(LABELS, {"hardened": several(0.6), "scratch": several(0.3)})
    rival = predicted_report(LABELS, {"hardened": several(3.0)}).runs
    for chose_by, attack in ((0.4, "head only"), (0.99, "rival")):
        runs = tuple(
            dataclasses.replace(r, attack="rival", selection=dataclasses.replace(r.selection, accuracy=chose_by))
            for r in rival
        )
        found = difference(dataclasses.replace(report, runs=report.runs + runs), "gender", 20)
        assert found.attacks == (attack, "head only")
        assert (found.mean > 0.2) == (attack == "rival")


def test_several_reports_are_one_result():
    made = [
        predicted_report(LABELS, {"hardened": several(skill, range(i, i + 3)), "scratch": several(0.3, range(50, 53))})
        for i, skill in ((10, 0.3), (20, 0.6), (30, 0.9))
    ]
    apart = [difference(report, "gender", 20) for report in made]
    together = difference(made, "gender", 20)
    assert (together.models, together.seeds) == (3, 3)
    assert together.mean == pytest.approx(np.mean([one.mean for one in apart]))
    assert difference(made[:1], "gender", 20) == apart[0]


def test_what_was_not_measured_is_none():
    found = {"hardened": several(0.6), "scratch": several(0.3)}
    report = predicted_report(LABELS, found)
    assert difference(report, "gender", 7) is None
    assert difference(report, "gender", 20, "undefended") is None
    assert difference(report, "gender", 20, "null", "scratch") is None
    assert difference(made_report(), "gender", 20) is None, "no predictions were kept"
    assert difference([report, predicted_report(LABELS, {"hardened": several(0.6)})], "gender", 20) is None
    assert difference(report, "gender", 20) is not None


def test_different_test_rows_are_refused():
    other = made_labels(seed=1)
    reports = [
        predicted_report(labels, {r: several(0.5, labels=labels) for r in ("hardened", "scratch")})
        for labels in (LABELS, other)
    ]
    with pytest.raises(ValueError, match=r"'gender'.*different test rows"):
        difference(reports, "gender", 20)


def test_unknown_metric_is_refused_by_name():
    with pytest.raises(ValueError, match="accuracy, auc, balanced_accuracy, loss; got 'f1'"):
        difference(made_report(), "gender", 20, metric="f1")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.012, -0.004, 0.028), "+.012 [-.004, +.028]"),
        ((0.0, 0.0, 0.0), "+.000 [+.000, +.000]"),
        ((-10.5, -20.25, 1.5), "-10.500 [-20.250, +1.500]"),
    ],
)
def test_a_difference_reads_as_it_is_printed(values, text):
    assert str(Difference(20, ("a", "b"), *values, 3, 1)) == text
