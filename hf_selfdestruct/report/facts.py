"""Facts in a report besides the runs: suite, tasks, models, attacks, desired quality. Frozen data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SuiteFacts:
    """The attack suite.

    Attributes:
        name: Name of the suite.
        version: Version of the suite; reports are comparable if name and version are equal.
        seeds: Number of seeds of the chosen settings; ``None`` if not stated.
        limit: Maximum rows of the selection and of the test split; ``None`` for all.
        note: Effect of the protocol on the scores, if any.
        record: Version of the plan to check the report against; ``None`` for older reports.
        desired: Whether the attacker had the desired task's rows; ``None`` if not stated.
        choosing: Whether it is for choosing: it scores on the development rows of tasks that have them.
    """

    name: str
    version: int
    seeds: int | None = None
    limit: int | None = None
    note: str = ""
    record: int | None = None
    desired: bool | None = None
    choosing: bool = False


@dataclass(frozen=True)
class RowCounts:
    """Number of rows per split of a task in the attacks; 0 if not stated.

    Attributes:
        train: Training rows.
        selection: Rows to choose settings on.
        test: Rows to score on, of whichever split.
    """

    train: int = 0
    selection: int = 0
    test: int = 0


@dataclass(frozen=True)
class SplitFacts:
    """Fingerprint of a split of a task.

    Attributes:
        rows: Number of rows.
        sha256: Hash of the rows' content and labels.
    """

    rows: int
    sha256: str


@dataclass(frozen=True)
class Readings:
    """How often a task's rows were read before this report, by the file that records it.

    Attributes:
        test: Runs of suites that scored on the test rows.
        development: Runs of suites that scored on the development rows.
        compared: Results that these compared on the development rows.
    """

    test: int = 0
    development: int = 0
    compared: int = 0


ACCURACY = "accuracy"  # by which classifications are scored
LIKELIHOOD = "log-likelihood per token"  # by which next-token predictions are scored, in nats


@dataclass(frozen=True)
class TaskFacts:
    """A task of the attacks.

    Attributes:
        majority: What the best constant answer scores: the rate of the commonest test label.
        num_labels: Number of classes; 0 where it is not stated, and then no predictions are on record.
        labels: Labels of the test rows, see :func:`.packing.packed_labels`; empty where they are not on record.
        selection: Labels of the selection rows, likewise.
        rows: Rows that the attacks had.
        fingerprints: Split to its fingerprint.
        control: Whether it is a benign task, attacked to see that it can still be learned.
        score: What its score is called; that of another kind of task than classification has another name.
        scored_on: The split that the attacks were scored on: ``test`` or ``development``.
        pairs: Whether its rows are pairs of texts.
        earlier: Earlier readings of its rows; ``None`` where no development split was cut, for then nobody counts.
    """

    majority: float
    num_labels: int = 0
    labels: str = ""
    selection: str = ""
    rows: RowCounts = RowCounts()
    fingerprints: dict[str, SplitFacts] = field(default_factory=dict)
    control: bool = False
    score: str = ACCURACY
    scored_on: str = "test"
    pairs: bool = False
    earlier: Readings | None = None

    @property
    def has_classes(self) -> bool:
        """Whether it is a classification; other tasks have no AUC and no labels on record."""
        return self.score == ACCURACY

    @property
    def has_tokens(self) -> bool:
        """Whether it is next-token prediction; sums over each row's tokens are on record in place of predictions."""
        return self.score == LIKELIHOOD

    @property
    def has_rows(self) -> bool:
        """Whether what each row contributes to the score is on record, so that differences have intervals."""
        return self.has_classes or self.has_tokens

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
            return f"{count} classes; rate of the commonest {self.scored_on} label {self.majority:.3f}"
        return f"scored by {self.score}; the best constant answer scores {self.majority:.3f}"

    def rows_in(self, split: str) -> int:
        """Return the number of rows in the fingerprint of a split; 0 without a fingerprint."""
        return self.fingerprints[split].rows if split in self.fingerprints else 0


@dataclass(frozen=True)
class ModelFacts:
    """An attacked model.

    Attributes:
        name: Name of the model's folder; empty if not stated.
        sha256: Hash of the weights (of the configuration, for random weights); empty if there are no local weights.
        unlike_plain: How the model loaded by plain ``transformers`` differs from the trained one; empty if it does not.
    """

    name: str = ""
    sha256: str = ""
    unlike_plain: str = ""


@dataclass(frozen=True)
class AttackFacts:
    """An attack of the suite.

    Attributes:
        assumes: What the attacker is assumed to have; empty if not stated.
        outside: Whether the headline excludes the attack, because it starts from what it should recover.
    """

    assumes: str = ""
    outside: bool = False


@dataclass(frozen=True)
class DesiredFacts:
    """Quality on the desired task.

    Attributes:
        dataset: Data set of the measurement; empty if not stated.
        quality: Role to its metrics, by name.
    """

    dataset: str = ""
    quality: dict[str, dict[str, float]] = field(default_factory=dict)

    def of(self, role: str) -> dict[str, float]:
        """Return the metrics of a role; empty if not measured."""
        return self.quality.get(role, {})
