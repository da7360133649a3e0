"""A report held against the plan of its own suite: what was to be run, and what follows from what was."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...report.attack_run import FILTERED, ROLES, AttackRun
from ...report.facts import TaskFacts
from ...report.report import AttackReport
from ...report.token_rows import token_contributions, unpacked_tokens
from ...tasks.development import DEVELOPMENT
from ..attack import Attack
from ..doubts import doubts
from ..methods.fine_tuning import Tuning
from ..methods.ngram import NGram
from ..methods.references import AGAIN, RawInput
from .attack_list import AttackList, available
from .plan import RECORD, known_attacks
from .recomputed import score_problems
from .search import kept_of
from .shipped import SUITES

MOST_LUCK = 2.0  # times 1 / sqrt(selection rows): above what a choice among hundreds of settings owes to chance
# Both are for rows that are right or wrong, which lie at most so far apart. For rows of tokens they are scaled by how
# far these do; that it is enough there was not measured.
SPREAD = 0.5
MOST_LINES = 50
# What a refit may change of a run; all else was chosen before.
REFITTED = ("examples", "test", "steps", "seconds", "flops", "desired_drop", "predictions", "general", "gibberish")


@dataclass(frozen=True)
class Planned:
    """One search that the suite makes: an attack on a model with so many examples.

    Attributes:
        task: The task.
        attack: The attack.
        role: The model, or a reference.
        examples: Training rows.
        seeds: Seeds of the chosen settings; settings are searched at the first.
        settings: Instead of a search: the settings at every seed.
        refit: Whether it is no search, but the chosen settings run again on training and selection rows.
    """

    task: str
    attack: Attack
    role: str
    examples: int
    seeds: tuple[int, ...]
    settings: dict[str, Any] | None = None
    refit: bool = False

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What its runs are told apart by."""
        return self.task, self.attack.name, self.role, self.examples

    def space(self) -> list[dict[str, Any]]:
        """The settings that compete."""
        return self.attack.space() if self.settings is None else [self.settings]

    def kept(self) -> int:
        """How many settings are run to the end."""
        return kept_of(self.attack, self.space())

    def __str__(self) -> str:
        """Where a problem is."""
        return f"{self.task}: {self.attack.name} on {self.role} with {self.examples} examples"


def plan_problems(report: AttackReport) -> list[str]:
    """What a report of a shipped suite shows otherwise than the suite's plan has it.

    Every attack, budget, model and seed must be there with settings of the attack's space, the chosen ones must be the
    best on the selection split, scores must follow from predictions, and doubts from everything.

    Args:
        report: A report.

    Returns:
        One line per problem, at most about :data:`MOST_LINES`; empty for a report as the suite makes it. Numbers
        invented together with their predictions are not found: only a rerun finds those.
    """
    name, version, record = report.suite.name, report.suite.version, report.suite.record
    suite = SUITES.get(name)
    if suite is None or suite.version != version:
        return [f"suite {name!r} version {version} is not shipped with this version: its plan is unknown, and nothing "
                "can be concluded from the runs that the report shows"]  # fmt: skip
    if record != RECORD:
        return [f"the report holds record {record}, and this version checks record {RECORD}: it cannot be checked "
                "against its plan"]  # fmt: skip
    if other := [name for name, facts in report.tasks.items() if not (facts.has_classes or facts.has_tokens)]:
        return [f"task {other[0]!r} is scored by {report.tasks[other[0]].score}: its predictions are not on record, "
                "and it cannot be checked against a plan"]  # fmt: skip
    found = [*_facts(report, suite), *_models(report)] or [*_runs(report, suite)]
    found = found or [line for task in report.tasks for line in score_problems(report, task)]
    # In their order only as the tasks are, which JSON sorts by name.
    if not found and sorted(report.checks) != sorted(known := doubts(report)):
        found.append(f"checks: the report states {len(report.checks)} doubts, and its runs raise {len(known)}"
                     " or others")  # fmt: skip
    return found if len(found) <= MOST_LINES else [*found[:MOST_LINES], f"and {len(found) - MOST_LINES} problems more"]


