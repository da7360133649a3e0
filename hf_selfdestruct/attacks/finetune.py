"""Fine-tuning attacks: the whole network, or a head on frozen features."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import PreTrainedModel, get_scheduler

from ..report import Scores
from ..tasks import seed_of
from .base import Attack, AttackData, Outcome, Split, Target, in_batches, scores
from .optimizers import OPTIMIZERS


@dataclass(frozen=True)
class FullFineTuning(Attack):
    """AdamW on all weights with a new head; the best of several checkpoints by the selection split.

    Args:
        learning_rates: Rates to search.
        steps: Numbers of optimizer steps to search.
        batch_size: Examples in a step.
        checkpoints: How often, evenly spread over the steps, the selection split is looked at.
        schedule: A ``transformers`` schedule; the first tenth of the steps warms up.

    Example:
        ```python
        FullFineTuning(learning_rates=(1e-5, 1e-4), steps=(1000,))
        ```
    """

    learning_rates: tuple[float, ...] = (5e-5, 3e-4)
    steps: tuple[int, ...] = (60,)
    batch_size: int = 16
    checkpoints: int = 2
    schedule: str = "linear"
    name = "full fine-tuning"

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        same = {"batch_size": self.batch_size, "checkpoints": self.checkpoints, "schedule": self.schedule}
        points = product(self.steps, self.learning_rates)
        return [{"learning_rate": rate, "steps": steps, **same} for steps, rate in points]

    def run(  # noqa: D102
        self, target: Target, data: AttackData, *, examples: int, seed: int, settings: dict[str, Any]
    ) -> Outcome:
        return tune(self.name, target, data, examples=examples, seed=seed, settings=settings)


def tune(
    name: str,
    target: Target,
    data: AttackData,
    *,
    examples: int,
    seed: int,
    settings: dict[str, Any],
    prepare: Callable[[PreTrainedModel], None] | None = None,
) -> Outcome:
    """Load a model, prepare it, train it; the global generators are left as they were.

    Args:
        name: The attack's name: with ``seed`` it decides dropout, so that the same run gives the same scores.
        target: The model.
        data: What the attacker has.
        examples: Training rows it may use.
        seed: Of subset, head and data order.
        settings: See :func:`train`.
        prepare: What is done to the loaded model first.
    """
    few = data.train.take(data.few(examples, seed))
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(name, seed))
        model = target.load(data.num_labels, seed)
        if prepare is not None:
            prepare(model)
        return train(_placed(model), few, data, seed, settings)


def train(model: PreTrainedModel, few: Split, data: AttackData, seed: int, settings: dict[str, Any]) -> Outcome:
    """Train the weights that require a gradient, keep the checkpoint that selection prefers, score it on test.

    Args:
        model: On its device.
        few: Rows to train on.
        data: What the attacker has.
        seed: Of the order of rows.
        settings: ``learning_rate``, ``steps``, ``batch_size``, ``checkpoints``, ``schedule``, and an ``optimizer`` by
            name (AdamW by default).

    Raises:
        FloatingPointError: The loss is not finite.
    """
    steps = settings["steps"]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    make = OPTIMIZERS[settings.get("optimizer", "adamw")]
    optimizer = make(weights, lr=settings["learning_rate"])
    schedule = get_scheduler(settings["schedule"], optimizer, steps // 10, steps)
    looks = {round(steps * (i + 1) / settings["checkpoints"]) for i in range(settings["checkpoints"])}
    best: tuple[Scores, dict[str, Tensor]] | None = None
    for step, rows in enumerate(_epochs(len(few.labels), settings["batch_size"], steps, seed), start=1):
        model.train()
        loss = model(**_batch(data, few.take(rows.tolist()))).loss
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step in looks:
            found = scores(data.selection.labels, _probabilities(model, data, data.selection))
            if best is None or found.accuracy > best[0].accuracy:
                best = found, {name: value.clone() for name, value in model.state_dict().items()}
    if best is None:
        raise ValueError(f"no checkpoint was looked at in {steps} steps; use at least one.")
    model.load_state_dict(best[1])
    return Outcome(best[0], scores(data.test.labels, _probabilities(model, data, data.test)), steps)


@dataclass(frozen=True)
class HeadOnly(Attack):
    """Linear probe: logistic regression on frozen, mean-pooled, standardised features.

    The convex limit of training a linear head. Features are encoded once per model and seed of a
    random one; the inverse regularisation is chosen on the selection split.

    Args:
        regularisation: Values of scikit-learn's ``C`` to choose from.
        every_layer: Whether to probe each hidden layer (embeddings are layer 0) and not only the last.
    """

    regularisation: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    every_layer: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """``head only`` for the last layer, ``layer probe`` for the best of all."""
        return "layer probe" if self.every_layer else "head only"

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        layers = "all" if self.every_layer else "last"
        return [{"features": "mean-pooled", "layers": layers, "regularisation": list(self.regularisation)}]

    def run(  # noqa: D102
        self, target: Target, data: AttackData, *, examples: int, seed: int, settings: dict[str, Any]
    ) -> Outcome:
        features = self._features(target, data, seed)
        few = data.few(examples, seed)
        labels = data.train.labels[few]
        layers = range(features["train"].shape[1]) if self.every_layer else [features["train"].shape[1] - 1]
        best: tuple[Scores, Any, int] | None = None
        for layer, strength in product(layers, self.regularisation):
            probe = _fit(features["train"][few, layer], labels, strength)
            found = scores(data.selection.labels, _spread(probe, features["selection"][:, layer], data.num_labels))
            if best is None or found.accuracy > best[0].accuracy:
                best = found, probe, layer
        if best is None:
            raise ValueError("regularisation is empty: give at least one value.")
        found, probe, layer = best
        test = scores(data.test.labels, _spread(probe, features["test"][:, layer], data.num_labels))
        return Outcome(found, test, 0)

    def _features(self, target: Target, data: AttackData, seed: int) -> dict[str, np.ndarray]:
        # Frozen features do not depend on the seed, except where the weights themselves do.
        key = ("features", target, target.identity()["sha256"], seed if target.random else 0)
        if key not in data.memory:
            model = _placed(target.load(data.num_labels, seed)).eval()
            data.memory[key] = {
                name: in_batches(split, data.collate, lambda batch: _pooled(model, batch))
                for name, split in (("train", data.train), ("selection", data.selection), ("test", data.test))
            }
        return data.memory[key]


def _pooled(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Mean over unpadded positions of every hidden layer, shape ``(batch, layers + 1, hidden)``."""
    inputs = {k: v.to(_device()) for k, v in batch.items() if k != "labels"}
    hidden = model.base_model(**inputs, output_hidden_states=True).hidden_states
    mask = inputs.get("attention_mask", torch.ones(hidden[0].shape[:2], device=_device()))
    mask = mask.unsqueeze(-1).to(hidden[0].dtype)
    return torch.stack([(h * mask).sum(1) / mask.sum(1).clamp(min=1) for h in hidden], dim=1)


