"""Scores: those of scikit-learn, by every road that leads to them."""

import datasets
import evaluate
import numpy as np
import pytest
from made_reports import made_labels, made_probabilities
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from hf_selfdestruct.attacks.metrics import Accuracy, BalancedAccuracy, MacroAUC, check_metrics, scores
from hf_selfdestruct.report.contributions import contributions
from hf_selfdestruct.report.packing import rounded
from hf_selfdestruct.tasks.classification import macro_auc


@pytest.fixture(params=[2, 5], ids=["2 classes", "5 classes"])
def case(request):
    """Labels of unequal frequency, and probabilities that know something of them."""
    classes = request.param
    labels = made_labels(240, classes)
    labels[:60] = 0
    return labels, made_probabilities(labels, 0.7, 0, classes)


def sklearn_auc(labels, probabilities):
    if probabilities.shape[1] == 2:
        return roc_auc_score(labels, probabilities[:, 1])
    return roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")


def test_scores_are_those_of_scikit_learn(case):
    labels, probabilities = case
    found, predicted = scores(labels, probabilities), probabilities.argmax(axis=1)
    assert found.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert found.auc == pytest.approx(sklearn_auc(labels, probabilities))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found.loss == pytest.approx(log_loss(labels, probabilities))
    assert found.extra == {}
    assert len({round(v, 3) for v in (found.accuracy, found.auc, found.balanced_accuracy)}) == 3, "the case should tell"


def test_metrics_of_this_package_compute_the_same(case):
    labels, probabilities = case
    found, predicted = scores(labels, probabilities), probabilities.argmax(axis=1)
    assert Accuracy().compute(predictions=predicted, references=labels) == {"accuracy": found.accuracy}
    balanced = BalancedAccuracy().compute(predictions=predicted, references=labels)
    assert balanced == {"balanced_accuracy": found.balanced_accuracy}
    auc = MacroAUC().compute(prediction_scores=probabilities.tolist(), references=labels)
    assert auc == {"macro_auc": pytest.approx(found.auc)}


def test_metrics_of_this_package_can_be_asked_for(case):
    """As anybody's metric: they find in ``scores`` what they need."""
    labels, probabilities = case
    found = scores(labels, probabilities, {"auc again": MacroAUC(), "right": Accuracy()})
    assert found.extra == {"auc again": pytest.approx(found.auc), "right": found.accuracy}


@pytest.mark.parametrize("missing", [0, 1])
def test_classes_that_do_not_occur_count_for_nothing(missing):
    """A test split of one class alone ranks nothing; of three classes, two may occur."""
    labels = np.full(30, 1 - missing)
    found = scores(labels, made_probabilities(labels, 1.0, 0))
    assert (found.auc, found.balanced_accuracy) == (0.5, found.accuracy)
    labels = made_labels(60, 2) + 1
    probabilities = made_probabilities(labels, 1.0, 0, 3)
    by_hand = [roc_auc_score(labels == c, probabilities[:, c]) for c in (1, 2)]
    assert scores(labels, probabilities).auc == pytest.approx(np.mean(by_hand))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_no_result(value):
    probabilities = np.full((4, 2), 0.5)
    probabilities[2, 1] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        scores(np.array([0, 1, 0, 1]), probabilities)


# Metrics of the user's own


class Own(evaluate.Metric):
    """Whatever a function makes of predictions and references."""

    def __init__(self, function):
        self.function = function
        super().__init__()

    def _info(self):
        number = datasets.Value("int64")
        features = datasets.Features({"predictions": number, "references": number})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return self.function(predictions, references)


def test_a_metric_of_your_own_is_computed(case):
    labels, probabilities = case
    predicted = probabilities.argmax(axis=1)
    metrics = {
        "f1": Own(lambda predictions, references: {"f1": f1_score(references, predictions, average="macro")}),
        "rows": Own(lambda predictions, _: {"n": len(predictions)}),
    }
    found = scores(labels, probabilities, metrics).extra
    assert found == {"f1": pytest.approx(f1_score(labels, predicted, average="macro")), "rows": len(labels)}
    assert all(type(value) is float for value in found.values()), "a report holds plain numbers"


@pytest.mark.parametrize(
    "wrong",
    [{}, {"a": 1.0, "b": 2.0}, {"a": "high"}, {"a": [0.5]}, {"a": None}, {"a": np.array([0.5, 0.5])}],
    ids=str,
)
def test_a_metric_that_returns_no_number_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match="'mine' must return one number"):
        scores(np.array([0, 1]), np.full((2, 2), 0.5), {"mine": Own(lambda *_: wrong)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_undefined_metric_is_recorded_so_unless_it_always_is(value):
    """A correlation with predictions that are all the same is undefined: what resists is often such."""
    labels, constant = np.array([0, 1, 1]), np.full((3, 2), 0.5)
    metrics = {
        "agreement": Own(lambda predictions, _: {"r": 1.0 if len({*predictions}) > 1 else value}),
        "rows": Own(lambda predictions, _: {"n": len(predictions)}),
    }
    check_metrics(metrics, labels, 2)
    assert scores(labels, constant, metrics).extra == {"agreement": None, "rows": 3.0}
    with pytest.raises(ValueError, match="'mine' gives no finite number even where every row is labelled right"):
        check_metrics({"mine": Own(lambda *_: {"a": value})}, labels, 2)


def test_a_class_that_was_never_seen_is_not_ranked():
    """Its probability is 0 in every row; what rounding leaves of it depends on the other classes, and says nothing."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 200)
    given = generator.dirichlet(np.ones(4), 200)
    given[:, 3] = 0.0
    given /= given.sum(axis=1, keepdims=True)
    kept = rounded(given)
    assert macro_auc(labels, given) == pytest.approx(macro_auc(labels, kept), abs=1e-3)
    assert macro_auc(labels, kept) == pytest.approx(contributions(labels, kept, "auc").mean(), abs=1e-12)
