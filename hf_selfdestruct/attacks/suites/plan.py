"""A suite on given models and tasks: which searches it makes, and the report of their runs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import evaluate

from ...report.attack_run import ROLES, AttackRun
from ...report.facts import AttackFacts, RowCounts, SplitFacts, TaskFacts
from ...report.packing import packed_size
from ...report.report import MOST_BYTES, AttackReport
from ...tasks.blocked_task import BlockedTask
from ...tasks.classification import CLASSIFICATION
from ...tasks.development import DEVELOPMENT
from ..attack import Attack
from ..data import AttackData, Collate, DesiredData, check_controls
from ..methods.fine_tuning import Tuning
from ..methods.ngram import NGram
from ..methods.pair_words import of_pairs
from ..methods.references import AGAIN, RawInput, with_more
from ..metrics import check_metrics
from ..target import Target, distance
from .attack_list import AttackList, available
from .search import Search

PACKAGES = ("hf-selfdestruct", "torch", "transformers", "datasets", "scikit-learn", "optuna", "peft")
JUDGE = 6  # raised when what attacks compute changes: runs on record under another number are not taken over
RECORD = 2  # raised when a report must hold more, or other things: it is checked against its plan by this


@dataclass(frozen=True, eq=False)
class Job:
    """A suite on given models and tasks: everything that decides what is run.

    Args:
        suite: The suite.
        targets: The hardened model and its references.
        tasks: Blocked tasks.
        controls: Benign tasks, attacked by fine-tuning to see that they can still be learned.
        columns: Columns the models accept.
        collate: Makes batches.
        desired: The desired task, where the attacker has it.
        metrics: Metrics of your own, by name.

    Raises:
        ValueError: Two models have one role, or one has none that a report knows; a control is a blocked task.
    """

    suite: AttackList
    targets: Sequence[Target]
    tasks: Sequence[BlockedTask]
    columns: Sequence[str]
    collate: Collate
    controls: Sequence[BlockedTask] = ()
    desired: DesiredData | None = None
    metrics: Mapping[str, evaluate.Metric] = field(default_factory=dict)

    def __post_init__(self) -> None:
        roles = [target.role for target in self.targets]
        if {*roles} - {*ROLES} or len({*roles}) < len(roles):
            raise ValueError(
                f"each attacked model needs a different role of {', '.join(ROLES)}; got {', '.join(roles)}. "
                "A report identifies runs by it: attack several hardened models one after the other."
            )
        check_controls(self.tasks, self.controls)
        self.suite.check_fits([*self.tasks, *self.controls])

    def data(self) -> dict[str, AttackData]:
        """The attacker's view of every task.

        Raises:
            ValueError: A task's test split is so large that nobody could read the report.
        """
        made = {
            task.name: AttackData.of(
                task,
                self.columns,
                self.collate,
                limit=self.suite.limit,
                desired=self.desired,
                metrics=self.metrics,
                more=self.suite.more is not None,
                scored_on=self.scored_on(task),
            )
            for task in (*self.tasks, *self.controls)
        }
        self._check_size(made)
        for data in made.values():
            check_metrics(self.metrics, data.test.labels, data.num_labels, data.kind)
        if not self.suite.select_on_test:
            return made
        return {name: dataclasses.replace(data, selection=data.test) for name, data in made.items()}

    def scored_on(self, task: BlockedTask) -> str:
        """The split of a task that the suite scores on."""
        return self.suite.scored_on(cut=task.development > 0)

    def searches(self, data: Mapping[str, AttackData]) -> list[Search]:
        """All searches that do not depend on the result of others, the cheapest attacks first."""
        found = [search for task in self.tasks for search in self._attacks(task, data[task.name])]
        for task in self.controls:
            found += self._attacks(task, data[task.name], control=True)
        return sorted(found, key=lambda search: search.attack.cost(search.space()[0]) > 0)

    def repeated(self, report: AttackReport, data: Mapping[str, AttackData]) -> list[Search]:
        """Scratch again on other random weights, by the strongest attack found on it: what noise alone gives."""
        found: list[Search] = []
        scratches = [target for target in self.targets if target.role == "scratch" and self.suite.null]
        for task, scratch in itertools.product(self.tasks, scratches):
            own = data[task.name]
            rows = len(own.train.labels)
            attacks = {a.name: a for a, _ in self.suite.plan(rows, self._has([own], scratch))}
            for examples in [n for n in report.budgets(task.name) if n <= rows]:  # what was refitted is not searched
                runs = report.strongest_runs(task.name, examples, "scratch")
                if runs:
                    again, attack = dataclasses.replace(scratch, role="null"), attacks[runs[0].attack]
                    seeds = tuple(AGAIN + i for i in range(len(runs)))
                    study, settings = self._study(task, attack, examples, again), runs[0].settings
                    found.append(Search(attack, again, data[task.name], examples, seeds, study, settings))
        return found

    def report(self, runs: Sequence[AttackRun], data: Mapping[str, AttackData]) -> AttackReport:
        """The report of finished runs, without doubts; only the predictions of runs that count are on record."""
        return AttackReport(
            suite=dataclasses.replace(self.suite.facts(), record=RECORD, desired=self.desired is not None),
            tasks={
                **{t.name: _facts(t, data[t.name]) for t in self.tasks},
                **{t.name: _facts(t, data[t.name], control=True) for t in self.controls},
            },
            models={t.role: t.identity() for t in self.targets},
            runs=tuple(run if run.chosen else dataclasses.replace(run, predictions="", selected="") for run in runs),
            attacks=known_attacks(self.suite, self._has(data.values(), *self.targets)),
            versions={p: importlib.metadata.version(p) for p in PACKAGES},
            distances=self._distances,
        )

    @functools.cached_property
    def _distances(self) -> dict[str, float]:
        """How far the hardened model is from each of its references with weights."""
        models = {target.role: target for target in self.targets if not target.random}
        hardened = models.pop("hardened", None)
        auto = self.tasks[0].kind.model_class
        return {role: distance(hardened, other, auto=auto) for role, other in models.items()} if hardened else {}

    def _check_size(self, data: Mapping[str, AttackData]) -> None:
        """A report holds the predictions of every attack, budget, model and seed."""
        share = MOST_BYTES // (2 * len(data))  # the other half for everything else
        for task in data.values():
            plans = [self.suite.plan(len(task.train.labels), self._has([task], target)) for target in self.targets]
            budgets = [n for plan in plans for _, n in plan]
            beside = [*{*budgets}] * 2  # at each scratch again, and the raw input
            runs = sum(len(self.suite.repeats(n)) for n in (*budgets, *beside)) + 1
            most = len(task.train.labels)
            runs += sum(len(self.suite.repeats(n)) for p in plans for a, n in p if self.suite.refits(n, most, a))
            selection, test = len(task.selection.labels), len(task.test.labels)
            if runs * packed_size(selection + test, task.num_labels) > share:
                most = share // (runs * packed_size(1, task.num_labels))
                raise ValueError(
                    f"task {task.task!r}: the {selection} rows of its selection split and the {test} rows of its test "
                    "split have predictions that would make a report too large to be read; use at most "
                    f"{most} rows in both."
                )

    def _attacks(self, task: BlockedTask, data: AttackData, *, control: bool = False) -> Iterator[Search]:
        for target in self.targets:
            planned = self.suite.plan(len(data.train.labels), self._has([data], target))
            if control:  # as well as a buyer could
                tunings = [(attack, examples) for attack, examples in planned if isinstance(attack, Tuning)]
                most = max((examples for _, examples in tunings), default=0)
                planned = [(attack, examples) for attack, examples in tunings if examples == most]
            for attack, examples in planned:
                study = self._study(task, attack, examples, target)
                refit = not control and self.suite.refits(examples, len(data.train.labels), attack)
                yield Search(attack, target, data, examples, self.suite.repeats(examples), study, refit=refit)
        if not control:
            yield from self._references(task, data)

    def _references(self, task: BlockedTask, data: AttackData) -> Iterator[Search]:
        rows = len(data.train.labels)
        raw = Target("raw", "")
        attack: Attack = NGram() if NGram().fits(task.kind) else RawInput(pairs=of_pairs(data.train))
        budgets = sorted({n for _, n in self.suite.plan(rows, self._has([data], *self.targets))} or {rows})
        for examples in budgets if attack.fits(task.kind) else ():
            study = self._study(task, attack, examples, raw)
            refit = self.suite.refits(examples, rows)
            yield Search(attack, raw, data, examples, self.suite.repeats(examples), study, refit=refit)
        scratch = next((t for t in self.targets if t.role == "scratch"), None)
        if scratch and self.suite.more:
            more, longer = dataclasses.replace(scratch, role="more"), with_more(data)
            count = len(longer.train.labels)
            yield Search(self.suite.more, more, longer, count, (0,), self._study(task, self.suite.more, count, more))

    def _has(self, data: Iterable[AttackData], *targets: Target) -> frozenset[str]:
        """What attacks on one of these tasks and models may need."""
        sibling, pairs = any(target.sibling for target in targets), any(of_pairs(one.train) for one in data)
        return available(desired=self.desired is not None, sibling=sibling, pairs=pairs)

    def _study(self, task: BlockedTask, attack: Attack, examples: int, target: Target) -> str:
        """A name that changes with the data, the model and the judge, and with nothing else."""
        holds = target.sibling and attack.outside
        known = {"sibling": _weights(Target("undefended", target.sibling))} if holds else {}
        known |= {"kind": task.kind.name} if task.kind.name != CLASSIFICATION.name else {}
        known |= {"selected on": "the last rows"} if task.kind.running_text else {}
        weights = [_weights(target), target.architecture()] if target.folder else ""
        desired = _digest(self.desired) if self.desired else ""
        rules = [self.suite.limit, self.suite.select_on_test, sorted(self.metrics)]
        if self.scored_on(task) == DEVELOPMENT:
            known["scored_on"] = DEVELOPMENT
        content = [task.fingerprints(), weights, desired, rules, known]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return f"v{JUDGE}/{task.name}/{attack.name}/{examples}/{target.role}/{digest}"


def known_attacks(suite: AttackList, has: frozenset[str]) -> dict[str, AttackFacts]:
    """What a report says of a suite's attacks: what each assumes, and whether it stands outside the headline.

    Args:
        suite: The suite.
        has: What attacks may need, see :attr:`Attack.needs`.
    """
    fitting = [entry.attack.fitting(has) for entry in suite.entries]
    return {a.name: AttackFacts(a.assumes, a.outside) for a in fitting if a}


def _weights(target: Target) -> str:
    """A model on the Hub has no files here to be hashed; its name must do."""
    return str(target.identity().sha256 or target.folder)


@functools.lru_cache(maxsize=4)  # asked for at every search
def _digest(desired: DesiredData) -> str:
    digest = hashlib.sha256()
    for split in (desired.train, desired.test):
        # Bytes of labels that are lists would be addresses; the rows hold them too.
        digest.update(split.labels.tobytes() if split.labels.dtype != object else b"")
        for row in split.features:
            digest.update(repr(row).encode())
    return digest.hexdigest()[:16]


def known_splits(task: BlockedTask) -> dict[str, SplitFacts]:
    """What a report says of a task's splits."""
    return {split: SplitFacts(**found) for split, found in task.fingerprints().items()}


def _facts(task: BlockedTask, data: AttackData, *, control: bool = False) -> TaskFacts:
    return dataclasses.replace(
        task.kind.facts(data.test.labels, task.outputs),
        selection=task.kind.facts(data.selection.labels, task.outputs).labels,
        rows=RowCounts(*(len(split.labels) for split in (data.train, data.selection, data.test))),
        fingerprints=known_splits(task),
        control=control,
        scored_on=data.scored_on,
        pairs=of_pairs(data.train),
    )
