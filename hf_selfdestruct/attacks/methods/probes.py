"""Probes: scikit-learn classifiers on frozen features of every layer. What they read is not blocked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ...report.packing import rounded
from ...tasks.classification import macro_auc
from ..attack import Attack, Outcome, Trial
from ..metrics import scores
from .features import Cell, Features, features_of
from .tamper import Tamper

# Each from a strength (inverse regularisation, neighbours or iterations) and the number of training rows.
CLASSIFIERS: dict[str, Callable[[float, int], Any]] = {
    "linear": lambda strength, rows: LogisticRegression(C=strength, max_iter=1000),
    "closed form": lambda strength, rows: LinearDiscriminantAnalysis(),
    "kernel": lambda strength, rows: make_pipeline(
        Nystroem(n_components=min(300, rows), random_state=0), LogisticRegression(C=strength, max_iter=1000)
    ),
    "neighbours": lambda strength, rows: KNeighborsClassifier(min(int(strength), rows), weights="distance"),
    "boosted trees": lambda strength, rows: HistGradientBoostingClassifier(
        max_iter=int(strength), max_leaf_nodes=8, early_stopping=False, random_state=0
    ),
}
WHITENED = 0.1  # strength of a linear probe on whitened features, for which the floor matters more


@dataclass(frozen=True)
class HeadOnly(Attack):
    """A classifier on frozen, standardised features; by default logistic regression, the limit of training a head.

    Features are encoded once per model, and per seed of a random one. Cells (layer and pooling) and settings are
    chosen on the selection split.

    Args:
        classifier: One of :data:`CLASSIFIERS`.
        strengths: Inverse regularisation of a linear or kernel classifier, neighbours, or boosting iterations.
        every_layer: Whether to probe each hidden layer (embeddings are layer 0), its tokens averaged or the first
            (in a causal model the last) alone, and the published head's logits; else only the last layer's average.
        joined: Whether to probe layers and poolings (mean, maximum, minimum, deviation) side by side instead, see
            :meth:`.features.Features.joined`.
        whitened: Floors of the spectrum; with each, whitened features are tried beside standardised ones, see
            :meth:`.features.Features.of`. A linear probe does not see what a defence has made small, and sees it
            then. With ``every_layer`` the rows of the embedding table are probed so, too.
        tamper: What is done to the weights before they are frozen.
        title: Its name in the report, where it is none of the usual.

    Raises:
        ValueError: Unknown classifier, no strength, or another than a linear classifier on whitened features.
    """

    classifier: str = "linear"
    strengths: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    every_layer: bool = False
    joined: bool = False
    whitened: tuple[float, ...] = ()
    tamper: Tamper | None = None
    title: str = ""
    refits = True

    def __post_init__(self) -> None:
        if self.classifier not in CLASSIFIERS:
            raise ValueError(f"classifier must be one of {', '.join(CLASSIFIERS)}; got {self.classifier!r}.")
        if not self.strengths:
            raise ValueError("strengths is empty: give at least one value.")
        if self.whitened and (self.classifier != "linear" or min(self.whitened) <= 0):
            got = f"{self.whitened} and {self.classifier!r}"
            raise ValueError(f"whitened must be positive floors, with the linear classifier; got {got}.")

    @property
    def name(self) -> str:  # type: ignore[override]
        """``head only`` for the last layer, ``layer probe`` for the best of all, ``joined probe`` for several."""
        return self.title or ("joined probe" if self.joined else "layer probe" if self.every_layer else "head only")

    @property
    def assumes(self) -> str:  # type: ignore[override]
        """What the attacker needs to have; to whiten features, rows without labels too where few have one."""
        return super().assumes + (" and further rows without labels" if self.whitened else "")

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        layers = "joined" if self.joined else "all" if self.every_layer else "last"
        same = {"tamper": self.tamper.config()} if self.tamper else {}
        points: list[dict[str, Any]] = [{"strength": value} for value in self.strengths]
        points += [{"strength": WHITENED, "whitened": floor} for floor in self.whitened]
        return [{"classifier": self.classifier, "layers": layers, **point, **same} for point in points]

    def run(self, trial: Trial) -> Outcome:  # noqa: D102
        data, few = trial.data, trial.few()
        features = self.features(trial)
        labels = trial.rows().labels
        groups = self._groups(features, whitened="whitened" in trial.settings)
        if trial.refit is not None:
            groups = {name: cells for name, cells in groups.items() if self._found(name, cells) == trial.refit.found}
        if not groups:
            raise FloatingPointError("the attacked model's features are not finite, or the same for every row")
        probes, selections, floor = {}, {}, trial.settings.get("whitened")
        for name, cells in groups.items():
            made = CLASSIFIERS[self.classifier](trial.settings["strength"], len(few))
            train = features.of("train", cells, floor)[few]
            if trial.refit is not None:
                train = np.concatenate([train, features.of("selection", cells, floor)])
            probes[name] = fitted(make_pipeline(StandardScaler(), made) if floor is None else made, train, labels)
            selections[name] = rounded(spread(probes[name], features.of("selection", cells, floor), data.num_labels))
        hits = np.stack([selections[name].argmax(axis=1) == data.selection.labels for name in groups])
        right = hits.sum(axis=1)
        tied = [name for name, hit in zip(groups, right, strict=True) if hit == right.max()]
        best = max(tied, key=lambda name: macro_auc(data.selection.labels, selections[name]))
        test = rounded(spread(probes[best], features.of("test", groups[best], floor), data.num_labels))
        found = scores(data.selection.labels, selections[best], data.metrics)
        return Outcome(
            found,
            scores(data.test.labels, test, data.metrics),
            0,
            flops=features.flops * trial.examples,
            curve=((0, found.value),),
            desired_drop=0.0 if self.tamper is None else None,  # the trunk is as it was
            probabilities=test,
            selected=selections[best],
            hits=hits,
            found=self._found(best, groups[best]),
        )

    def features(self, trial: Trial) -> Features:
        """What is probed, encoded or recalled."""
        return features_of(trial.target, trial.data, trial.seed, self.tamper)

    def _found(self, name: str, cells: list[Cell]) -> dict[str, Any]:
        """What a report says of the probe that was chosen."""
        layer, pooling = cells[0]
        return {"features": name} if self.joined else {"layer": layer, "pooling": pooling}

    def _groups(self, features: Features, *, whitened: bool) -> dict[str, list[Cell]]:
        """What is probed, by name: single cells, or several side by side."""
        if self.joined:
            return features.joined()
        wanted = [c for c in features.usable(words=whitened) if self.every_layer or c == (features.layers, "mean")]
        return {f"{pooling} of layer {layer}": [(layer, pooling)] for layer, pooling in wanted}


def fitted(probe: Any, features: Any, labels: np.ndarray) -> Any:
    """A scikit-learn classifier, fitted; with labels of a single class, one that always says that."""
    if len(np.unique(labels)) == 1:  # a few examples of a rare label may all be alike
        return DummyClassifier().fit(np.zeros((len(labels), 1)), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe short of its optimum is still a probe
        warnings.simplefilter("ignore", UserWarning)  # collinear features, which standardised dead units are
        return probe.fit(features, labels)


def spread(probe: Any, features: Any, num_labels: int) -> np.ndarray:
    """Probabilities over all classes, 0 for those that a small subset did not contain."""
    probabilities = probe.predict_proba(features)
    found = np.zeros((len(probabilities), num_labels))
    found[:, probe.classes_] = probabilities
    return found
