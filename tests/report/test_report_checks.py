"""A stranger's report must hold together: predictions, labels, scores and curves."""

import base64
import json

import numpy as np
import pytest
from made_reports import made_labels, made_probabilities, predicted_report

from hf_selfdestruct.report.packing import packed, packed_labels
from hf_selfdestruct.report.report import AttackReport

LABELS = made_labels()
PREDICTED = {role: [made_probabilities(LABELS, 1.0, seed) for seed in (i, i + 2)]
             for i, role in enumerate(("hardened", "scratch"))}  # fmt: skip
OTHER = packed(made_probabilities(LABELS, 1.0, 9))


def run(**values):
    return lambda raw: raw["runs"][0].update(values)


def score(**values):
    return lambda raw: raw["runs"][0]["test"].update(values)


def facts(**values):
    return lambda raw: raw["tasks"]["gender"].update(values)


def shifted(raw):
    """One row less, in both."""
    raw["runs"][0]["predictions"] = packed(PREDICTED["hardened"][0][1:])


NANS = base64.b64encode(np.full((200, 2), np.nan, dtype="<f2").tobytes()).decode()
REFUSED = {
    "predictions of another run": (
        run(predictions=OTHER),
        r"runs\[0\].*test accuracy differs from that of the predictions",
    ),
    "an edited accuracy": (score(accuracy=0.5), r"runs\[0\].*test accuracy differs from that of the predictions"),
    "edited labels": (facts(labels=packed_labels(1 - LABELS)), "test accuracy differs from that of the predictions"),
    "predictions of fewer rows": (shifted, r"runs\[0\]\.predictions: 199 rows, but the task has 200"),
    "no labels": (facts(labels=""), r"runs\[0\]\.predictions: 200 rows, but the task has 0"),
    "predictions in no base64": (run(predictions="***"), r"runs\[0\]\.predictions: not an array in base64"),
    "predictions that are no numbers": (run(predictions=NANS), r"runs\[0\]\.predictions: .*must be within"),
    "labels in no base64": (facts(labels="***"), r"gender.*labels: not an array in base64"),
    "half a label": (facts(labels=base64.b64encode(b"abc").decode()), r"gender.*labels"),
    "a label outside num_labels": (
        facts(labels=packed_labels(LABELS * 2)),
        r"gender.*label 2 must be less than num_labels",
    ),
    "labels without num_labels": (lambda raw: raw["tasks"]["gender"].pop("num_labels"), "less than num_labels"),
    "fewer classes": (facts(num_labels=1), "label 1 must be less than num_labels, 1"),
    "more classes": (facts(num_labels=4), r"runs\[0\]\.predictions: 100 rows"),
    "a pruned run with test scores": (run(status="pruned"), r"runs\[0\].*'pruned' cannot have test"),
    "a pruned run without selection": (run(status="pruned", selection=None), r"'pruned' cannot have selection"),
    "predictions without test scores": (run(status="pruned", test=None), r"runs\[0\].*test accuracy differs"),
    "a curve of triples": (run(curve=[[1, 0.5, 3]]), r"runs\[0\]\.curve: expected pairs"),
    "a curve of singles": (run(curve=[[1, 0.5], [2]]), r"runs\[0\]\.curve: expected pairs"),
    "a curve of numbers": (run(curve=[1, 0.5]), r"runs\[0\]\.curve"),
    "a curve of texts": (run(curve=[["1", 0.5]]), r"runs\[0\]\.curve"),
    "no examples": (run(examples=0), r"runs\[0\].*examples must be at least 1"),
    "negative operations": (run(flops=-1.0), r"runs\[0\].*flops at least 0"),
    "negative loss": (score(loss=-0.1), r"runs\[0\]\.test.*losses at least 0"),
    "balanced accuracy above 1": (score(balanced_accuracy=1.1), r"runs\[0\]\.test: scores must be in"),
    "a metric of one's own that is a text": (score(extra={"f1": "high"}), r"runs\[0\]\.test\.extra.*f1"),
    "control a number": (facts(control=1), r"gender.*control"),
    "rows a text": (facts(rows={"test": "200"}), r"gender.*rows"),
    "outside a text": (lambda raw: raw["attacks"].update(x={"outside": "no"}), r"attacks\['x'\]\.outside"),
    "a task named like a path": (lambda raw: raw["tasks"].update({"../x": raw["tasks"]["gender"]}), r"\.\./x"),
}


def examples_of_their_own(raw):
    """Every run again and again, each time with another number of examples."""
    raw["runs"] = [{**one, "examples": n, "predictions": ""} for n in range(1, 202) for one in raw["runs"][:2]]


def attacks_of_their_own(raw):
    raw["runs"] = [{**one, "attack": f"{i}", "predictions": ""} for i in range(101) for one in raw["runs"][:1]]


def further_tasks(raw):
    raw["tasks"] |= {f"t{i}": {"majority": 0.5} for i in range(20)}


REFUSED |= {
    "budgets without end": (examples_of_their_own, "report has 201 numbers of examples; the limit is 200"),
    "attacks without end": (attacks_of_their_own, "report has 101 attacks; the limit is 100"),
    "tasks without end": (further_tasks, r"report\.tasks has 21 tasks; the limit is 20"),
    "a rung above 1": (run(rung=7.5), r"runs\[0\]\.rung: expected a score, .*; got 7\.5"),
    "looks without end": (run(curve=[[1, 0.5]] * 1001), r"runs\[0\]\.curve has 1001 points; the limit is 1000"),
}


def raw_report():
    return json.loads(predicted_report(LABELS, PREDICTED).to_json())


def test_an_honest_report_passes():
    report = predicted_report(LABELS, PREDICTED)
    assert AttackReport.from_json(report.to_json()) == report


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_hold_together_is_refused(name):
    raw, (change, named) = raw_report(), REFUSED[name]
    change(raw)
    with pytest.raises(ValueError, match=named):
        AttackReport.from_json(json.dumps(raw))


def test_a_pruned_run_has_selection_scores_alone():
    raw = raw_report()
    run(status="pruned", test=None, predictions="", chosen=False)(raw)
    report = AttackReport.from_json(json.dumps(raw))
    assert [s.seeds for s in report.summaries("gender")] == [1, 2]
