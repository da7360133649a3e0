"""The results of the attacks as frozen data, with queries. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .attack_run import ROLES, AttackRun, Summary, summaries_of
from .facts import AttackFacts, DesiredFacts, ModelFacts, SuiteFacts, TaskFacts

SCHEMA_VERSION = 3
NEARLY = 1e-3  # relative to the norm: about the effect of rounding weights to half precision


@dataclass(frozen=True)
class Record:
    """The results of an attack suite, with facts on its tasks and models.

    Attributes:
        suite: The suite.
        tasks: Tasks by name (letters, digits, ``_`` and ``-``).
        models: Attacked models by role.
        runs: Every run.
        attacks: Attacks by name.
        desired: Quality on the desired task.
        recipe: Recipe of the hardening; empty if unknown.
        checks: Doubts that the suite raised about its own result.
        versions: Package versions.
        distances: Role to the distance of its trunk's weights from the hardened model's, relative to their norm.
        schema_version: Version of this format.
    """

    suite: SuiteFacts
    tasks: dict[str, TaskFacts]
    models: dict[str, ModelFacts]
    runs: tuple[AttackRun, ...]
    attacks: dict[str, AttackFacts] = field(default_factory=dict)
    desired: DesiredFacts = field(default_factory=DesiredFacts)
    recipe: dict[str, Any] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in self.tasks:  # names become file names
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"tasks: a name may have only letters, digits, '_' and '-'; got {name!r}.")

    def roles(self) -> list[str]:
        """Return the attacked roles, in the order of the tables."""
        return [role for role in ROLES if role in self.models]

    def blocked(self) -> list[str]:
        """Return the names of the blocked tasks, without controls."""
        return [name for name, facts in self.tasks.items() if not facts.control]

    def controls(self) -> list[str]:
        """Return the names of the control tasks."""
        return [name for name, facts in self.tasks.items() if facts.control]

    def scored_on(self) -> str:
        """Return the split of the blocked tasks' scores, ``test`` or ``development``."""
        return " or ".join(dict.fromkeys(self.tasks[task].scored_on for task in self.blocked()))

    def sha256(self, role: str) -> str:
        """Return the hash of a role's weights; empty if the role was not attacked or has none."""
        return self.models[role].sha256 if role in self.models else ""

    def unchanged_from(self) -> list[str]:
        """Return the roles whose weights the hardened model shares, exactly or nearly: it was not hardened."""
        return [role for role, distance in self.distances.items() if distance < NEARLY]

    def budgets(self, task: str) -> list[int]:
        """Return the numbers of examples of the attacks on a task, ascending."""
        return sorted({examples for name, examples, role in self._runs if name == task and role in ROLES})

    def refit(self, task: str) -> int | None:
        """Return the number of examples with which chosen settings ran again on training and selection rows, if any."""
        rows = self.tasks[task].rows
        return next((n for n in self.budgets(task) if n > rows.train > 0), None)

    def searched(self, task: str) -> int:
        """Return the largest number of examples with which settings were searched; 0 where there are no runs."""
        return max((n for n in self.budgets(task) if n != self.refit(task)), default=0)

    def outside(self, attack: str) -> bool:
        """Whether the headline excludes an attack."""
        return attack in self.attacks and self.attacks[attack].outside

    def summaries(self, task: str) -> list[Summary]:
        """Return one summary per attack, examples and role, over the seeds of the chosen settings."""
        return list(self._summaries.get(task, ()))

    def runs_of(self, task: str, examples: int, role: str) -> list[AttackRun]:
        """Return all runs on one model with one number of examples, chosen or not, in the order of the report."""
        return list(self._runs.get((task, examples, role), ()))

    def strongest(
        self, task: str, examples: int, role: str, *, most_desired_drop: float | None = None
    ) -> Summary | None:
        """Return the strongest attack on the selection split; its test scores are the result.

        Args:
            task: A task.
            examples: Number of blocked examples.
            role: A role.
            most_desired_drop: Consider only attacks that reduce desired accuracy by at most this; none for base and
                scratch, whose heads were not trained for the desired task.
        """
        if most_desired_drop is not None and role in ("base", "scratch"):
            return None
        found = [
            s
            for s in self._cells.get((task, examples, role), ())
            if not self.outside(s.attack)
            and (most_desired_drop is None or (s.desired_drop is not None and s.desired_drop <= most_desired_drop))
        ]
        return max(found, key=lambda s: s.selection, default=None)

    def strongest_runs(self, task: str, examples: int, role: str) -> list[AttackRun]:
        """Return the runs, by seed, of the strongest attack on the selection split."""
        best = self.strongest(task, examples, role)
        name = best.attack if best else ""
        found = [r for r in self.runs_of(task, examples, role) if r.attack == name and r.chosen and r.test]
        return sorted(found, key=lambda run: run.seed)

    # Cached, because every cell of every table needs them.

    @cached_property
    def memory(self) -> dict[Any, Any]:
        """What others derive from the record, by keys of their own."""
        return {}

    @cached_property
    def _runs(self) -> dict[tuple[str, int, str], list[AttackRun]]:
        found: dict[tuple[str, int, str], list[AttackRun]] = {}
        for run in self.runs:
            found.setdefault((run.task, run.examples, run.role), []).append(run)
        return found

    @cached_property
    def _summaries(self) -> dict[str, list[Summary]]:
        found: dict[str, list[AttackRun]] = {}
        for run in self.runs:
            found.setdefault(run.task, []).append(run)
        return {task: summaries_of(runs) for task, runs in found.items()}

    @cached_property
    def _cells(self) -> dict[tuple[str, int, str], list[Summary]]:
        found: dict[tuple[str, int, str], list[Summary]] = {}
        for task, summaries in self._summaries.items():
            for one in summaries:
                found.setdefault((task, one.examples, one.role), []).append(one)
        return found
