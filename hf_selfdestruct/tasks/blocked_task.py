"""Blocked tasks: their data, who may see which rows, and batches drawn by counting.

Nobody sees more than they should. The adversary trains on four fifths of ``train`` and blocking
losses are measured on the fixed remaining fifth; the attacker trains on 70 % of ``attack`` and
selects on the rest of it; ``test`` is read once, for the report, where ``development`` rows were
cut from it to choose on.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Audio, Dataset, Image

from .classification import CLASSIFICATION
from .development import READINGS, TEST, check_development, check_parts, cut
from .kind import LabelColumn, TaskKind
from .rows import LABELS, rows_of, with_labels

HELD_OUT_FRACTION = 0.2
SELECTION_FRACTION = 0.3
CONTENT_COLUMNS = ("input_ids", "pixel_values", "input_values", "input_features")


@dataclass(frozen=True, eq=False)
class BlockedTask:
    """A task that fine-tuning the published model should not be able to learn cheaply.

    The datasets are map-style and tokenised exactly like the trainer's ``train_dataset``; the same
    collator makes batches of both.

    Args:
        name: Short name used in logs, in the report and on the card: letters, digits, ``_``, ``-``.
        train: Rows the *simulated* adversary may use while hardening.
        attack: Rows the *real* attacker may use afterwards (70 % to train, 30 % to select).
        validation: Takes the place of ``attack`` where that is not given.
        test: Rows read once, for the report.
        label_column: Column with the blocked task's labels; of a classification they are integers.
        num_labels: Number of the head's outputs. Of a classification that is the number of classes; by default that
            of the column's ``ClassLabel``, else the largest label in ``train`` plus one.
        weight: Relative chance of being drawn in an outer step when there are several tasks.
        model_class: The ``AutoModelFor...`` class whose head the task needs, where it cannot be told from the
            model being hardened (a trunk, language model or tagger gets the class for classifying its inputs).
        kind: What labels, head, loss and score are; by default those of a classification.
        development: Share of ``test`` that is cut off, by a hash of the source document, as a split to compare recipes
            on: suites for choosing (``glance``) read it alone, all others read only the rest.
        document_column: Column with the source document of each test row; by default each content is one document.
        readings: With ``development``, the JSON Lines file to commit in which suites record each reading of the rows.

    Raises:
        ValueError: A column is missing, a label is none of this kind (an integer in range), a split is empty or two
            splits share a row or name their classes otherwise; the message names the task, the split and the row.

    Example:
        ```python
        gender = BlockedTask("gender", train=bios["train"], attack=bios["validation"],
                             test=bios["test"], label_column="gender", num_labels=2)
        ```
    """

    name: str
    train: Dataset
    attack: Dataset | None = None
    validation: Dataset | None = None
    test: Dataset | None = None
    label_column: str = "label"
    num_labels: int | None = None
    weight: float = 1.0
    model_class: Any = None
    kind: TaskKind = CLASSIFICATION
    development: float = 0.0
    document_column: str | None = None
    readings: str | Path = READINGS
    _cut: dict[str, Dataset] = field(init=False, repr=False, default_factory=dict)
    _labels: dict[str, np.ndarray] = field(init=False, repr=False, default_factory=dict)
    _contents: dict[str, list[str]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Check every split once, before anything is trained."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"blocked task name {self.name!r}: use letters, digits, '_' and '-' only.")
        if not self.weight > 0:
            raise ValueError(f"blocked task {self.name!r}: weight must be positive, got {self.weight}.")
        object.__setattr__(self, "model_class", self.model_class or self.kind.model_class)
        check_development(self.development, self.document_column)
        if self.development:
            _labels_of(self, TEST, self.test)
            self._cut.update(cut(self.test, _documents(self, self.test), self.development))
        for split, data in {"train": self.train, **self.splits()}.items():  # also where train is None
            self._labels[split] = _labels_of(self, split, data)
        features = {split: data.features[self.label_column] for split, data in self.splits().items()}
        column = LabelColumn(self.name, self.label_column, features, self._labels)
        object.__setattr__(self, "num_labels", self.kind.outputs(column, self.num_labels))
        for split, data in self.splits().items():
            self._contents[split] = content_hashes(data, self.label_column)
        _check_overlap(self)
        if self.development:
            parts = {split: self._labels[split] for split in self._cut}
            check_parts(parts, f"blocked task {self.name!r}: development={self.development}")

    @property
    def outputs(self) -> int:
        """Number of the head's outputs, given or counted: of a classification its number of classes."""
        return self.num_labels or 0

    def splits(self) -> dict[str, Dataset]:
        """The splits that exist, by role: ``train``, ``attack`` (or its stand-in), ``test``, ``development`` if cut."""
        attack = self.attack if self.attack is not None else self.validation
        given = {"train": self.train, "attack": attack, "test": self.test, **self._cut}
        return {role: data for role, data in given.items() if data is not None}

    def labels(self, split: str) -> np.ndarray:
        """Labels of a split, shape ``(rows,)``."""
        return self._labels[split]

    def contents(self, split: str) -> list[str]:
        """SHA-256 of each row's content, see :func:`content_hashes`."""
        return self._contents[split]

    def adversary_rows(self) -> np.ndarray:
        """Row numbers of ``train`` that the simulated adversary trains on (four fifths)."""
        return _partition(f"{self.name}/train", len(self.train), HELD_OUT_FRACTION)[0]

    def held_out_rows(self) -> np.ndarray:
        """Row numbers of ``train`` on which blocking losses are measured (the fixed fifth)."""
        return _partition(f"{self.name}/train", len(self.train), HELD_OUT_FRACTION)[1]

    def attacker_rows(self) -> np.ndarray:
        """Row numbers of ``attack`` that the real attacker trains on (70 %)."""
        return self._attack_parts()[0]

    def selection_rows(self) -> np.ndarray:
        """Row numbers of ``attack`` on which the real attacker selects (30 %)."""
        return self._attack_parts()[1]

    def _attack_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Of texts that run on over rows, the last ones are to select on: others would be of texts trained on."""
        count, name = len(self.splits()["attack"]), f"{self.name}/attack"
        return _partition(None if self.kind.running_text else name, count, SELECTION_FRACTION)

    def features(self, split: str, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Rows as a collator takes them: the model's inputs and the label in ``labels``.

        Args:
            split: One of :meth:`splits`.
            rows: Row numbers.
            columns: Columns that the model accepts; others are left out.

        Returns:
            One dictionary per row.
        """
        wanted = {*columns} - {*LABELS, self.label_column}
        found = rows_of(self.splits()[split], rows, wanted)
        return self.kind.padded(with_labels(found, self._labels[split][list(rows)]))

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Row count and SHA-256 of content and labels of every split, for the report."""
        return {
            split: {"rows": len(data), "sha256": _digest(self._contents[split], self._labels[split])}
            for split, data in self.splits().items()
        }

    def documents_sha256(self, split: str) -> str:
        """SHA-256 of the documents and labels of a split's rows, the same in any order and by any tokenizer."""
        documents = _documents(self, self.splits()[split])
        return _digest(*zip(*sorted(zip(documents, self.labels(split).tolist(), strict=True)), strict=True))


