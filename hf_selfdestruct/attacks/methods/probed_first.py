"""A linear probe first, then fine-tuning: the head starts where a probe ends, so that no step is spent on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from .batches import averaged, hidden_states, on_device
from .fine_tuning import Tuning
from .probes import fitted
from .training_loop import tune

STRENGTHS = (0.01, 0.1, 1.0)
UNSEEN = -10.0  # logit of a class without examples, below the smallest of the others


class PooledClassifier(nn.Module):
    """A model under a linear head on the average of its last layer's tokens.

    A published head may read one token through a pooler, which a defence can spoil: the average stands beside both.

    Args:
        model: The model; its own head is neither used nor trained.
        weight: Of the head, ``(classes, width)``.
        bias: Of the head, ``(classes,)``.
    """

    def __init__(self, model: PreTrainedModel, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.model = model
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

    def forward(self, labels: Tensor | None = None, **inputs: Tensor) -> SequenceClassifierOutput:
        """Logits and, where there are labels, their cross-entropy."""
        features = averaged(hidden_states(self.model, inputs)[-1], inputs)
        logits = nn.functional.linear(features, self.head_weight, self.head_bias)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@dataclass(frozen=True)
class ProbedFirst(Tuning):
    """Logistic regression on averaged tokens, then fine-tuning of all weights with it as the head (2202.10054).

    Fine-tuning under a random head first destroys features that the head then has to find. The probe's strength is
    chosen on the selection split.

    Example:
        ```python
        ProbedFirst(learning_rates=(5e-5, 2e-4), steps=(320,))
        ```
    """

    name: str = "probe, then fine-tuning"
    kinds = ("classification",)

    def space(self) -> list[dict[str, Any]]:
        """Those of fine-tuning, which state the head."""
        return [{**settings, "head": "linear probe of averaged tokens"} for settings in super().space()]

    def run(self, trial: Trial) -> Outcome:
        """Probe and fine-tune once; see :meth:`.attack.Attack.run`."""
        return tune(self.name, trial, under=lambda model, few: probed(model, few, trial))


def probed(model: PreTrainedModel, few: Split, trial: Trial) -> PooledClassifier:
    """The model under a head that is a logistic regression on its averaged tokens.

    Args:
        model: The model, on its device.
        few: Rows to fit to.
        trial: What the attacker has: the selection split chooses the strength.
    """
    data = trial.data

    def call(batch: dict[str, Tensor]) -> Tensor:
        inputs = on_device(batch, labels=False)
        return averaged(hidden_states(model, inputs)[-1], inputs)

    model.eval()
    train, selection = (in_batches(split, data.collate, call).astype(np.float64) for split in (few, data.selection))
    if not (np.isfinite(train).all() and np.isfinite(selection).all()):
        raise FloatingPointError("the attacked model's features are not finite")
    tried = [
        fitted(make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)), train, few.labels)
        for strength in STRENGTHS
    ]
    best = max(tried, key=lambda probe: float((probe.predict(selection) == data.selection.labels).mean()))
    weight, bias = linear_map(best, train.shape[1], data.num_labels)
    device = next(model.parameters()).device
    return PooledClassifier(model, *(torch.tensor(part, dtype=torch.float32, device=device) for part in (weight, bias)))


def linear_map(probe: Any, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A fitted probe as one linear map: its standardisation folded in, classes without examples far below the rest.

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
    weight[seen] = coefficients / scale.scale_
    bias[seen] = constants - weight[seen] @ scale.mean_
    bias[np.setdiff1d(np.arange(classes), seen)] = bias[seen].min() + UNSEEN
    return weight, bias
