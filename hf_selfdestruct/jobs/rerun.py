"""Recorded attacks once more, drawn at random from the plan: do the numbers on the card stand?"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..attacks import Attack, AttackData, Target, Trial, named_suite
from ..attacks.data import DesiredData
from ..attacks.methods.references import with_more
from ..attacks.suites.audit import plan_problems, planned
from ..attacks.suites.plan import Job, known_splits
from ..attacks.suites.search import FAILURES
from ..publish.manifest import REPORT
from ..report.attack_run import AttackRun
from ..report.report import AttackReport
from .config import HardenConfig
from .job import blocked_tasks
from .label_order import numbered_as
from .processors import Processor, collator_of, padding_of, processor_of
from .text_data import load_data

TOLERANCE = 0.02  # in accuracy: what another machine's arithmetic was seen to change over a fine-tuning, and room
MORE_OFTEN = 4.0  # times as often as another is a run drawn that a headline rests on
Accuracies = tuple[float, ...]


@dataclass(frozen=True)
class Rerun:
    """A recorded run, and the same run now.

    Attributes:
        run: The recorded run.
        now: Its accuracies now, on the selection and the test split; only the first for settings given up at a rung,
            none for a run that failed.
    """

    run: AttackRun
    now: Accuracies

    @property
    def recorded(self) -> Accuracies:
        """The accuracies on record, as in ``now``."""
        return _accuracies(self.run)

    @property
    def stands(self) -> bool:
        """Whether the run reaches now what the report says, within :data:`TOLERANCE`, neither less nor more."""
        alike = all(abs(a - b) <= TOLERANCE for a, b in zip(self.recorded, self.now, strict=False))
        return alike and len(self.recorded) == len(self.now)

    def line(self) -> str:
        """The finding in one line."""
        verdict = "the number stands" if self.stands else "THE NUMBER DOES NOT STAND"
        return (
            f"{self.run.task}: {self.run.attack} on {self.run.role} with {self.run.examples} examples, seed "
            f"{self.run.seed}: recorded {_shown(self.recorded)}, now {_shown(self.now)}: {verdict} "
            f"(tolerance {TOLERANCE})"
        )


@dataclass(frozen=True)
class Reruns:
    """Runs repeated.

    Attributes:
        found: Each with what it reached now.
        among: How many runs they were drawn from.
        on_record: How many runs of blocked tasks the report has.
        seed: Of the draw.
    """

    found: tuple[Rerun, ...]
    among: int
    on_record: int
    seed: int

    def line(self) -> str:
        """What was repeated, and what that shows, in one line."""
        count = len(self.found)
        return (
            f"repeated {count} of {self.on_record} runs, drawn by --rerun-seed {self.seed} from the {self.among} that "
            f"need no undefended weights: a publisher who invented 1 of 100 numbers passes this with probability "
            f"{0.99**count:.2f}; who made the evidence, only a signature shows"
        )


def rerun(folder: str | Path, config: HardenConfig, *, count: int = 3, seed: int | None = None) -> Reruns:
    """Repeat runs, with their settings and seeds, on this folder's weights and the references that are at hand.

    Every run on record may be drawn, also one that was given up or failed; see :func:`drawn`.

    Args:
        folder: A hardened folder, verified.
        config: Where the data is: the report holds only its fingerprints. Its ``model`` is the base.
        count: Runs of each blocked task.
        seed: Of the draw; by default one that no publisher can know.

    Raises:
        ValueError: The report is not what its suite makes, or weights or data are not those of the report.
    """
    report = AttackReport.load(Path(folder, REPORT))
    if problems := plan_problems(report):
        raise ValueError(f"{folder}: nothing is repeated from a report that departs from its plan: {problems[0]}.")
    processor = processor_of(str(folder), config.data)
    targets, columns = _targets(report, str(folder), config.model, processor), processor.model_input_names
    rows = numbered_as(load_data(config, processor), folder)
    tasks = [task for task in blocked_tasks(config, rows, processor) if task.name in report.blocked()]
    if missing := set(report.blocked()) - {task.name for task in tasks}:
        raise ValueError(f"the configuration has no blocked task {', '.join(sorted(missing))}.")
    for task in tasks:
        if known_splits(task) != report.tasks[task.name].fingerprints:
            raise ValueError(f"{task.name}: these are not the rows that the report's attacks were made with.")
    desired = DesiredData.of(rows["train"], rows["validation"], columns)
    if (desired is not None) != report.suite.desired:
        known = report.suite.desired
        raise ValueError(f"the report states desired={known}, and the configuration's rows give {not known}.")
    suite = named_suite(report.suite.name)
    job = Job(suite, [targets["hardened"]], tasks, columns, collator_of(processor), desired=desired)
    attacks = {one.key: one.attack for one in planned(report, suite) if "sibling" not in one.attack.needs}
    seed = secrets.randbelow(2**31) if seed is None else seed
    found, among = [], 0
    for name, data in job.data().items():
        runs = [run for run in report.runs if run.task == name and run.role in targets and _key(run) in attacks]
        among += len(runs)
        for run in drawn(report, runs, count, seed):
            found.append(Rerun(run, _again(attacks[_key(run)], targets[run.role], data, run)))
    on_record = sum(run.task in report.blocked() for run in report.runs)
    return Reruns(tuple(found), among, on_record, seed)


def drawn(report: AttackReport, runs: list[AttackRun], count: int, seed: int) -> list[AttackRun]:
    """Some runs of one task, without repetition: any may come, those that headlines rest on more often.

    Args:
        report: The report.
        runs: Those to draw from.
        count: How many at most.
        seed: Of the draw.
    """
    generator = np.random.default_rng(seed)
    cells = {(run.task, run.examples, run.role) for run in runs if run.role != "undefended"}
    named = {id(run) for cell in cells for run in report.strongest_runs(*cell)}
    weights = np.array([MORE_OFTEN if id(run) in named else 1.0 for run in runs])
    chosen = generator.choice(len(runs), min(count, len(runs)), replace=False, p=weights / weights.sum())
    return [runs[int(i)] for i in chosen]


def _targets(report: AttackReport, folder: str, base: str, processor: Processor) -> dict[str, Target]:
    """By role, the models at hand that are those of the report."""
    hardened = Target("hardened", folder, padding=padding_of(processor))
    known = {role: one.sha256 for role, one in report.models.items()}
    if hardened.identity().sha256 != known["hardened"]:
        raise ValueError(f"{folder}: these are not the weights that the report's attacks were made on.")
    found = {"hardened": hardened, "raw": Target("raw", "")}
    here = base if Path(base).is_dir() else ""  # what is on the Hub has no hash that could be compared
    if here and (own := dataclasses.replace(hardened, role="base", folder=here)).identity().sha256 != known["base"]:
        raise ValueError(f"model {base} of the configuration is not the base that was attacked.")
    if here:
        found["base"] = own
    for place in (here, folder):
        scratch = dataclasses.replace(hardened, role="scratch", folder=place, random=True)
        if place and scratch.identity().sha256 == known["scratch"]:
            return found | {role: dataclasses.replace(scratch, role=role) for role in ("scratch", "null", "more")}
    return found


def _again(attack: Attack, target: Target, data: AttackData, run: AttackRun) -> Accuracies:
    until = attack.rung(run.settings) if run.status == "pruned" else None
    data = with_more(data) if run.role == "more" else data
    try:
        return _accuracies(attack.run(Trial(target, data, run.examples, run.seed, run.settings, until)))
    except FAILURES:
        return ()


def _accuracies(run: Any) -> Accuracies:
    return tuple(scores.value for scores in (run.selection, run.test) if scores)


def _key(run: AttackRun) -> tuple[str, str, str, int]:
    return run.task, run.attack, run.role, run.examples


def _shown(accuracies: Accuracies) -> str:
    return " / ".join(f"{one:.4f}" for one in accuracies) or "failed"
