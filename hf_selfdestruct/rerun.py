"""The worst recorded attack once more: does the number on the card stand?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, DataCollatorWithPadding

from .attacks import Target, named_suite
from .attacks.data import DesiredData
from .attacks.job import Job
from .config import HardenConfig
from .corpus import load_data
from .manifest import REPORT
from .recipe import blocked_tasks
from .report import AttackReport, AttackRun

TOLERANCE = 0.02  # in accuracy: what another machine's arithmetic was seen to change over a fine-tuning, and room


@dataclass(frozen=True)
class Rerun:
    """A recorded run, and the same run now.

    Attributes:
        run: The recorded run.
        recorded: Its test accuracy.
        accuracy: The test accuracy now.
    """

    run: AttackRun
    recorded: float
    accuracy: float

    @property
    def stands(self) -> bool:
        """Whether the attack reaches now what the report says, within :data:`TOLERANCE`, and no more."""
        return abs(self.accuracy - self.recorded) <= TOLERANCE

    def line(self) -> str:
        """The finding in one line."""
        verdict = "the number stands" if self.stands else "THE NUMBER DOES NOT STAND"
        return (
            f"{self.run.task}: {self.run.attack} with {self.run.examples} examples, seed {self.run.seed}: recorded "
            f"{self.recorded:.4f}, now {self.accuracy:.4f}: {verdict} (tolerance {TOLERANCE})"
        )


def rerun(folder: str | Path, config: HardenConfig) -> list[Rerun]:
    """Repeat, with its settings and seed, the run that reached most on each blocked task.

    Args:
        folder: A hardened folder, verified.
        config: Where the data is: the report holds only its fingerprints.

    Raises:
        ValueError: The data is not what was attacked with, or the suite is no shipped one of that version.
    """
    report = AttackReport.load(Path(folder, REPORT))
    suite = named_suite(str(report.suite["name"]))
    if suite.version != report.suite["version"]:
        raise ValueError(
            f"{folder} was attacked by {suite.name} version {report.suite['version']}; this is version {suite.version}."
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    rows = load_data(config, tokenizer)
    tasks = [task for task in blocked_tasks(config, rows) if task.name in report.blocked()]
    if missing := set(report.blocked()) - {task.name for task in tasks}:
        raise ValueError(f"the configuration has no blocked task {', '.join(sorted(missing))}.")
    for task in tasks:
        if task.fingerprints() != report.tasks[task.name].get("fingerprints"):
            raise ValueError(f"{task.name}: these are not the rows that the report's attacks were made with.")
    columns, target = tokenizer.model_input_names, Target("hardened", str(folder))
    desired = DesiredData.of(rows["train"], rows["validation"], columns)
    job = Job(suite, [target], tasks, columns, DataCollatorWithPadding(tokenizer), desired=desired)
    found = []
    for name, data in job.data().items():
        worst = max(_strongest(report, name), key=_reached)
        attack = {attack.name: attack for attack, _ in suite.plan(len(data.train.labels))}[worst.attack]
        outcome = attack.run(target, data, examples=worst.examples, seed=worst.seed, settings=worst.settings)
        found.append(Rerun(worst, _reached(worst), _reached(outcome)))
    return found


def _strongest(report: AttackReport, task: str) -> list[AttackRun]:
    """The runs of the attacks that the headlines name."""
    runs = [run for n in report.budgets(task) for run in report.strongest_runs(task, n, "hardened")]
    if not runs:
        raise ValueError(f"{task}: no attack on the hardened model is on record.")
    return runs


def _reached(run: Any) -> float:
    return run.test.accuracy if run.test else 0.0
