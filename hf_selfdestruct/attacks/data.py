"""What the attacker has: rows to train on, rows to select on, test rows of the report, and benign rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import ClassLabel
from torch import Tensor

from ..tasks.blocked_task import BlockedTask, label_column_of, seed_of
from ..tasks.classification import CLASSIFICATION
from ..tasks.development import TEST
from ..tasks.kind import TaskKind
from ..tasks.rows import LABELS, rows_of, with_labels

Collate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]
BENIGN_ROWS, COST_ROWS = 2000, 256


@dataclass(frozen=True, eq=False)
class Split:
    """Rows as a collator takes them, with their labels."""

    features: Sequence[dict[str, Any]]
    labels: np.ndarray

    def take(self, rows: Sequence[int]) -> Split:
        """The split's rows of these numbers."""
        return Split([self.features[row] for row in rows], self.labels[list(rows)])

    def joined(self, other: Split) -> Split:
        """The rows of both."""
        return Split([*self.features, *other.features], np.concatenate([self.labels, other.labels]))

    @classmethod
    def of(cls, dataset: Any, columns: Sequence[str], *, limit: int | None = None) -> Split | None:
        """Rows of a dataset with integer labels in ``labels`` or ``label``; ``None`` where it has no such column.

        Args:
            dataset: A map-style dataset.
            columns: Columns the models accept.
            limit: Most rows (the first ones of a fixed shuffle).
        """
        names = getattr(dataset, "column_names", None) or ()  # a stream may not know its columns
        column = label_column_of(names)
        if column is None or not hasattr(dataset, "__len__"):
            return None
        rows = limited(np.arange(len(dataset)), limit, "desired")
        labels = dataset.with_format(None)[rows.tolist()][column]
        if not labels or not isinstance(labels[0], int) or isinstance(labels[0], bool):
            return None  # a language model's labels, say
        found = rows_of(dataset, rows.tolist(), {*columns} - {*LABELS})
        return cls(with_labels(found, np.asarray(labels)), np.asarray(labels))


@dataclass(frozen=True, eq=False)
class DesiredData:
    """The desired task in the attacker's hands: benign rows to train on, and rows on which its quality is measured.

    Args:
        train: Benign rows.
        test: Rows on which quality is measured.
        names: Its classes by number, as far as the data names them.
        kind: What labels and score are; classes, or the tokens of texts.
    """

    train: Split
    test: Split
    names: tuple[str, ...] = ()
    kind: TaskKind = CLASSIFICATION

    @classmethod
    def of(cls, train: Any, test: Any, columns: Sequence[str]) -> DesiredData | None:
        """Some rows of two datasets, see :meth:`Split.of`; ``None`` where one has no integer labels.

        Args:
            train: Dataset of the benign rows.
            test: Dataset on which the desired task's quality is measured.
            columns: Columns the models accept.
        """
        benign, measured = Split.of(train, columns, limit=BENIGN_ROWS), Split.of(test, columns, limit=COST_ROWS)
        if not (benign and measured):
            return None
        label = getattr(train, "features", {}).get(label_column_of(train.column_names))
        return cls(benign, measured, tuple(label.names) if isinstance(label, ClassLabel) else ())

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(max(self.train.labels.max(), self.test.labels.max())) + 1


