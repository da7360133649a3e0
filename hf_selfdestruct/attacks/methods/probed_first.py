"""A linear probe first, then fine-tuning: the head starts where a probe ends, so that no step is spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..attack import Outcome, Trial
from ..data import Split, in_batches
from .batches import averaged, batch_of, hidden_states, mask_of, on_device
from .fine_tuning import Tuning
from .probes import fitted
from .training_loop import Losses, losses_of, tune

STRENGTHS = (0.01, 0.1, 1.0)
POOLINGS = ("mean", "max", "first", "mix")
SMALLEST = 1e-30  # standard deviation of a feature
UNSEEN = -10.0  # logit of a class without examples, below the smallest of the others


class PooledClassifier(nn.Module):
    """A model under a linear head on its pooled tokens.

    A published head may read one token through a pooler, which a defence can spoil: the average stands beside both.

    Args:
        model: The model; its own head is neither used nor trained.
        weight: Of the head, ``(classes, width)``.
        bias: Of the head, ``(classes,)``.
        pooling: One of :data:`POOLINGS`.
        layers: Number of hidden states of the last one's width; ``mix`` trains a weight for each.

    Attributes:
        strengths: Inverse regularisations of the logistic regression that the head starts as.
    """

    strengths: ClassVar[tuple[float, ...]] = STRENGTHS

    def __init__(
        self, model: PreTrainedModel, weight: Tensor, bias: Tensor, pooling: str = "mean", layers: int = 0
    ) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling
        self.mix = nn.Parameter(weight.new_zeros(layers)) if pooling == "mix" else None
        self.head_weight, self.head_bias = nn.Parameter(weight), nn.Parameter(bias)
        trunk = {id(parameter) for parameter in model.base_model.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trunk and parameter.requires_grad)

    @property
    def base_model(self) -> nn.Module:
        """The trunk."""
        return self.model.base_model

    def get_input_embeddings(self) -> nn.Module:
        """The trunk's table of words."""
        return self.model.get_input_embeddings()

    @staticmethod
    def vectors(
        model: PreTrainedModel, inputs: dict[str, Tensor], poolings: Sequence[str], mix: Tensor | None = None
    ) -> Tensor:
        """What a head reads of each row, by each pooling, ``(rows, poolings, width)``."""
        states = hidden_states(model, inputs)
        return torch.stack([pooled(states, inputs, pooling, mix) for pooling in poolings], dim=1)

    def forward(self, labels: Tensor | None = None, **inputs: Tensor) -> SequenceClassifierOutput:
        """Logits and, where there are labels, their cross-entropy."""
        features = self.vectors(self.model, inputs, (self.pooling,), self.mix)[:, 0]
        logits = nn.functional.linear(features, self.head_weight, self.head_bias)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@dataclass(frozen=True)
class ProbedFirst(Tuning):
    """Logistic regression on pooled tokens, then fine-tuning of all weights with it as the head (2202.10054).

    Fine-tuning under a random head first destroys features that the head then has to find. The probe's pooling and
    strength are chosen on the selection split, by the probe.

    Args:
        poolings: Of :data:`POOLINGS`: the last layer's tokens averaged, their maximum, the first token, or a mix of
            all layers' averages, of which the shares are trained too.

    Raises:
        ValueError: Unknown pooling.

    Example:
        ```python
        ProbedFirst(learning_rates=(5e-5, 2e-4), steps=(320,))
        ```
    """

    name: str = "probe, then fine-tuning"
    poolings: tuple[str, ...] = ("mean",)
    kinds = ("classification",)
    classifier: ClassVar[type[PooledClassifier]] = PooledClassifier

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.poolings or {*self.poolings} - {*POOLINGS}:
            raise ValueError(f"{self.name}: poolings must be of {', '.join(POOLINGS)}; got {self.poolings}.")
        if self.trainable != "all":
            raise ValueError(f"{self.name} trains all weights; leave trainable out, got {self.trainable!r}.")

    def space(self) -> list[dict[str, Any]]:
        """Those of fine-tuning, which state the head."""
        many = {"head": "linear probe", "poolings": [*self.poolings]}
        head = {"head": "linear probe of averaged tokens"} if self.poolings == ("mean",) else many
        return [{**settings, **head} for settings in super().space()]

    def run(self, trial: Trial) -> Outcome:
        """Probe and fine-tune once; see :meth:`.attack.Attack.run`."""
        found: dict[str, Any] = {}

        def under(model: PreTrainedModel, few: Split) -> PooledClassifier:
            headed, strength = probed(model, few, trial, self.poolings, self.classifier)
            found.update(pooling=headed.pooling, strength=strength)
            return headed

        outcome = tune(self.name, trial, prepare=self.shaken(trial), under=under, losses=self.losses)
        return replace(outcome, found={**outcome.found, **found})

    def losses(self, model: Any, few: Split, trial: Trial, benign: PreTrainedModel | None) -> Losses:
        """The loss of each step, see :func:`.training_loop.losses_of`."""
        return losses_of(model, few, trial, benign)