def draw_rows(rows: np.ndarray, size: int, *key: Any) -> np.ndarray:
    """Draw ``size`` different rows (all, where there are fewer) by a generator seeded from ``key``.

    A batch depends on its key alone (seed, task, global step, micro-step, inner step, rank), so
    there is no loader state: resuming is free and exact.

    Args:
        rows: Row numbers to draw from.
        size: Rows wanted.
        *key: Anything with a stable ``str``.

    Returns:
        Row numbers, shape ``(min(size, len(rows)),)``.
    """
    generator = torch.Generator().manual_seed(seed_of(*key))
    return rows[torch.randperm(len(rows), generator=generator)[:size].numpy()]


def seed_of(*key: Any) -> int:
    """A 63-bit seed from a key, the same on every machine and in every process."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def content_hashes(data: Dataset, label_column: str) -> list[str]:
    """SHA-256 of each row's content: the model inputs or, of pictures and sounds, the files; else all but the label."""
    columns = [c for c in CONTENT_COLUMNS if c in data.column_names]
    columns = columns or [c for c in data.column_names if isinstance(data.features[c], Audio | Image)]
    columns = columns or [c for c in data.column_names if c != label_column]
    cells = [_cells(data, column) for column in columns]
    return [hashlib.sha256(repr(row).encode()).hexdigest() for row in zip(*cells, strict=True)]


