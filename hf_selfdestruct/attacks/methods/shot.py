"""Few labelled rows, then all the others without their labels: adaptation of the trunk under a frozen head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...tasks.blocked_task import seed_of
from ..attack import Outcome, Trial
from ..data import Split, in_batches
from .batches import batch_of, epochs, on_device
from .picture_options import to_training
from .probed_first import PooledClassifier, ProbedFirst
from .tamper import NotApplicable
from .training_loop import Losses, losses_of, varied

CENTROIDS = 0.3  # weight of the cross-entropy with pseudo-labels, as in the paper


@dataclass(frozen=True)
class Shot(ProbedFirst):
    """A probe and fine-tuning with the labels, then the trunk alone adapts to rows without labels (2002.08546).

    The head stays as it is from there on. The trunk goes on with the labelled rows, and on a batch of others it makes
    answers certain and classes equally frequent (information maximisation) and moves to the class whose centroid is
    nearest. Those rows are the attacker's training rows beyond its labelled ones; their labels are not read, and
    neither the selection rows nor the test rows are among them. The paper has no labelled rows while it adapts.

    Args:
        adapting: Share of the steps that adapt; those before are fine-tuning.

    Raises:
        ValueError: The share is no share, or there is nothing before or after.

    Example:
        ```python
        Shot(learning_rates=(3e-4,), steps=(240,))
        ```
    """

    name: str = "fine-tuning, then adaptation without labels"
    adapting: float = 0.5
    refits = False  # with all rows labelled none is left to adapt to

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.adapting < 1:
            raise ValueError(f"{self.name}: adapting must lie between 0 and 1; got {self.adapting}.")

    @property
    def assumes(self) -> str:  # type: ignore[override]
        """What the attacker needs to have, rows without labels among it."""
        return super().assumes + " and further rows without labels"

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{**settings, "adapting": self.adapting, "centroids": CENTROIDS} for settings in super().space()]

    def run(self, trial: Trial) -> Outcome:
        """Once; see :meth:`.attack.Attack.run`. A step that adapts reads two batches."""
        outcome = super().run(trial)
        adapted = max(0, outcome.steps - trial.settings.get("prelude", 0) - self._first(trial.followed()))
        return replace(outcome, flops=outcome.flops * (1 + adapted / outcome.steps))

    def losses(self, model: PooledClassifier, few: Split, trial: Trial, benign: PreTrainedModel | None) -> Losses:
        """The labelled rows' loss, at last with that of a batch of the others, under a frozen head.

        Raises:
            NotApplicable: Every row of the attacker is labelled.
        """
        data, settings = trial.data, trial.followed()
        others = sorted({*range(len(data.train.labels))} - {*trial.few()})
        if not others:
            raise NotApplicable(f"{self.name}: all {trial.examples} training rows have labels; none is left.")
        rest, size, first = data.train.take(others), settings["batch_size"], self._first(settings)
        batches = epochs(len(others), size, settings["steps"] - first, seed_of("unlabelled", trial.seed))
        epoch = -(-len(others) // size)
        for step, labelled in enumerate(losses_of(model, few, trial, benign)):  # type: ignore[arg-type]
            if step < first:
                yield labelled
                continue
            if step == first:
                _freeze_head(model)
            if (step - first) % epoch == 0:
                classes = _nearest(model, rest, trial)
            rows = batches[step - first]
            batch = varied(batch_of(data, rest.take(rows.tolist()), labels=False), settings)
            yield lambda labelled=labelled, batch=batch, nearest=classes[rows]: (  # type: ignore[misc]
                labelled() + _adaptation(model, batch, nearest, settings)
            )

    def _first(self, settings: dict[str, Any]) -> int:
        """Number of steps before the first that adapts."""
        return round(settings["steps"] * (1 - settings["adapting"]))


def _adaptation(model: nn.Module, batch: dict[str, Tensor], nearest: np.ndarray, settings: dict[str, Any]) -> Tensor:
    to_training(model, settings)
    logits = model(**batch).logits
    loss = nn.functional.cross_entropy(logits, torch.as_tensor(nearest, device=logits.device))
    return uncertainty(logits) + settings["centroids"] * loss


def uncertainty(logits: Tensor) -> Tensor:
    """Mean entropy of the answers less the entropy of their mean: the information they have of the rows, negated.

    Args:
        logits: ``(rows, classes)``.

    Returns:
        Between -log(classes), where answers are certain and classes equally frequent, and 0.
    """
    answers = logits.softmax(1)
    return _entropy(answers).mean() - _entropy(answers.mean(0))


def nearest_centroid(features: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The class of each row whose centroid is nearest by the cosine, first with the answers as weights.

    Args:
        features: What the head reads, ``(rows, width)``.
        answers: Probabilities, ``(rows, classes)``.

    Returns:
        A class for each row; one that the first round gives to no row is given to none.
    """
    labels = _by_cosine(features, answers)
    return _by_cosine(features, np.eye(answers.shape[1])[labels])


def _by_cosine(features: np.ndarray, shares: np.ndarray) -> np.ndarray:
    # A centroid is a sum of rows up to its length, which the cosine does not see.
    centroids = shares.T @ features
    lengths = np.linalg.norm(centroids, axis=1)
    similar = features @ (centroids / np.maximum(lengths, 1e-12)[:, None]).T
    similar[:, shares.sum(0) == 0] = -np.inf
    return np.asarray(similar.argmax(1))


def _entropy(answers: Tensor) -> Tensor:
    tiny = torch.finfo(answers.dtype).tiny  # whose logarithm, and so every gradient, is finite
    return -(answers * answers.clamp(min=tiny).log()).sum(-1)


def _freeze_head(model: PooledClassifier) -> None:
    for weight in (model.head_weight, model.head_bias):
        weight.requires_grad_(False)
        weight.grad = None


def _nearest(model: PooledClassifier, rows: Split, trial: Trial) -> np.ndarray:
    """Pseudo-labels of rows, by what the model says of all of them now."""
    model.eval()

    def call(batch: dict[str, Tensor]) -> Tensor:
        inputs = on_device(batch, labels=False)
        features = model.vectors(model.model, inputs, (model.pooling,), model.mix)[:, 0]
        return torch.cat([features, model(**inputs).logits.softmax(1)], dim=1)

    found = in_batches(rows, trial.data.collate, call).astype(np.float64)
    width = found.shape[1] - trial.data.num_labels
    return nearest_centroid(found[:, :width], found[:, width:])
