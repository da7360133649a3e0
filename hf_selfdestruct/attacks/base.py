"""What an attack is, what it is run on, and the models it starts from.

Nothing of the defence is imported here: models are loaded from disk as anybody would load them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from ..files import file_hash
from ..report import Scores
from ..tasks import BlockedTask, seed_of

Collate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Split:
    """Tokenised rows with their labels."""

    features: Sequence[dict[str, Any]]
    labels: np.ndarray

    def take(self, rows: Sequence[int]) -> Split:
        """The split's rows of these numbers."""
        return Split([self.features[row] for row in rows], self.labels[list(rows)])


@dataclass(frozen=True, eq=False)
class AttackData:
    """What the attacker has: rows to train on, rows to select on, and the test rows of the report.

    Args:
        task: The blocked task's name.
        num_labels: Its number of classes.
        train: 70 % of the ``attack`` split.
        selection: The rest of it.
        test: The ``test`` split; read once per chosen run.
        collate: Makes a batch of tensors, with ``labels``, from rows.
        memory: What attacks keep from one run to the next, such as encoded features.
    """

    task: str
    num_labels: int
    train: Split
    selection: Split
    test: Split
    collate: Collate
    memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, task: BlockedTask, columns: Sequence[str], collate: Collate, *, limit: int | None = None) -> AttackData:
        """The attacker's view of a blocked task.

        Args:
            task: A blocked task with ``attack`` (or ``validation``) and ``test`` rows.
            columns: Columns the model accepts.
            collate: Makes batches.
            limit: Most rows of the selection and test splits (the first ones of a fixed shuffle).

        Raises:
            ValueError: The task has no rows for the attacker or none to test on.
        """
        check_attackable(task)

        def split_of(name: str, rows: np.ndarray, most: int | None) -> Split:
            if most is not None and len(rows) > most:
                order = np.random.default_rng(seed_of(task.name, name, "limit")).permutation(len(rows))
                rows = np.sort(rows[order[:most]])
            return Split(task.features(name, [int(r) for r in rows], columns), task.labels(name)[rows])

        everything = np.arange(len(task.splits()["test"]))
        return cls(
            task=task.name,
            num_labels=task.classes,
            train=split_of("attack", task.attacker_rows(), None),
            selection=split_of("attack", task.selection_rows(), limit),
            test=split_of("test", everything, limit),
            collate=collate,
        )

    def few(self, examples: int, seed: int) -> list[int]:
        """Numbers of the ``examples`` training rows drawn by ``seed``: the same for every model attacked."""
        order = np.random.default_rng(seed_of(self.task, "few-shot", seed)).permutation(len(self.train.labels))
        return order[:examples].tolist()


def check_attackable(task: BlockedTask) -> None:
    """Refuse a task without rows for the attacker, or without any to test on."""
    for split in ("attack", "test"):
        if split not in task.splits():
            raise ValueError(f"blocked task {task.name!r} has no {split!r} split; give BlockedTask(..., {split}=...).")


@dataclass(frozen=True)
class Target:
    """A model under attack, loaded afresh from disk for every run.

    Args:
        role: ``hardened``, ``undefended``, ``base`` or ``scratch``.
        folder: A folder or Hub id that ``transformers`` can load.
        random: Keep only the architecture, with random weights (scratch).
    """

    role: str
    folder: str
    random: bool = False

    def load(self, num_labels: int, seed: int) -> PreTrainedModel:
        """The model with a new head of ``num_labels`` classes; head (and scratch) weights depend on ``seed`` alone.

        Raises:
            ValueError: The folder's trunk does not fit its own architecture.
        """
        config = AutoConfig.from_pretrained(self.folder, num_labels=num_labels, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_config(config)
        if not self.random:
            trunk, info = AutoModel.from_pretrained(
                self.folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            model.base_model.load_state_dict(trunk.state_dict(), strict=False)
            # What the folder lacks, from_pretrained fills with random weights: that is not the published model.
            if missing := sorted({*info["missing_keys"]} & model.base_model.state_dict().keys()):
                raise ValueError(f"{self.folder}: weights missing from the trunk: {', '.join(missing[:3])}.")
        return model

    def identity(self) -> dict[str, Any]:
        """Name and SHA-256 of the weights (of the configuration, for random ones), for the report."""
        pattern = "config.json" if self.random else "*.safetensors"
        files = sorted(Path(self.folder).glob(pattern))
        digest = file_hash(*files) if files else ""
        name = "random weights of the same architecture" if self.random else Path(self.folder).name
        return {"name": name, "sha256": digest}


@dataclass(frozen=True)
class Outcome:
    """What one attack run reached."""

    selection: Scores
    test: Scores
    steps: int


class Attack(ABC):
    """A recipe with a search space, run on a freshly loaded stock model by plain torch and scikit-learn.

    Attributes:
        name: The field's name for it.
        assumes: What the attacker needs to have, in words.
    """

    name: str
    assumes: str = "the published weights and labelled examples of the blocked task"

    @abstractmethod
    def space(self) -> list[dict[str, Any]]:
        """Settings to search, the likeliest first; all models get the same."""

    @abstractmethod
    def run(self, target: Target, data: AttackData, *, examples: int, seed: int, settings: dict[str, Any]) -> Outcome:
        """Attack once.

        Args:
            target: The model.
            data: What the attacker has.
            examples: Training rows it may use.
            seed: Of subset, head and data order.
            settings: One point of :meth:`space`.

        Returns:
            Scores on the selection and the test split.

        Raises:
            FloatingPointError: The run diverged; the suite records it as failed.
        """


def scores(labels: np.ndarray, probabilities: np.ndarray) -> Scores:
    """Accuracy and macro AUC.

    Args:
        labels: Shape ``(rows,)``.
        probabilities: Shape ``(rows, classes)``, rows summing to 1.

    Raises:
        FloatingPointError: A probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise FloatingPointError("the attacked model's outputs are not finite")
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    aucs = [
        roc_auc_score(labels == c, probabilities[:, c])
        for c in range(probabilities.shape[1])
        if 0 < (labels == c).sum() < len(labels)
    ]
    return Scores(accuracy, float(np.mean(aucs)) if aucs else 0.5)


@torch.no_grad()
def in_batches(
    split: Split, collate: Collate, call: Callable[[dict[str, Tensor]], Tensor], *, size: int = 64
) -> np.ndarray:
    """Run ``call`` over a split in batches of rows of like length, and return results in row order.

    Args:
        split: Rows.
        collate: Makes batches.
        call: Batch to tensor whose first dimension is the batch's.
        size: Rows in a batch.

    Returns:
        Array whose first dimension is the rows.
    """
    lengths = [len(row.get("input_ids", ())) for row in split.features]
    order = np.argsort(lengths, kind="stable")
    parts = [
        call(collate([dict(split.features[row]) for row in order[start : start + size]])).float().cpu().numpy()
        for start in range(0, len(order), size)
    ]
    return np.concatenate(parts)[np.argsort(order, kind="stable")]