def planned(report: AttackReport, suite: AttackList) -> Iterator[Planned]:
    """The searches of a suite on the models and tasks of a report.

    Args:
        report: A report; its runs decide only which attack scratch is repeated with.
        suite: The suite.
    """
    for task, facts in report.tasks.items():
        rows = facts.rows.train
        union = suite.plan(rows, _has(report, [facts], *report.roles()))
        for role in report.roles():
            plan = suite.plan(rows, _has(report, [facts], role))
            if facts.control:
                tunings = [(attack, n) for attack, n in plan if isinstance(attack, Tuning)]
                plan = [(attack, n) for attack, n in tunings if n == max(most for _, most in tunings)]
            for attack, n in plan:
                yield from _with_refit(Planned(task, attack, role, n, suite.repeats(n)), facts, suite)
        if facts.control:
            continue
        budgets = sorted({n for _, n in union} or {rows})
        for n in budgets:
            raw = NGram() if facts.has_tokens else RawInput(pairs=facts.pairs)
            yield from _with_refit(Planned(task, raw, "raw", n, suite.repeats(n)), facts, suite)
        if suite.more:
            yield Planned(task, suite.more, "more", rows + facts.rows_in("train"), (0,))
        attacks = {attack.name: attack for attack, _ in union}
        for examples in budgets if suite.null else ():
            runs = report.strongest_runs(task, examples, "scratch")
            if runs and runs[0].attack in attacks:
                seeds = tuple(AGAIN + i for i in range(len(runs)))
                yield Planned(task, attacks[runs[0].attack], "null", examples, seeds, runs[0].settings)


def _with_refit(one: Planned, facts: TaskFacts, suite: AttackList) -> Iterator[Planned]:
    yield one
    attack = None if one.role == "raw" else one.attack
    if not facts.control and suite.refits(one.examples, facts.rows.train, attack):
        yield replace(one, examples=one.examples + facts.rows.selection, refit=True)


def _has(report: AttackReport, tasks: Iterable[TaskFacts], *roles: str) -> frozenset[str]:
    """Who attacks the hardened model is assumed to hold its undefended sibling, wherever there is one."""
    sibling, pairs = "hardened" in roles and "undefended" in report.models, any(facts.pairs for facts in tasks)
    return available(desired=bool(report.suite.desired), sibling=sibling, pairs=pairs)


def _facts(report: AttackReport, suite: AttackList) -> Iterator[str]:
    stated = dataclasses.replace(report.suite, record=None, desired=None)
    if stated != suite.facts() or report.suite.desired is None:
        yield "suite: not the facts that this suite states of itself"
        return
    if report.attacks != known_attacks(suite, _has(report, report.tasks.values(), *report.roles())):
        yield "attacks: not the names and assumptions of this suite's attacks, or not those that stand outside"
    if not report.suite.desired and any(run.desired_drop for run in report.runs):
        yield "suite: states that no desired task was at hand, though runs measured what they cost it"
    if not report.blocked():
        yield "tasks: none is blocked"
    for name, facts in report.tasks.items():
        scored_on = suite.scored_on(cut=facts.rows_in(DEVELOPMENT) > 0)
        if facts.scored_on != scored_on:
            yield f"{name}: scored on its {facts.scored_on} rows; the suite scores on its {scored_on} rows"
            continue
        counts = {split: facts.rows_in(split) for split in ("train", "attack", scored_on)}
        most = suite.limit or math.inf
        if not (counts["train"] and counts["attack"] and counts[scored_on] and (facts.num_labels or facts.has_tokens)):
            yield f"{name}: num_labels and the numbers of rows in its splits must be stated"
            continue
        train, selection, test = dataclasses.astuple(facts.rows)
        expected = (min(counts["attack"] - train, most), min(counts[scored_on], most))
        if (selection, test) != expected or min(train, *expected) < 1 or abs(train - 0.7 * counts["attack"]) > 1:
            known = dataclasses.asdict(facts.rows)
            yield f"{name}: {known} rows are not what its splits of {counts} rows give the attacker"


def _models(report: AttackReport) -> Iterator[str]:
    if missing := [role for role in ROLES if role not in (*report.models, FILTERED)]:
        yield f"models: {' and '.join(missing)} not attacked"
    hashes = {role: report.sha256(role) for role in ("base", "undefended", "hardened", FILTERED)}
    if not hashes["hardened"]:
        yield "models: no hash of the hardened weights"
    for one, other in itertools.combinations(("hardened", "undefended", "base", FILTERED), 2):
        if hashes[one] and hashes[one] == hashes[other]:
            yield f"models: {one} and {other} are the same weights"


