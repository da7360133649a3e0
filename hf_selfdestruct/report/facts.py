"""What a report states beside its runs, as frozen data: suite, tasks, models, attacks, desired quality. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SuiteFacts:
    """The suite whose attacks were run.

    Attributes:
        name: Its name.
        version: Its version; two reports compare where both agree.
        seeds: Repetitions of the chosen settings; ``None`` where they are not stated.
        limit: Most rows of the selection and of the test split; ``None`` for all.
        note: What its protocol does to the scores; empty where there is nothing to say.
        record: By which plan the report is checked; ``None`` before there was one.
        desired: Whether the attacker had the desired task's rows; ``None`` where it is not stated.
    """

    name: str
    version: int
    seeds: int | None = None
    limit: int | None = None
    note: str = ""
    record: int | None = None
    desired: bool | None = None


@dataclass(frozen=True)
class RowCounts:
    """Rows that the attacks had of a task; 0 where they are not stated.

    Attributes:
        train: Rows to train on.
        selection: Rows to choose settings by.
        test: Rows of the scores.
    """

    train: int = 0
    selection: int = 0
    test: int = 0


@dataclass(frozen=True)
class SplitFacts:
    """Fingerprint of a split of a task.

    Attributes:
        rows: How many it has.
        sha256: Hash of their content and labels.
    """

    rows: int
    sha256: str


ACCURACY = "accuracy"  # by which classifications are scored


@dataclass(frozen=True)
class TaskFacts:
    """A task that the models were attacked on.

    Attributes:
        majority: What the best constant answer scores: the rate of the commonest test label.
        num_labels: Number of classes; 0 where it is not stated, and then no predictions are on record.
        labels: Labels of the test rows, see :func:`.packing.packed_labels`; empty where they are not on record.
        selection: Labels of the selection rows, likewise.
        rows: Rows that the attacks had.
        fingerprints: Split to its fingerprint.
        control: Whether it is a benign task, attacked to see that it can still be learned.
        score: What its score is called; that of another kind of task than classification has another name.
    """

    majority: float
    num_labels: int = 0
    labels: str = ""
    selection: str = ""
    rows: RowCounts = RowCounts()
    fingerprints: dict[str, SplitFacts] = field(default_factory=dict)
    control: bool = False
    score: str = ACCURACY

    @property
    def has_classes(self) -> bool:
        """Whether it is a classification; other tasks have no AUC, no labels and no predictions on record."""
        return self.score == ACCURACY

    @property
    def constant(self) -> str:
        """What the best constant answer is called."""
        return "commonest label" if self.has_classes else "best constant answer"

    @property
    def chance(self) -> str:
        """What the best constant answer scores is called."""
        return "the commonest label's rate" if self.has_classes else "what the best constant answer scores"

    def described(self) -> str:
        """What the task is, in a few words."""
        if self.has_classes:
            count = self.num_labels or "not stated"
            return f"{count} classes; rate of the commonest test label {self.majority:.3f}"
        return f"scored by {self.score}; the best constant answer scores {self.majority:.3f}"

    def rows_in(self, split: str) -> int:
        """Rows of a split, as its fingerprint counts them; 0 where it has none."""
        return self.fingerprints[split].rows if split in self.fingerprints else 0


@dataclass(frozen=True)
class ModelFacts:
    """A model that was attacked.

    Attributes:
        name: Its folder's name; empty where it is not stated.
        sha256: Hash of its weights (of the configuration, for random ones); empty where there are none to hash here.
        unlike_plain: What differs where plain ``transformers`` does not load it as it was trained; else empty.
    """

    name: str = ""
    sha256: str = ""
    unlike_plain: str = ""


@dataclass(frozen=True)
class AttackFacts:
    """An attack of the suite.

    Attributes:
        assumes: What the attacker is assumed to hold; empty where it is not stated.
        outside: Whether it stands outside the headline, because it starts from what it is meant to recover.
    """

    assumes: str = ""
    outside: bool = False


@dataclass(frozen=True)
class DesiredFacts:
    """Quality on the desired task.

    Attributes:
        dataset: Where it was measured; empty where it is not stated.
        quality: Role to its metrics, by name.
    """

    dataset: str = ""
    quality: dict[str, dict[str, float]] = field(default_factory=dict)

    def of(self, role: str) -> dict[str, float]:
        """Metrics of a role; none where it was not measured."""
        return self.quality.get(role, {})
