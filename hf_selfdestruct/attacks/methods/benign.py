"""The desired task in an attacker's hands: benign steps first, benign rows among others, and what is lost of it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from ..data import AttackData, DesiredData
from ..target import Target, placed
from .batches import batch_of, epochs, predictions
from .optimizers import OPTIMIZERS, bound, trained
from .picture_options import to_training


def companion(target: Target, model: PreTrainedModel, data: AttackData, seed: int) -> PreTrainedModel:
    """The desired task's model on the trunk of ``model``: with the published head, or a new one."""
    if data.desired is None:
        raise ValueError("benign steps need the desired task's rows; give AttackData(desired=...).")
    if data.desired.kind.model_class is not None:
        return model  # of desired texts the same head predicts the tokens
    found = _published(target, data.desired) or target.load(data.desired.classes, seed)
    setattr(found, found.base_model_prefix, model.base_model)
    return placed(found)


def heal(benign: PreTrainedModel, data: AttackData, seed: int, settings: dict[str, Any]) -> None:
    """Benign fine-tuning first, at the attack's rate: what it brings back comes for free."""
    if not settings.get("prelude") or data.desired is None:
        return
    optimizer = OPTIMIZERS["adamw"](trained(benign), lr=settings["learning_rate"])
    to_training(benign, settings)
    for rows in epochs(len(data.desired.train.labels), settings["batch_size"], settings["prelude"], seed):
        loss = benign(**batch_of(data, data.desired.train.take(rows.tolist()))).loss
        if not torch.isfinite(loss):
            raise FloatingPointError(f"benign loss is {loss.item()}")
        loss.backward()
        bound(trained(benign), "clip")
        optimizer.step()
        optimizer.zero_grad()


def desired_drop(target: Target, model: PreTrainedModel, data: AttackData) -> float | None:
    """Desired accuracy with the published head, before minus after: the trunk of ``model`` is put under that head."""
    if data.desired is None or data.desired.kind.model_class is not None:
        return None
    key = ("desired", target.folder, target.random, target.identity().sha256)
    published = _published(target, data.desired)
    if published is None:
        return None
    rows = data.desired.test
    if key not in data.memory:
        data.memory[key] = float((predictions(placed(published), data, rows).argmax(1) == rows.labels).mean())
    setattr(published, published.base_model_prefix, model.base_model)
    return data.memory[key] - float((predictions(placed(published), data, rows).argmax(1) == rows.labels).mean())


def _published(target: Target, desired: DesiredData) -> PreTrainedModel | None:
    """The model as published, where its head has a place for every desired label, and not the place of another."""
    found = target.published()
    if found is None or (found.config.num_labels or 0) < desired.classes:
        return None
    own = tuple(str(name) for _, name in sorted((found.config.id2label or {}).items()))
    renamed = own != desired.names and sorted(own) == sorted(desired.names)
    return None if renamed else found