def _runs(report: AttackReport, suite: AttackList) -> Iterator[str]:
    groups: dict[tuple[str, str, str, int], list[AttackRun]] = {}
    for run in report.runs:
        groups.setdefault((run.task, run.attack, run.role, run.examples), []).append(run)
    known = dict(groups)
    searches = [(one, groups.pop(one.key, [])) for one in planned(report, suite)]
    fits = {(one.task, one.attack.name, one.examples) for one, runs in searches if not _never_fits(runs)}
    for one, runs in searches:
        rows = report.tasks[one.task].rows
        before = known.get((*one.key[:3], rows.train), [])
        scale = _spread(runs) / SPREAD if report.tasks[one.task].has_tokens else 1.0
        luck = scale * MOST_LUCK / math.sqrt(rows.selection)
        if problem := _refit(before, runs) if one.refit else _search(one, runs, luck):
            yield f"{one}: {problem}"
        elif (one.task, one.attack.name, one.examples) in fits and any(r.chosen and not r.selection for r in runs):
            yield f"{one}: the chosen settings failed, so that what the attack reaches is not known"
    for task, attack, role, examples in groups:
        yield f"{task}: {attack} on {role} with {examples} examples is not in the suite's plan"


def _never_fits(runs: Iterable[AttackRun]) -> bool:
    """Whether an attack could not be run at all, for which an architecture may be the reason."""
    return all(run.status == "failed" and run.error.startswith("NotApplicable") for run in runs)


def _spread(runs: Iterable[AttackRun]) -> float:
    """Standard deviation of what selection rows of tokens add to the score, in the run where it is largest."""
    found = [token_contributions(unpacked_tokens(run.selected)).std() for run in runs if run.selected]
    return float(max(found, default=SPREAD))


def _search(one: Planned, runs: list[AttackRun], luck: float) -> str | None:
    """The first thing in which the runs of a search differ from its plan."""
    order = {_key(settings): i for i, settings in enumerate(one.space())}
    if any(_key(run.settings) not in order for run in runs):
        return "settings outside the space that the suite searches"
    first = sorted((run for run in runs if run.seed == one.seeds[0]), key=lambda run: order[_key(run.settings)])
    again = sorted((run for run in runs if run.seed != one.seeds[0]), key=lambda run: run.seed)
    if [order[_key(run.settings)] for run in first] != [*range(len(order))]:
        return f"{len(first)} runs at seed {one.seeds[0]}; the suite tries each of {len(order)} settings once"
    if [run.seed for run in again] != [*one.seeds[1:]]:
        return f"seeds {[run.seed for run in again]} of the chosen settings; the suite has {[*one.seeds[1:]]}"
    whole, pruned = ([run for run in first if run.status == status] for status in ("ok", "pruned"))
    if len(whole) > one.kept() or len(pruned) > len(order) - one.kept():
        return f"{len(whole)} settings run to the end and {len(pruned)} given up; the suite keeps {one.kept()}"
    chosen = [run for run in first if run.chosen]
    if len(chosen) != 1 or (whole and chosen[0] != max(whole, key=_merit)) or chosen[0].status == "pruned":
        return "chosen are not the settings that did best on the selection split"
    if not all(run.chosen and run.status != "pruned" and run.settings == chosen[0].settings for run in again):
        return "other settings than the chosen ones at further seeds"
    if pruned and any(run.rung is None for run in whole):
        return "no score of the short runs by which settings were kept"
    reached = [run.rung for run in first if run.rung is not None]
    if pruned and reached and min(reached) < max(_merit(run)[0] for run in pruned):
        return "settings were given up that were ahead of those kept"
    if any(not 0 <= run.optimism <= (luck if run.chosen else 0.0) for run in runs):
        return "more optimism than chance gives on so many selection rows"
    if any(run.status == "ok" and not _fewest(one, run) <= run.steps <= one.attack.cost(run.settings) for run in runs):
        return "numbers of steps that are not those of the settings"
    return None


def _fewest(one: Planned, run: AttackRun) -> int:
    """Steps that a run must have made: with patience it may have ended early."""
    cost = one.attack.cost(run.settings)
    return min(cost, int(run.settings.get("patience", cost)))


def _refit(before: list[AttackRun], runs: list[AttackRun]) -> str | None:
    """The first thing in which refitted runs differ from what was chosen before."""
    chosen = {run.seed: run for run in before if run.chosen}
    if sorted(run.seed for run in runs) != sorted(chosen):
        return f"refits at seeds {[run.seed for run in runs]}; the suite refits seeds {sorted(chosen)}"
    for run in (run for run in runs if run.status != "failed"):
        first = chosen[run.seed]
        if replace(run, **{name: getattr(first, name) for name in REFITTED}) != first:
            return "refits with other settings or selection scores than those of the runs before"
        if run.steps != max(first.curve, key=lambda point: point[1], default=(0,))[0]:
            return "refits with numbers of steps that are not those of the look chosen before"
    return None


def _merit(run: AttackRun) -> tuple[float, float]:
    return run.selection.merit if run.selection else (-math.inf, -math.inf)


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
