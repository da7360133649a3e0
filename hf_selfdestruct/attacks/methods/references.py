"""Reference points that put an attack's score in scale: the raw input, scratch with more data, scratch again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB, GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ...report.packing import rounded
from ..attack import Attack, Outcome, Trial
from ..data import AttackData, Split
from ..metrics import scores
from .fine_tuning import FullFineTuning
from .pair_knowledge import Likeness, reader
from .pair_words import Overlap, of_pairs, two_texts
from .probes import fitted, spread

AGAIN = 1000  # first seed of scratch attacked again


@dataclass(frozen=True)
class RawInput(Attack):
    """A classifier of the input itself, its tokens or its pixels: what no weights can hide.

    Three classifiers compete on the selection split, each at every strength: logistic regression (``linear``; of tokens
    on the TF-IDF of tokens and pairs of neighbours, of pixels standardised), the same on simpler features (``plain``;
    the TF-IDF of tokens alone, pixels as they are) and ``naive Bayes`` (complement naive Bayes on which tokens occur,
    Gaussian on pixels), which needs fewer examples. Of pairs of texts the regressions read what their words share, see
    :class:`.pair_words.Overlap`, and two more read what anybody knows of English, see
    :class:`.pair_knowledge.Likeness`.

    Args:
        strengths: Inverse regularisation or smoothing.
        name: Its name in the report.
        pairs: Whether rows are pairs of texts.
    """

    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    name: str = "raw input"
    pairs: bool = False
    assumes = "labelled examples of the blocked task, and no weights at all"
    refits = True

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        names = (*RAW_CLASSIFIERS, *(KNOWING_CLASSIFIERS if self.pairs else ()))
        return [{"classifier": name, "strength": value} for name in names for value in self.strengths]

    def run(self, trial: Trial) -> Outcome:  # noqa: D102
        data = trial.data
        few = trial.rows()
        name, strength = trial.settings["classifier"], trial.settings["strength"]
        if name in KNOWING_CLASSIFIERS:
            made, read = KNOWING_CLASSIFIERS[name](strength), reader(data)
        else:
            kind = "pairs" if of_pairs(few) else "tokens" if "input_ids" in few.features[0] else "pixels"
            made, read = RAW_CLASSIFIERS[name][kind](strength), raw_input
        return classified(fitted(make_pipeline(*made), read(few), few.labels), data, read)


def classified(probe: Any, data: AttackData, read: Callable[[Split], Any], **known: Any) -> Outcome:
    """What a fitted classifier reaches, without any step.

    Args:
        probe: What :func:`.probes.fitted` gave.
        data: What the attacker has.
        read: Makes the classifier's features of a split.
        known: Further fields of the outcome.
    """
    selection, test = (rounded(spread(probe, read(split), data.num_labels)) for split in (data.selection, data.test))
    return Outcome(
        scores(data.selection.labels, selection, data.metrics),
        scores(data.test.labels, test, data.metrics),
        0,
        probabilities=test,
        selected=selection,
        hits=(selection.argmax(axis=1) == data.selection.labels)[None],
        **known,
    )


def raw_input(split: Split) -> Any:
    """Rows as they are: lists of tokens, pairs of such lists, or an array of pixels."""
    row = split.features[0]
    if of_pairs(split):
        return [two_texts(one) for one in split.features]
    if "input_ids" in row:
        return [list(one["input_ids"]) for one in split.features]
    name = next(key for key in row if key != "labels")
    return np.stack([np.asarray(one[name], dtype=np.float64).ravel() for one in split.features])


def single_words(tokens: list[int]) -> list[str]:
    """Tokens alone."""
    return [str(token) for token in tokens]


def words_of(tokens: list[int]) -> list[str]:
    """Tokens and pairs of neighbours."""
    return [str(t) for t in tokens] + [f"{a} {b}" for a, b in itertools.pairwise(tokens)]


def words_of_both(pair: tuple[list[int], list[int]]) -> list[str]:
    """Tokens of two texts, each with the number of its text."""
    return [f"{i} {token}" for i, tokens in enumerate(pair) for token in tokens]


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=1000)


# By name, and by what the input is made of: the steps of a scikit-learn pipeline, from a strength.
RAW_CLASSIFIERS: dict[str, dict[str, Callable[[float], tuple[Any, ...]]]] = {
    "linear": {
        "pairs": lambda c: (Overlap(products=True), _regression(c)),
        "tokens": lambda c: (TfidfVectorizer(analyzer=words_of, sublinear_tf=True), _regression(c)),
        "pixels": lambda c: (StandardScaler(), _regression(c)),
    },
    "plain": {
        "pairs": lambda c: (Overlap(), _regression(c)),
        "tokens": lambda c: (TfidfVectorizer(analyzer=single_words, sublinear_tf=True), _regression(c)),
        "pixels": lambda c: (_regression(c),),
    },
    "naive Bayes": {
        "pairs": lambda c: (CountVectorizer(analyzer=words_of_both, binary=True), ComplementNB(alpha=1 / c)),
        "tokens": lambda c: (CountVectorizer(analyzer=single_words, binary=True), ComplementNB(alpha=1 / c)),
        "pixels": lambda c: (StandardScaler(), GaussianNB(var_smoothing=0.1 / c)),
    },
}


# Of pairs of texts alone, likewise: of one number for a few examples, and of many.
KNOWING_CLASSIFIERS: dict[str, Callable[[float], tuple[Any, ...]]] = {
    "likeness": lambda c: (Likeness(summed=True), LogisticRegression(C=c / 100, class_weight="balanced")),
    "kinds of likeness": lambda c: (Likeness(), StandardScaler(), _regression(c / 100)),
}


def with_more(data: AttackData) -> AttackData:
    """The attacker's data with all further labelled rows to train on.

    Raises:
        ValueError: They were not asked for.
    """
    if data.more is None:
        raise ValueError("no further rows; give AttackData.of(..., more=True).")
    return replace(data, train=data.more, memory={})


MORE = FullFineTuning("full fine-tuning, more data", learning_rates=(3e-4,), steps=(600,), looks=4)
