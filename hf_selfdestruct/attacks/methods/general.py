"""What a language model is still good for: its loss on desired texts, before an attack and at every look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ...tasks.language_modeling import LANGUAGE_MODELING
from ...tasks.rows import LABELS, rows_of, with_labels
from ..data import BENIGN_ROWS, COST_ROWS, AttackData, DesiredData, Split, limited
from ..target import Target, placed
from .batches import predictions


def desired_texts(train: Any, test: Any, columns: Sequence[str]) -> DesiredData | None:
    """The desired texts of a language model in the attacker's hands; ``None`` where a dataset holds no tokens.

    Args:
        train: Dataset of the benign rows.
        test: Dataset on which the general loss is measured.
        columns: Columns the models accept.
    """
    benign, measured = (_split(*given, columns) for given in ((train, BENIGN_ROWS), (test, COST_ROWS)))
    return DesiredData(benign, measured, kind=LANGUAGE_MODELING) if benign and measured else None


def general_loss(model: PreTrainedModel, data: AttackData) -> float | None:
    """Loss on desired texts in nats per token; ``None`` where the attacker has none."""
    if data.desired is None or data.desired.kind.model_class is None:
        return None
    rows = data.desired.test
    return data.desired.kind.scores(rows.labels, predictions(model, data, rows, data.desired.kind)).loss


def general_before(target: Target, data: AttackData) -> float | None:
    """The general loss of a model as it was published; measured once for each model."""
    return as_published("general", target, data, general_loss)


def as_published(
    name: str, target: Target, data: AttackData, measure: Callable[[PreTrainedModel, AttackData], float | None]
) -> float | None:
    """What is measured of a model as it was published, once for each model; ``None`` without desired texts.

    Args:
        name: What it is remembered by.
        target: The model.
        data: What the attacker has.
        measure: Measures a model on its device.
    """
    if data.desired is None or data.desired.kind.model_class is None:
        return None
    key = (name, target.folder, target.random, target.identity().sha256)
    if key not in data.memory:
        data.memory[key] = measure(placed(target.load(0, 0, auto=data.desired.kind.model_class)), data)
    return data.memory[key]


def _split(dataset: Any, most: int, columns: Sequence[str]) -> Split | None:
    """Rows with a label for every token; without a column of labels, each token is its own."""
    if "input_ids" not in (getattr(dataset, "column_names", None) or ()) or not hasattr(dataset, "__len__"):
        return None
    rows = limited(np.arange(len(dataset)), most, "desired").tolist()
    found = rows_of(dataset, rows, {*columns} - {*LABELS})
    plain = dataset.with_format(None)[rows]
    tokens = plain["labels" if "labels" in plain else "input_ids"]
    labels = LANGUAGE_MODELING.read(tokens, "desired texts", "labels")
    return Split(LANGUAGE_MODELING.padded(with_labels(found, labels)), labels)
