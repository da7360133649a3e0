"""Repeat randomly drawn attacks to check the numbers on the card."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..attacks import Attack, AttackData, Target, Trial, named_suite
from ..attacks.methods.references import with_more
from ..attacks.suites.audit import plan_problems, planned
from ..attacks.suites.plan import Job, known_splits
from ..attacks.suites.search import FAILURES
from ..publish.manifest import REPORT
from ..report.attack_run import FILTERED, AttackRun
from ..report.report import AttackReport
from .config import HardenConfig
from .job import attacker_collate, attacker_desired, blocked_tasks, examples
from .processors import Processor, padding_of, processor_of

TOLERANCE = 0.02  # in accuracy: the measured effect of another machine's arithmetic on fine-tuning, plus a margin
MORE_OFTEN = 4.0  # weight, in the draw, of a run that a headline uses
Accuracies = tuple[float, ...]


@dataclass(frozen=True)
class Rerun:
    """A recorded run and its repetition.

    Attributes:
        run: The recorded run.
        now: New accuracies on the selection and the test split, and after the short run where others were given up;
            only the first for a pruned run, none for a failed one.
    """

    run: AttackRun
    now: Accuracies

    @property
    def recorded(self) -> Accuracies:
        """The recorded accuracies, in the order of ``now``."""
        return _accuracies(self.run, self.run.rung if self.run.status == "ok" else None)

    @property
    def stands(self) -> bool:
        """Whether the new accuracies equal the recorded ones within :data:`TOLERANCE`."""
        alike = all(abs(a - b) <= TOLERANCE for a, b in zip(self.recorded, self.now, strict=False))
        return alike and len(self.recorded) == len(self.now)

    def line(self) -> str:
        """Describe the result in one line."""
        verdict = "reproduced" if self.stands else "NOT REPRODUCED"
        return (
            f"{self.run.task}: {self.run.attack} on {self.run.role} with {self.run.examples} examples, seed "
            f"{self.run.seed}: recorded {_shown(self.recorded)}, now {_shown(self.now)}: {verdict} "
            f"(tolerance {TOLERANCE})"
        )


@dataclass(frozen=True)
class Reruns:
    """The repeated runs.

    Attributes:
        found: The drawn runs with their repetitions.
        among: Number of runs to draw from.
        on_record: Number of runs of blocked tasks in the report.
        seed: Seed of the draw.
    """

    found: tuple[Rerun, ...]
    among: int
    on_record: int
    seed: int

    def line(self) -> str:
        """Describe in one line what was repeated and what that proves."""
        count = len(self.found)
        return (
            f"repeated {count} of {self.on_record} runs, drawn with --rerun-seed {self.seed} from the {self.among} "
            f"on weights that are here or random: a publisher who invented 1 of 100 numbers passes this check "
            f"with probability {0.99**count:.2f}; only a signature proves who published the evidence"
        )


def rerun(folder: str | Path, config: HardenConfig, *, count: int = 3, seed: int | None = None) -> Reruns:
    """Repeat runs, with their settings and seeds, on this folder's weights and the available references.

    Every recorded run may be drawn, including pruned and failed ones; see :func:`drawn`.

    Args:
        folder: A verified hardened folder.
        config: Configuration that names the data, of which the report contains only fingerprints, and the base.
        count: Number of runs of each blocked task.
        seed: Seed of the draw; by default one that no publisher can predict.

    Raises:
        ValueError: The report departs from its suite's plan, or weights or data are not those of the report.
    """
    report = AttackReport.load(Path(folder, REPORT))
    if problems := plan_problems(report):
        raise ValueError(f"{folder}: the report departs from its plan, so no run is repeated: {problems[0]}.")
    processor = processor_of(str(folder), config.data)
    targets, columns = _targets(report, str(folder), config, processor), processor.model_input_names
    rows = examples(config, processor, str(folder))
    tasks = [task for task in blocked_tasks(config, rows, processor) if task.name in report.blocked()]
    if missing := set(report.blocked()) - {task.name for task in tasks}:
        raise ValueError(
            f"the configuration lacks blocked tasks of the report: {', '.join(sorted(missing))}; pass the "
            "configuration that the model was hardened with."
        )
    for task in tasks:
        if known_splits(task) != report.tasks[task.name].fingerprints:
            raise ValueError(
                f"{task.name}: the rows differ from those of the report's attacks; use the original data and splits."
            )
    desired = attacker_desired(config, rows, columns)
    if (desired is not None) != report.suite.desired:
        known = report.suite.desired
        raise ValueError(f"the report has desired={known}, but the configuration's rows imply {not known}.")
    suite = named_suite(report.suite.name)
    job = Job(suite, [targets["hardened"]], tasks, columns, attacker_collate(config, processor), desired=desired)
    attacks = {one.key: one.attack for one in planned(report, suite) if "sibling" not in one.attack.needs}
    seed = secrets.randbelow(2**31) if seed is None else seed
    found, among = [], 0
    for name, data in job.data().items():
        runs = [run for run in report.runs if run.task == name and run.role in targets and _key(run) in attacks]
        among += len(runs)
        for run in drawn(report, runs, count, seed):
            before = before_refit(report, run)
            found.append(Rerun(run, _again(attacks[_key(run)], targets[run.role], data, run, before)))
    on_record = sum(run.task in report.blocked() for run in report.runs)
    return Reruns(tuple(found), among, on_record, seed)


def drawn(report: AttackReport, runs: list[AttackRun], count: int, seed: int) -> list[AttackRun]:
    """Draw runs of one task without replacement; runs that a headline uses have a larger weight.

    Args:
        report: The report.
        runs: Runs to draw from.
        count: Maximum number of runs to draw.
        seed: Seed of the draw.
    """
    generator = np.random.default_rng(seed)
    cells = {(run.task, run.examples, run.role) for run in runs if run.role != "undefended"}
    named = {id(run) for cell in cells for run in report.strongest_runs(*cell)}
    weights = np.array([MORE_OFTEN if id(run) in named else 1.0 for run in runs])
    chosen = generator.choice(len(runs), min(count, len(runs)), replace=False, p=weights / weights.sum())
    return [runs[int(i)] for i in chosen]


def _targets(report: AttackReport, folder: str, config: HardenConfig, processor: Processor) -> dict[str, Target]:
    """Return, by role, the available models that match the report."""
    hardened = Target("hardened", folder, padding=padding_of(processor))
    known = {role: one.sha256 for role, one in report.models.items()}
    if hardened.identity().sha256 != known["hardened"]:
        raise ValueError(
            f"{folder}: the weights differ from those that the report's attacks were run on; get the folder again."
        )
    found = {"hardened": hardened, "raw": Target("raw", "")}
    for role, place in {"base": config.model, FILTERED: config.filtered}.items():
        if role not in known or not place or not Path(place).is_dir():  # a model on the Hub has no hash to compare
            continue
        found[role] = dataclasses.replace(hardened, role=role, folder=place)
        if found[role].identity().sha256 != known[role]:
            raise ValueError(
                f"model {place} of the configuration is not the {role} of the report; name the original {role}."
            )
    for place in (*([config.model] if "base" in found else []), folder):
        scratch = dataclasses.replace(hardened, role="scratch", folder=place, random=True)
        if scratch.identity().sha256 == known["scratch"]:
            return found | {role: dataclasses.replace(scratch, role=role) for role in ("scratch", "null", "more")}
    return found


def before_refit(report: AttackReport, run: AttackRun) -> AttackRun | None:
    """The run whose settings a refit runs again on more rows; ``None`` where a run is no refit."""
    if run.role == "more" or run.examples != report.refit(run.task):
        return None
    same = report.runs_of(run.task, report.tasks[run.task].rows.train, run.role)
    return next(r for r in same if r.chosen and (r.attack, r.seed) == (run.attack, run.seed))


def _again(
    attack: Attack, target: Target, data: AttackData, run: AttackRun, before: AttackRun | None = None
) -> Accuracies:
    examples = before.examples if before else run.examples
    until = attack.rung(run.settings) if run.status == "pruned" else None
    data = with_more(data) if run.role == "more" else data
    try:
        found = attack.run(Trial(target, data, examples, run.seed, run.settings, until, before))
        chosen = (before.selection if before else None) or found.selection  # a refit's selection rows were trained on
        reached = before.rung if before else _rung(attack, Trial(target, data, examples, run.seed, run.settings), run)
        return _accuracies(dataclasses.replace(found, selection=chosen), reached)
    except FAILURES:
        return ()


def _rung(attack: Attack, trial: Trial, run: AttackRun) -> float | None:
    """What the settings of a whole run reach in the short one, where the report says how far that came."""
    if run.rung is None:
        return None
    return attack.run(dataclasses.replace(trial, until=attack.rung(run.settings))).selection.value


def _accuracies(run: Any, reached: float | None) -> Accuracies:
    return (*(scores.value for scores in (run.selection, run.test) if scores), *([] if reached is None else [reached]))


def _key(run: AttackRun) -> tuple[str, str, str, int]:
    return run.task, run.attack, run.role, run.examples


def _shown(accuracies: Accuracies) -> str:
    return " / ".join(f"{one:.4f}" for one in accuracies) or "failed"
