"""Lists of attacks: which are run on each model, with which budgets, under which name and version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...report.facts import SuiteFacts
from ...tasks.blocked_task import BlockedTask
from ...tasks.development import DEVELOPMENT, TEST
from ...tasks.kind import TaskKind
from ..attack import Attack
from ..methods.fine_tuning import Tuning
from ..methods.references import MORE
from ..target import device

FEW, FEW_SEEDS = 20, 10
ON_TEST = "settings and looks are selected on the test split, as the paper does: scores are flattered"


@dataclass(frozen=True)
class Entry:
    """An attack and the numbers of examples it is run with; ``None`` means all there are.

    Args:
        attack: The attack.
        examples: Numbers of examples.
        refit: Whether the settings chosen with all examples are run again on training and selection rows, at every
            seed: a further number of examples, since the labels of the selection rows are used too.

    Raises:
        ValueError: The attack cannot be refitted.
    """

    attack: Attack
    examples: tuple[int | None, ...]
    refit: bool = False

    def __post_init__(self) -> None:
        if self.refit and not self.attack.refits:
            raise ValueError(f"{self.attack.name!r} cannot be refitted: leave out refit=True, or set Attack.refits.")


def available(**there: bool) -> frozenset[str]:
    """What attacks may need, see :attr:`.attack.Attack.needs`, of what is or is not there."""
    return frozenset(name for name, found in there.items() if found)


@dataclass(frozen=True)
class AttackList:
    """A named list of attacks with their budgets: what is run on each model, and how often.

    Args:
        name: Its name; a list of your own should not take a shipped one's.
        version: Raised whenever anything below changes.
        entries: Attacks with their budgets.
        seeds: Repetitions of the chosen settings; at least 10 where there are at most 20 examples, if that is more.
        few_seeds: Those repetitions with at most 20 examples.
        limit: Most rows of the selection and of the test split; ``None`` for all.
        select_on_test: Select on the test split, as a paper's protocol may; the report says so.
        more: What scratch with more data is fine-tuned by; ``None`` leaves that reference out.
        null: Attack scratch again on other random weights, to see what noise alone gives.
        choosing: It is for choosing: score on the development rows of tasks that have them; other lists never do.
        kind: Name of the only kind of task that it is for; empty for every kind that its attacks can be run on.

    Raises:
        ValueError: Two different attacks have one name, so that a report could not tell their runs apart; or attacks
            that select on the test split are refitted, which would train on it.
    """

    name: str
    version: int
    entries: tuple[Entry, ...]
    seeds: int = 3
    few_seeds: int = FEW_SEEDS
    limit: int | None = None
    select_on_test: bool = False
    more: Tuning | None = MORE
    null: bool = True
    choosing: bool = False
    kind: str = ""

    def __post_init__(self) -> None:
        attacks: dict[str, Attack] = {}
        for entry in self.entries:
            if (known := attacks.setdefault(entry.attack.name, entry.attack)) != entry.attack:
                raise ValueError(
                    f"suite {self.name!r}: two different attacks have the name {known.name!r}, {known} and "
                    f"{entry.attack}; a report identifies runs by it; rename one of them."
                )

        if self.select_on_test and any(entry.refit for entry in self.entries):
            raise ValueError(f"suite {self.name!r}: refit=True with select_on_test=True would train on the test split.")

    def refits(self, examples: int, available: int, attack: Attack | None = None) -> bool:
        """Whether the chosen settings are run again on training and selection rows.

        Args:
            examples: Training rows of the search.
            available: Training rows the attacker has; a search with fewer is not refitted.
            attack: The attack; ``None`` for the raw input, which is refitted where any attack is.
        """
        refitted = [entry.attack.name for entry in self.entries if entry.refit]
        return examples == available and bool(refitted if attack is None else attack.name in refitted)

    def plan(self, available: int, has: frozenset[str] = frozenset({"desired", "sibling"})) -> list[tuple[Attack, int]]:
        """What is run on each model: attack and examples.

        Args:
            available: Training rows the attacker has; larger budgets are cut to it.
            has: What attacks may need, see :attr:`Attack.needs`.
        """
        fitting = [(entry.attack.fitting(has), entry.examples) for entry in self.entries]
        wanted = [(attack, min(n or available, available)) for attack, budgets in fitting if attack for n in budgets]
        return [one for i, one in enumerate(wanted) if one not in wanted[:i]]

    def check_fits(self, tasks: Sequence[BlockedTask]) -> None:
        """Refuse tasks of a kind that it is not for, or that some attacks cannot be run on, here or anywhere.

        Raises:
            ValueError: With the task, and with the attacks or suites that can; or with what this machine lacks.
        """
        for attack in (*(entry.attack for entry in self.entries), *([self.more] if self.more else [])):
            if told := attack.refusal(device().type):
                raise ValueError(f"suite {self.name!r}, attack {attack.name!r}: {told}")
        for task in tasks:
            self.check_kind(task.kind, f"task {task.name!r}")

    def check_kind(self, kind: TaskKind, what: str) -> None:
        """Refuse a kind of task, see :meth:`check_fits`.

        Args:
            kind: The kind.
            what: Whose kind it is, for the message.
        """
        if self.kind not in ("", kind.name):
            raise ValueError(
                f"suite {self.name!r} cannot attack {what}, a {kind.name}: it is for {self.kind} alone; pass "
                "'default', which is chosen by the kind of task."
            )
        attacks = list(dict.fromkeys(entry.attack for entry in self.entries))
        fitting = [attack.name for attack in attacks if attack.fits(kind)]
        if unfit := [attack.name for attack in attacks if not attack.fits(kind)]:
            raise ValueError(
                f"suite {self.name!r} cannot attack {what}, a {kind.name}, by {', '.join(unfit)}: "
                f"pass a suite of attacks that can ({', '.join(fitting) or 'FullFineTuning()'})."
            )

    def repeats(self, examples: int) -> tuple[int, ...]:
        """Attack seeds at a number of examples."""
        return tuple(range(max(self.seeds, self.few_seeds) if examples <= FEW else self.seeds))

    def scored_on(self, *, cut: bool) -> str:
        """The split of a task to score on, by whether development rows were cut from it."""
        return DEVELOPMENT if self.choosing and cut else TEST

    def facts(self) -> SuiteFacts:
        """The suite's own rules, for the report."""
        note = ON_TEST if self.select_on_test else ""
        return SuiteFacts(
            self.name, self.version, seeds=self.seeds, limit=self.limit, note=note, choosing=self.choosing
        )
