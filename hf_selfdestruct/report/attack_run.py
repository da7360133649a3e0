"""The record of one attack run, and summaries of runs over seeds. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

FILTERED = "filtered"  # trained as the base was, but never on the blocked task; attacked where there is one
ROLES = ("base", "undefended", "hardened", FILTERED, "scratch")
# References besides the models: scratch with other random weights, scratch with more data and steps, the raw input.
REFERENCES = ("null", "more", "raw")
NOT_MEASURED = "not measured"
STATUSES = ("ok", "pruned", "failed")


@dataclass(frozen=True)
class Scores:
    """Quality on one split; of another task than a classification ``score`` takes the place of what needs classes.

    Attributes:
        accuracy: Accuracy.
        auc: Area under the ROC curve, one class against the rest, averaged over classes.
        balanced_accuracy: Recall averaged over classes.
        loss: Cross-entropy in nats; of another task what fine-tuning minimises.
        extra: The user's metrics, and those of the kind of task beside its score; ``None`` for an undefined one.
        score: The score that the task's facts name, where that is not accuracy; the higher the better.
    """

    accuracy: float | None
    auc: float | None
    balanced_accuracy: float | None
    loss: float
    extra: dict[str, float | None] = field(default_factory=dict)
    score: float | None = None

    def __post_init__(self) -> None:
        """Refuse scores of no kind of task, or of two."""
        given = {value is not None for value in (self.accuracy, self.auc, self.balanced_accuracy)}
        if given != {self.score is None}:
            raise ValueError(f"scores are accuracy, auc and balanced_accuracy, or score instead of them; got {self}.")

    @property
    def value(self) -> float:
        """What tables show: accuracy, or the score of another kind of task."""
        return self.accuracy if self.accuracy is not None else self.score  # type: ignore[return-value]

    @property
    def merit(self) -> tuple[float, float]:
        """The attacker's selection criterion: accuracy, then AUC; the score alone of another kind of task.

        On a resistant model, many settings reach the accuracy of the commonest label. AUC breaks such ties better than
        the loss, which prefers a classifier that learned nothing to an accurate but overconfident one.
        """
        return self.value, self.auc or 0.0


@dataclass(frozen=True)
class AttackRun:
    """One attack run on one model, chosen or not.

    Attributes:
        task: Blocked task.
        attack: Name of the attack in the literature.
        role: one of :data:`ROLES`, or one of :data:`REFERENCES`.
        examples: Number of blocked training examples.
        seed: Seed of subset, head and data order.
        settings: Hyper-parameters.
        chosen: Whether the selection split chose these settings for this attack, model and ``examples``.
        status: ``ok``; ``pruned`` for a short run, after which its settings were given up; ``failed`` for a run that
            crashed or diverged (never counted as resisted).
        selection: Scores on the selection split; ``None`` if failed.
        test: Scores on the test split; ``None`` if failed or pruned.
        steps: Optimizer steps (0 for a closed-form or convex fit).
        seconds: Wall time.
        error: Error message, if failed.
        flops: Floating-point operations of training, as counted by torch on one step (of encoding, for a probe).
        curve: Pairs of step and score on the selection split, at every evaluation.
        desired_drop: Loss of desired accuracy caused by the attack; for language models, the rise of general loss in
            nats per token; ``None`` if not measured.
        optimism: Selection bias: the part of the selection score due to choosing the best of many settings.
        found: Choices that the run itself made on the selection split, such as a probe's layer.
        predictions: Class probabilities of the test rows, see :func:`.packing.packed`; recorded for chosen runs.
        selected: Class probabilities of the selection rows, likewise.
        general: Loss on desired texts in nats per token, before the attack and at every evaluation; empty if not
            measured.
        gibberish: Share of the continuations of desired texts that are gibberish, before the attack and after it;
            empty if not measured.
        rung: Score on the selection split in the short run after which other settings were given up; ``None`` where
            none were, for those, at further seeds, and where the short run failed.
    """

    task: str
    attack: str
    role: str
    examples: int
    seed: int
    settings: dict[str, Any]
    chosen: bool
    status: str
    selection: Scores | None
    test: Scores | None
    steps: int
    seconds: float
    error: str = ""
    flops: float = 0.0
    curve: tuple[tuple[float, ...], ...] = ()
    desired_drop: float | None = None
    optimism: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    predictions: str = ""
    selected: str = ""
    general: tuple[float, ...] = ()
    gibberish: tuple[float, ...] = ()
    rung: float | None = None


@dataclass(frozen=True)
class Summary:
    """Test scores of one attack on one model over seeds: mean, standard deviation, worst (highest score).

    ``selection`` is the mean score on the selection split, corrected for selection bias; attacks are ranked by it.
    ``desired_drop`` is ``None`` if it was not measured.
    """

    attack: str
    role: str
    examples: int
    seeds: int
    mean: float
    deviation: float
    worst: float
    auc: float | None
    balanced_accuracy: float | None
    selection: float
    desired_drop: float | None

    def beside(self) -> str:
        """AUC and balanced accuracy, where there are classes."""
        known = self.auc is not None and self.balanced_accuracy is not None
        return f"{self.auc:.3f} / {self.balanced_accuracy:.3f}" if known else NOT_MEASURED


def summarise(runs: Sequence[AttackRun]) -> Summary:
    """Summarise the chosen and completed runs of one attack on one model with one number of examples."""
    tests = [run.test for run in runs if run.test]
    values = [test.value for test in tests]
    drops = [run.desired_drop for run in runs if run.desired_drop is not None]
    first = runs[0]
    chosen_by = statistics.fmean(run.selection.value - run.optimism for run in runs if run.selection)
    return Summary(
        attack=first.attack,
        role=first.role,
        examples=first.examples,
        seeds=len(runs),
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(tests) > 1 else math.nan,
        worst=max(values),
        auc=_mean(test.auc for test in tests),
        balanced_accuracy=_mean(test.balanced_accuracy for test in tests),
        selection=chosen_by,
        desired_drop=statistics.fmean(drops) if drops else None,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def summaries_of(runs: Iterable[AttackRun]) -> list[Summary]:
    """Summarise runs per attack, examples and role, over the seeds of the chosen settings."""
    groups: dict[tuple[str, int, str], list[AttackRun]] = {}
    for run in runs:
        if run.chosen and run.status == "ok":
            groups.setdefault((run.attack, run.examples, run.role), []).append(run)
    return [summarise(group) for group in groups.values()]


def cell(summary: Summary | None) -> str:
    """Format a summary for a table: mean, and standard deviation if there are several seeds."""
    if summary is None:
        return NOT_MEASURED
    spread = "" if math.isnan(summary.deviation) else f" ± {summary.deviation:.3f}"
    return f"{summary.mean:.3f}{spread}"