def _fit(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    if len(np.unique(labels)) == 1:  # a few examples of a rare label may all be alike
        return DummyClassifier().fit(features, labels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe short of its optimum is still a probe
        return probe.fit(features, labels)


def _spread(probe: Any, features: np.ndarray, num_labels: int) -> np.ndarray:
    """Probabilities over all classes, 0 for those that a small subset did not contain."""
    spread = np.zeros((len(features), num_labels))
    spread[:, probe.classes_] = probe.predict_proba(features)
    return spread


def _probabilities(model: PreTrainedModel, data: AttackData, split: Split) -> np.ndarray:
    model.eval()

    def call(batch: dict[str, Tensor]) -> Tensor:
        inputs = {k: v.to(_device()) for k, v in batch.items() if k != "labels"}
        return model(**inputs).logits.float().softmax(dim=-1)

    return in_batches(split, data.collate, call)


def _batch(data: AttackData, rows: Split) -> dict[str, Tensor]:
    return {k: v.to(_device()) for k, v in data.collate([dict(row) for row in rows.features]).items()}


def _epochs(count: int, size: int, steps: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each step: shuffled epochs, one after the other."""
    generator = np.random.default_rng(seed)
    size = min(size, count)
    needed = -(-steps * size // count)
    stream = np.concatenate([generator.permutation(count) for _ in range(needed)])
    return [stream[i * size : (i + 1) * size] for i in range(steps)]


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    nn.Module.to(model, _device())
    return model


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