def probed(
    model: PreTrainedModel,
    few: Split,
    trial: Trial,
    poolings: Sequence[str] = ("mean",),
    classifier: type[PooledClassifier] = PooledClassifier,
) -> tuple[PooledClassifier, float]:
    """The model under a head that is a logistic regression on its pooled tokens, and that regression's strength.

    Args:
        model: The model, on its device.
        few: Rows to fit to.
        trial: What the attacker has: the selection split chooses pooling and strength; in a refit they are known.
        poolings: Poolings to choose from; of maps of pixels there is only the average.
        classifier: What the head reads, and the strengths to choose from.
    """
    data, strengths = trial.data, classifier.strengths
    model.eval()
    with torch.no_grad():
        states = hidden_states(model, batch_of(data, few.take([0]), labels=False))
    if states[-1].dim() == 4:
        poolings = ("mean",)
    if trial.refit is not None:
        poolings, strengths = (trial.refit.found["pooling"],), (trial.refit.found["strength"],)

    def call(batch: dict[str, Tensor]) -> Tensor:
        return classifier.vectors(model, on_device(batch, labels=False), poolings)

    train, selection = (in_batches(split, data.collate, call).astype(np.float64) for split in (few, data.selection))
    if not (np.isfinite(train).all() and np.isfinite(selection).all()):
        raise FloatingPointError("the attacked model's features are not finite")
    tried = {
        (place, c): fitted(make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)), rows, few.labels)
        for place, rows in enumerate(train.swapaxes(0, 1))
        for c in strengths
    }

    def right(at: tuple[int, float]) -> float:
        return float((tried[at].predict(selection[:, at[0]]) == data.selection.labels).mean())

    best = max(tried, key=right)
    parts = linear_map(tried[best], train.shape[2], data.num_labels)
    weight, bias = (torch.tensor(part, dtype=torch.float32, device=model.device) for part in parts)
    return classifier(model, weight, bias, poolings[best[0]], len(_alike(states))), best[1]


def pooled(states: Sequence[Tensor], inputs: dict[str, Tensor], pooling: str, mix: Tensor | None = None) -> Tensor:
    """One vector for each row.

    Args:
        states: Every hidden state.
        inputs: The batch.
        pooling: One of :data:`POOLINGS`.
        mix: For ``mix``: the logits of the layers' shares; equal shares without.
    """
    last = states[-1]
    if pooling == "mean":
        return averaged(last, inputs)
    if pooling == "mix":
        alike = _alike(states)
        shares = (last.new_zeros(len(alike)) if mix is None else mix).softmax(0)
        return torch.stack([share * averaged(one, inputs) for share, one in zip(shares, alike, strict=True)]).sum(0)
    mask = mask_of(last, inputs)
    if pooling == "max":
        return last.masked_fill((mask == 0).unsqueeze(-1), -torch.inf).amax(1)
    return last[:, 0]


def _alike(states: Sequence[Tensor]) -> list[Tensor]:
    return [one for one in states if one.shape[-1] == states[-1].shape[-1]]


def linear_map(probe: Any, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A fitted probe as one linear map: its standardisation folded in, classes without examples far below the rest.

    Features that hardly vary are left out: single precision has no number by which to multiply them.

    Args:
        probe: What :func:`.probes.fitted` gave.
        width: Of the features.
        classes: Number of classes.

    Returns:
        Weight ``(classes, width)`` and bias ``(classes,)``, whose softmax gives the probe's probabilities.
    """
    weight, bias = np.zeros((classes, width)), np.full(classes, UNSEEN)
    seen = np.asarray(probe.classes_, dtype=int)
    if not hasattr(probe, "named_steps"):  # a single class
        bias[seen] = 0.0
        return weight, bias
    scale, regression = probe.named_steps["standardscaler"], probe.named_steps["logisticregression"]
    coefficients, constants = regression.coef_, regression.intercept_
    if len(seen) == 2:  # one logit for both
        coefficients, constants = (np.concatenate([-part, part]) / 2 for part in (coefficients, constants))
    weight[seen] = np.where(scale.scale_ > SMALLEST, coefficients / scale.scale_, 0.0)
    bias[seen] = constants - weight[seen] @ scale.mean_
    bias[np.setdiff1d(np.arange(classes), seen)] = bias[seen].min() + UNSEEN
    return weight, bias