def _cells(data: Dataset, column: str) -> list[Any]:
    """A column's values; of pictures and sounds hashes, for decoded they are objects that look new each time."""
    plain, feature = data.with_format(None), data.features[column]
    if isinstance(feature, Audio | Image):
        return [_stored(cell) for cell in plain.cast_column(column, replace(feature, decode=False))[column]]
    return plain[column][:]


def _stored(cell: Mapping[str, Any] | None) -> str | None:
    """SHA-256 of the bytes of an undecoded file, which stand in the dataset or at a path."""
    if cell is None:
        return None
    content = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    return hashlib.sha256(content).hexdigest()


def fingerprint(data: Dataset) -> str:
    """SHA-256 of a dataset's content and labels."""
    label = label_column_of(data.column_names)
    labels = data.with_format(None)[label][:] if label else [None] * len(data)
    return _digest(content_hashes(data, label or ""), labels)


def _digest(contents: Iterable[str], labels: Iterable[Any]) -> str:
    rows = zip(contents, labels, strict=True)
    return hashlib.sha256("".join(f"{row}:{label};" for row, label in rows).encode()).hexdigest()


def label_column_of(columns: Sequence[str]) -> str | None:
    """The column that ``transformers`` takes for the labels; ``None`` where there is none."""
    return next((c for c in LABELS if c in columns), None)


def check_columns(columns: Sequence[str], wanted: str, where: str) -> None:
    """Refuse a missing column, naming it, where it was looked for and what there is."""
    if wanted not in columns:
        raise ValueError(f"{where}: no column {wanted!r}; the columns are {', '.join(columns)}.")


@functools.lru_cache(maxsize=64)  # asked for every batch
def _partition(name: str | None, count: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split ``range(count)`` once and for all into a large and a small part: by chance, or without a name the end."""
    order = np.arange(count)[::-1] if name is None else np.random.default_rng(seed_of(name)).permutation(count)
    small = max(1, round(count * fraction))
    parts = np.sort(order[small:]), np.sort(order[:small])
    for part in parts:
        part.flags.writeable = False
    return parts


def _labels_of(task: BlockedTask, split: str, data: Any) -> np.ndarray:
    where, column = f"blocked task {task.name!r}, split {split!r}", task.label_column
    if isinstance(data, Mapping) or not (hasattr(data, "__len__") and hasattr(data, "column_names")):
        raise ValueError(f"{where}: expected a map-style datasets.Dataset, got {type(data).__name__}.")
    if len(data) < 2:
        raise ValueError(f"{where}: {len(data)} rows; at least 2 are needed.")
    check_columns(data.column_names, column, where)
    return task.kind.read(data.with_format(None)[column][:], where, column)


def _documents(task: BlockedTask, data: Dataset) -> list[str]:
    """The source document of each row; its content, where no column names documents."""
    if (column := task.document_column) is None:
        return content_hashes(data, task.label_column)
    where = f"blocked task {task.name!r}, split {TEST!r}"
    check_columns(data.column_names, column, where)
    found = data.with_format(None)[column][:]
    if None in found:
        raise ValueError(f"{where}, column {column!r}, row {found.index(None)}: the document is missing; name it.")
    return [str(document) for document in found]


def _check_overlap(task: BlockedTask) -> None:
    """No row of one split may stand in another: a leak makes every later number worthless."""
    seen: dict[str, tuple[str, int]] = {}
    for split in task.splits():
        hashes = task.contents(split)
        for row, content in enumerate(hashes):
            if content in seen:
                other, where = seen[content]
                raise ValueError(
                    f"blocked task {task.name!r}: row {row} of split {split!r} is also row {where} of split "
                    f"{other!r} (rows are compared by what the model sees); splits must not share rows."
                )
        seen.update((content, (split, row)) for row, content in enumerate(hashes))
