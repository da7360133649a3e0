"""Reference points that put an attack's score in scale: the raw input, scratch with more data, scratch again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ...report.packing import rounded
from ..attack import Attack, Outcome, Trial
from ..data import AttackData, Split
from ..metrics import scores
from .fine_tuning import FullFineTuning
from .probes import fitted, spread

AGAIN = 1000  # first seed of scratch attacked again


@dataclass(frozen=True)
class RawInput(Attack):
    """Logistic regression on the input itself, TF-IDF of its token pairs or its pixels: what no weights can hide.

    Args:
        strengths: Inverse regularisation, chosen on the selection split.
        name: Its name in the report.
    """

    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    name: str = "raw input"
    assumes = "labelled examples of the blocked task, and no weights at all"

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{"strength": value} for value in self.strengths]

    def run(self, trial: Trial) -> Outcome:  # noqa: D102
        data = trial.data
        few = data.train.take(trial.few())
        text = "input_ids" in few.features[0]
        first = TfidfVectorizer(analyzer=words_of, sublinear_tf=True) if text else StandardScaler()
        model = make_pipeline(first, LogisticRegression(C=trial.settings["strength"], max_iter=1000))
        probe = fitted(model, raw_input(few), few.labels)
        selection, test = (
            rounded(spread(probe, raw_input(split), data.num_labels)) for split in (data.selection, data.test)
        )
        return Outcome(
            scores(data.selection.labels, selection, data.metrics),
            scores(data.test.labels, test, data.metrics),
            0,
            probabilities=test,
            selected=selection,
            hits=(selection.argmax(axis=1) == data.selection.labels)[None],
        )


def raw_input(split: Split) -> Any:
    """Rows as they are: lists of tokens, or an array of pixels."""
    row = split.features[0]
    if "input_ids" in row:
        return [list(one["input_ids"]) for one in split.features]
    name = next(key for key in row if key != "labels")
    return np.stack([np.asarray(one[name], dtype=np.float64).ravel() for one in split.features])


def words_of(tokens: list[int]) -> list[str]:
    """Tokens and pairs of neighbours."""
    return [str(t) for t in tokens] + [f"{a} {b}" for a, b in itertools.pairwise(tokens)]


def with_more(data: AttackData) -> AttackData:
    """The attacker's data with all further labelled rows to train on.

    Raises:
        ValueError: They were not asked for.
    """
    if data.more is None:
        raise ValueError("no further rows; give AttackData.of(..., more=True).")
    return replace(data, train=data.more, memory={})


MORE = FullFineTuning("full fine-tuning, more data", learning_rates=(3e-4,), steps=(600,), looks=4)
