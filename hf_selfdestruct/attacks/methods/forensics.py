"""Forensics of the weights: what a defence did to them shows where to look.

Words that a defence merged have equal rows in the embedding table. Nobody else makes rows equal: the table itself lists
the words that reveal the blocked task, and a classifier of those words alone needs no other feature of the model.

A spectrum that a few directions dominate shows that a defence has made the others small: see ``low_ranks``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ..attack import Attack, Outcome, Trial
from ..data import Split
from ..target import Target
from .features import features_of
from .probes import fitted
from .references import classified, single_words
from .step_options import embeddings
from .tamper import NotApplicable

NEARLY = 1e-3  # distance of two rows, relative to their norm: what half precision and a little noise change
LOW = 0.5  # effective rank as a share of the width; layers of MiniLM have .64 or more


@dataclass(frozen=True)
class TiedWords(Attack):
    """Logistic regression on those words of the input alone whose embedding (nearly) equals another's.

    Where no two rows of the embedding table are equal it always answers with the rates of the labels. What it found
    includes effective ranks that are low, see :func:`low_ranks`.

    Args:
        strengths: Inverse regularisation, chosen on the selection split.
        name: Its name in the report.

    Example:
        ```python
        Entry(TiedWords(), (20, 100, None))
        ```
    """

    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    name: str = "tied words"
    refits = True

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{"strength": value} for value in self.strengths]

    def run(self, trial: Trial) -> Outcome:  # noqa: D102
        data = trial.data
        few = trial.rows()
        if "input_ids" not in few.features[0]:
            raise NotApplicable("tied words: the model reads no words.")
        key = ("tied words", trial.target.folder, trial.target.random, trial.target.identity().sha256)
        if key not in data.memory:
            words = {word for row in data.train.features for word in row["input_ids"]}
            data.memory[key] = tied_words(trial.target, words), low_ranks(trial)
        tied, ranks = data.memory[key]

        def read(split: Split) -> list[list[int]]:
            return [[word for word in row["input_ids"] if word in tied] for row in split.features]

        if any(read(few)):
            words = TfidfVectorizer(analyzer=single_words, sublinear_tf=True)
            made = make_pipeline(words, LogisticRegression(C=trial.settings["strength"], max_iter=1000))
            probe = fitted(made, read(few), few.labels)
        else:
            probe = DummyClassifier().fit(read(few), few.labels)
        found = {"tied words": len(tied), **({"effective ranks": ranks} if ranks else {})}
        return classified(probe, data, read, desired_drop=0.0, found=found)  # weights are only read


def tied_words(target: Target, words: Iterable[int]) -> set[int]:
    """Numbers of the words, among some, whose embedding has a (nearly) equal one among them.

    Args:
        target: The model.
        words: Word numbers, such as those of the attacker's rows.
    """
    known = np.array(sorted(words))
    table: Any = target.load(2, 0).get_input_embeddings()
    rows = table.weight.detach().double().numpy()[known]
    squares = (rows**2).sum(axis=1)
    tied = np.zeros(len(known), dtype=bool)
    for start in range(0, len(known), 1024):
        part = slice(start, start + 1024)
        apart = squares[part, None] + squares[None] - 2 * rows[part] @ rows.T
        apart[np.arange(len(apart)), np.arange(start, start + len(apart))] = np.inf
        tied[part] = apart.min(axis=1) <= NEARLY**2 * np.maximum(squares[part], 1e-12)
    return {int(word) for word in known[tied]}


def low_ranks(trial: Trial) -> str:
    """Effective ranks of the embedding table and of layers that are far below the width; empty where there are none.

    Args:
        trial: The model, and the rows whose features are read; a matrix of too few rows is left out.
    """
    found = {} if (table := embeddings(trial.target.load(2, 0))) is None else {"embeddings": table.detach().numpy()}
    features = features_of(trial.target, trial.data, trial.seed)
    found |= {f"layer {i}": features.cells["train"][i, "mean"] for i in range(features.layers + 1)}
    ranks = {name: effective_rank(rows) for name, rows in found.items() if len(rows) >= 2 * rows.shape[1]}
    low = {name: rank for name, rank in ranks.items() if rank < LOW * found[name].shape[1]}
    return ", ".join(f"{name} {rank:.0f} of {found[name].shape[1]}" for name, rank in low.items())


def effective_rank(rows: np.ndarray) -> float:
    """The exponential of the entropy of the singular values, as shares of their sum (Roy and Vetterli, 2007).

    Args:
        rows: A matrix; its columns are standardised first, and those that do not vary are left out.

    Example:
        >>> round(effective_rank(np.array([[1.0, 2.0], [3.0, 6.0], [-1.0, -2.0]])), 6)
        1.0
    """
    varied = rows[:, np.ptp(rows, axis=0) > 0].astype(np.float64)
    if not (np.isfinite(varied).all() and varied.size):
        return 0.0
    sizes = np.sqrt(np.linalg.eigvalsh(np.atleast_2d(np.corrcoef(varied, rowvar=False))).clip(1e-30))
    shares = sizes / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