@dataclass(frozen=True, eq=False)
class AttackData:
    """What the attacker has of one blocked task.

    Args:
        task: The blocked task's name.
        num_labels: Number of outputs of the head; of a classification its number of classes.
        train: 70 % of the ``attack`` split.
        selection: The rest of it.
        test: The ``test`` split; read once per run that was not given up.
        collate: Makes a batch of tensors, with ``labels``, from rows.
        desired: The desired task, for benign fine-tuning and for what an attack costs it.
        more: Further labelled rows, for the reference "scratch with more data" alone.
        metrics: Metrics of the user's own, by name.
        kind: What labels, head, loss and score are.
        scored_on: The task's split that ``test`` is.
        memory: What attacks keep from one run to the next, such as encoded features.
    """

    task: str
    num_labels: int
    train: Split
    selection: Split
    test: Split
    collate: Collate
    desired: DesiredData | None = None
    more: Split | None = None
    metrics: Mapping[str, evaluate.Metric] = field(default_factory=dict)
    kind: TaskKind = CLASSIFICATION
    scored_on: str = TEST
    memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        task: BlockedTask,
        columns: Sequence[str],
        collate: Collate,
        *,
        limit: int | None = None,
        desired: DesiredData | None = None,
        metrics: Mapping[str, evaluate.Metric] | None = None,
        more: bool = False,
        scored_on: str = TEST,
    ) -> AttackData:
        """The attacker's view of a blocked task.

        Args:
            task: A blocked task with ``attack`` (or ``validation``) and ``test`` rows.
            columns: Columns the model accepts.
            collate: Makes batches.
            limit: Most rows of the selection and test splits (the first ones of a fixed shuffle).
            desired: The desired task, where the attacker has it.
            metrics: Metrics of the user's own.
            more: Whether the reference with more data is wanted.
            scored_on: The split to score on, ``test`` or ``development``.

        Raises:
            ValueError: The task has no rows for the attacker or none to test on.
        """
        check_attackable(task)

        def split_of(name: str, rows: np.ndarray, most: int | None) -> Split:
            rows = limited(rows, most, task.name, name)
            return Split(task.features(name, [int(r) for r in rows], columns), task.labels(name)[rows])

        train = split_of("attack", task.attacker_rows(), None)
        further = split_of("train", np.arange(len(task.train)), None) if more else None
        return cls(
            task=task.name,
            num_labels=task.outputs,
            train=train,
            selection=split_of("attack", task.selection_rows(), limit),
            test=split_of(scored_on, np.arange(len(task.splits()[scored_on])), limit),
            collate=collate,
            desired=desired,
            more=train.joined(further) if further else None,
            metrics=metrics or {},
            kind=task.kind,
            scored_on=scored_on,
        )

    @classmethod
    def unscored(
        cls, task: BlockedTask, columns: Sequence[str], collate: Collate, *, examples: int | None = None
    ) -> AttackData:
        """The attacker's view while training runs: of the ``attack`` split alone, no row is read to be scored on.

        Attacks score test rows in the end; one of the selection rows stands in for these, and its score means nothing.

        Args:
            task: A blocked task with ``attack`` (or ``validation``) rows.
            columns: Columns the model accepts.
            collate: Makes batches.
            examples: Number of training rows; by default all.

        Raises:
            ValueError: The task has no rows for the attacker, or not so many.
        """
        check_attackable(task, splits=("attack",))
        rows, chosen = task.attacker_rows(), task.selection_rows()
        if examples is not None and not 1 <= examples <= len(rows):
            raise ValueError(
                f"blocked task {task.name!r}: the attacker has {len(rows)} training rows, 70 % of its 'attack' split; "
                f"got examples={examples}."
            )
        rows = limited(rows, examples, task.name, "attack")
        train, selection = (
            Split(task.features("attack", part.tolist(), columns), task.labels("attack")[part])
            for part in (rows, chosen)
        )
        return cls(
            task=task.name,
            num_labels=task.outputs,
            train=train,
            selection=selection,
            test=selection.take([0]),
            collate=collate,
            kind=task.kind,
            scored_on="attack",
        )

    def few(self, examples: int, seed: int) -> list[int]:
        """Numbers of the ``examples`` training rows drawn by ``seed``: the same for every model attacked."""
        order = np.random.default_rng(seed_of(self.task, "few-shot", seed)).permutation(len(self.train.labels))
        return order[:examples].tolist()


def limited(rows: np.ndarray, most: int | None, *key: Any) -> np.ndarray:
    """At most so many rows, the first ones of a shuffle fixed by ``key``, in their order."""
    if most is None or len(rows) <= most:
        return rows
    order = np.random.default_rng(seed_of(*key, "limit")).permutation(len(rows))
    return np.sort(rows[order[:most]])


def check_attackable(task: BlockedTask, *, splits: Sequence[str] = ("attack", TEST)) -> None:
    """Refuse a task without rows for the attacker, or without any to test on."""
    for split in splits:
        if split not in task.splits():
            raise ValueError(f"blocked task {task.name!r} has no {split!r} split; give BlockedTask(..., {split}=...).")


def check_controls(tasks: Sequence[BlockedTask], controls: Sequence[BlockedTask]) -> None:
    """Refuse a control that shares a name with another task, or that is a blocked task: fine-tuning to it must succeed.

    Raises:
        ValueError: With both names.
    """
    names = [task.name for task in (*tasks, *controls)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"two tasks have the name {twice[0]!r}, but a report identifies runs by it: give every blocked task "
            "and control a different name."
        )
    for control, task in itertools.product(controls, tasks):
        if _same(control, task):
            raise ValueError(
                f"control task {control.name!r} is blocked task {task.name!r}: both label the same rows alike, and "
                "fine-tuning to a control must succeed; choose a control with other labels."
            )


def _same(one: BlockedTask, other: BlockedTask) -> bool:
    """Whether most rows of one task are rows of the other, and each label of the one is one label of the other."""
    labels = {
        content: label
        for split in other.splits()
        for content, label in zip(other.contents(split), other.labels(split).tolist(), strict=True)
    }
    rows = [row for split in one.splits() for row in zip(one.contents(split), one.labels(split).tolist(), strict=True)]
    pairs = [(label, labels[content]) for content, label in rows if content in labels]
    own, others = ({*side} for side in zip(*pairs, strict=True)) if pairs else ((), ())
    return 2 * len(pairs) > len(rows) and len({*pairs}) == len(own) == len(others) > 1


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
