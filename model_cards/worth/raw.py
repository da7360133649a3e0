"""Attacks without any weights, made strong: words, letters, and how two texts overlap."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_selfdestruct.attacks.methods.probes import fitted, spread

STRENGTHS = (0.3, 3.0, 30.0)
SVD = 100  # dimensions of latent semantic analysis of the attacker's own texts
ANALYSERS: dict[str, dict[str, Any]] = {
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 5), "sublinear_tf": True},
    "words and pairs": {"ngram_range": (1, 2), "sublinear_tf": True, "token_pattern": r"\w+|[^\w\s]"},
    "stems": {"preprocessor": lambda text: re.sub(r"\b(\w{5})\w+", r"\1", text.lower()), "sublinear_tf": True},
}
Texts = dict[str, list[str]]
Matrices = dict[str, dict[str, Any]]  # by name of the features, by split


def raw_features(texts: Texts, others: Texts | None) -> Matrices:
    """Features without weights; words are weighed by all texts the attacker has, with a label or not.

    Args:
        texts: By split, the texts.
        others: By split, the second texts, if a row is a pair.
    """
    if others is None:
        known = [*texts["train"], *texts["selection"]]
        fitted_to = {name: TfidfVectorizer(**options).fit(known) for name, options in ANALYSERS.items()}
        return {name: {s: one.transform(of) for s, of in texts.items()} for name, one in fitted_to.items()}
    known = [text for part in (texts, others) for s in ("train", "selection") for text in part[s]]
    made: Matrices = {}
    for name, make in (("overlap", overlap), ("products of words", products), ("words of each", sides)):
        first, second = ([text for of in part.values() for text in of] for part in (texts, others))
        values, ends = make(first, second, known), np.cumsum([0, *(len(of) for of in texts.values())])
        made[name] = {s: values[ends[i] : ends[i + 1]] for i, s in enumerate(texts)}
    scaled = {s: StandardScaler().fit(made["overlap"]["train"]).transform(of) for s, of in made["overlap"].items()}
    made["overlap and products"] = {
        s: sparse.hstack([sparse.csr_matrix(scaled[s] / 10), of]).tocsr() for s, of in made["products of words"].items()
    }
    return made


@dataclass(frozen=True)
class RawProbe:
    """A classifier of one kind of features.

    Attributes:
        name: Of the features.
        features: By split.
        classifier: Of scikit-learn.
    """

    name: str
    features: dict[str, Any]
    classifier: Any

    def answers(self, labels: np.ndarray, few: Sequence[int], classes: int) -> dict[str, np.ndarray]:
        """Answers to the selection and the test rows.

        Args:
            labels: Of the training rows.
            few: Numbers of the training rows that may be used.
            classes: Number of classes.
        """
        train = self.features["train"][few]
        others = [self.features[split] for split in ("selection", "test")]
        if sparse.issparse(train):
            train, others = rotated(train, others)
        done = fitted(self.classifier, train, labels[few])
        return {s: spread(done, of, classes) for s, of in zip(("selection", "test"), others, strict=True)}


def rotated(train: Any, others: Sequence[Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sparse rows in coordinates of the space that the training rows span: the same inner products, far fewer columns.

    A classifier with an L2 penalty gives the same answers there.

    Args:
        train: Training rows.
        others: Further rows, by split.
    """
    values, vectors = np.linalg.eigh((train @ train.T).toarray())
    kept = values > values.max() * 1e-10
    axes, lengths = vectors[:, kept], np.sqrt(values[kept])
    return axes * lengths, [(of @ train.T).toarray() @ axes / lengths for of in others]


def raw_probes(features: Matrices) -> list[RawProbe]:
    """Every raw attack: each kind of features under each classifier."""
    return [
        RawProbe(name, of, probe)
        for name, of in features.items()
        for probe in _classifiers(dense=isinstance(of["train"], np.ndarray))
    ]


def _classifiers(*, dense: bool) -> list[Any]:
    regressions = [LogisticRegression(C=c, max_iter=300) for c in STRENGTHS]
    if not dense:
        return regressions
    trees = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=6, min_samples_leaf=8, early_stopping=False, random_state=0
    )
    return [*(make_pipeline(StandardScaler(), one) for one in regressions), trees]


def overlap(first: list[str], second: list[str], known: list[str]) -> np.ndarray:
    """How two texts overlap, shape ``(rows, features)``: cosines, shared words and their rarity, lengths."""
    columns = []
    for options in ANALYSERS.values():
        vectorizer = TfidfVectorizer(**options).fit(known)
        a, b = vectorizer.transform(first), vectorizer.transform(second)
        columns.append(np.asarray(a.multiply(b).sum(axis=1)).ravel())
        reduced = TruncatedSVD(min(SVD, a.shape[1] - 1), random_state=0).fit(vectorizer.transform(known))
        x, y = reduced.transform(a), reduced.transform(b)
        columns.append((x * y).sum(axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1) + 1e-9))
    words = TfidfVectorizer(token_pattern=r"\w+").fit(known)
    rarity = {word: words.idf_[i] for word, i in words.vocabulary_.items()}
    most = float(words.idf_.max())
    columns += [*zip(*(_shared(a, b, rarity, most) for a, b in zip(first, second, strict=True)), strict=True)]
    return np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)


def _shared(first: str, second: str, rarity: dict[str, float], most: float) -> tuple[float, ...]:
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
    caps_a, caps_b = (set(re.findall(r"(?<!^)\b[A-Z]\w+", text)) for text in (first, second))
    numbers_a, numbers_b = (set(re.findall(r"\d+", text)) for text in (first, second))
    common = a & b
    years = [int(y) for text in (first, second) for y in re.findall(r"\b1\d\d\d\b|\b20\d\d\b", text)[:1]]
    return (
        len(common),
        len(common) / max(1, len(a | b)),
        sum(rarity.get(word, most) for word in common),
        max((rarity.get(word, most) for word in common), default=0.0),
        len(caps_a & caps_b),
        len(numbers_a & numbers_b),
        abs(years[0] - years[1]) if len(years) == 2 else -1.0,
        len(first),
        len(second),
        len(first) - len(second),
    )


def products(first: list[str], second: list[str], known: list[str]) -> Any:
    """TF-IDF vectors of two texts: ``|a - b|`` and ``a * b``."""
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(known)
    a, b = vectorizer.transform(first), vectorizer.transform(second)
    return sparse.hstack([abs(a - b), a.multiply(b)]).tocsr()


def sides(first: list[str], second: list[str], known: list[str]) -> Any:
    """TF-IDF vectors of two texts, each in columns of its own."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit(known)
    return sparse.hstack([vectorizer.transform(first), vectorizer.transform(second)]).tocsr()
