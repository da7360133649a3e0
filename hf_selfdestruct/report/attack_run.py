"""What one attack run left on record, and how runs over seeds are summarised. It knows no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

ROLES = ("base", "undefended", "hardened", "scratch")
# Rows beside the models: scratch again on other random weights, scratch with more data and steps, the raw input.
REFERENCES = ("null", "more", "raw")
NOT_MEASURED = "not measured"
STATUSES = ("ok", "pruned", "failed")


@dataclass(frozen=True)
class Scores:
    """Quality on one split.

    Attributes:
        accuracy: Share of rows labelled right.
        auc: Area under the ROC curve, one class against the rest, mean over classes.
        balanced_accuracy: Mean over classes of the share labelled right.
        loss: Cross-entropy in nats.
        extra: Metrics of the user's own; ``None`` where one is undefined.
    """

    accuracy: float
    auc: float
    balanced_accuracy: float
    loss: float
    extra: dict[str, float | None] = field(default_factory=dict)

    @property
    def merit(self) -> tuple[float, float]:
        """What an attacker chooses by: accuracy, then AUC.

        A resisting model gives many settings the commonest label's accuracy. The loss would not tell them apart well:
        it prefers what has learned nothing to what is often right and too sure.
        """
        return self.accuracy, self.auc


@dataclass(frozen=True)
class AttackRun:
    """One attack run on one model, chosen or not.

    Attributes:
        task: Blocked task.
        attack: The attack's name in the field.
        role: ``hardened``, ``undefended``, ``base``, ``scratch``, or one of :data:`REFERENCES`.
        examples: Blocked training examples the attacker had.
        seed: Seed of subset, head and data order.
        settings: Hyper-parameters.
        chosen: Whether the selection split chose these settings for this attack, model and ``examples``.
        status: ``ok``; ``pruned`` for settings given up at an early rung; ``failed`` for a run that crashed or
            diverged (never counted as resisted).
        selection: Scores on the split the attacker selects on; ``None`` when failed.
        test: Scores on the test split; ``None`` when failed or pruned.
        steps: Optimizer steps (0 for a closed-form or convex fit).
        seconds: Wall time.
        error: What went wrong, when failed.
        flops: Floating-point operations of training, as counted by torch on one step (of encoding, for a probe).
        curve: Pairs of step and accuracy on the selection split, at every look.
        desired_drop: Desired-task accuracy lost through the attack; ``None`` where it was not measured.
        optimism: What of the selection accuracy is owed to having been the best of many settings.
        found: What the run itself chose on the selection split, such as a probe's layer.
        predictions: Class probabilities of the test rows, see :func:`.packing.packed`; on record for chosen runs.
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


@dataclass(frozen=True)
class Summary:
    """Test scores of one attack on one model over seeds: mean, standard deviation, worst (highest accuracy).

    ``selection`` is the mean accuracy on the selection split without the optimism of having been chosen there:
    what attacks are ranked by. ``desired_drop`` is ``None`` where it was not measured.
    """

    attack: str
    role: str
    examples: int
    seeds: int
    mean: float
    deviation: float
    worst: float
    auc: float
    balanced_accuracy: float
    selection: float
    desired_drop: float | None


def summarise(runs: Sequence[AttackRun]) -> Summary:
    """Runs of one attack on one model with one number of examples, chosen and completed, as one summary."""
    tests = [run.test for run in runs if run.test]
    accuracies = [test.accuracy for test in tests]
    drops = [run.desired_drop for run in runs if run.desired_drop is not None]
    first = runs[0]
    chosen_by = statistics.fmean(run.selection.accuracy - run.optimism for run in runs if run.selection)
    return Summary(
        attack=first.attack,
        role=first.role,
        examples=first.examples,
        seeds=len(runs),
        mean=statistics.fmean(accuracies),
        deviation=statistics.stdev(accuracies) if len(tests) > 1 else math.nan,
        worst=max(accuracies),
        auc=statistics.fmean(test.auc for test in tests),
        balanced_accuracy=statistics.fmean(test.balanced_accuracy for test in tests),
        selection=chosen_by,
        desired_drop=statistics.fmean(drops) if drops else None,
    )


def summaries_of(runs: Iterable[AttackRun]) -> list[Summary]:
    """One summary per attack, examples and role, over the seeds of the chosen settings."""
    groups: dict[tuple[str, int, str], list[AttackRun]] = {}
    for run in runs:
        if run.chosen and run.status == "ok":
            groups.setdefault((run.attack, run.examples, run.role), []).append(run)
    return [summarise(group) for group in groups.values()]


def cell(summary: Summary | None) -> str:
    """A summary in a table: mean and standard deviation, the latter where there are several seeds."""
    if summary is None:
        return NOT_MEASURED
    spread = "" if math.isnan(summary.deviation) else f" ± {summary.deviation:.3f}"
    return f"{summary.mean:.3f}{spread}"
