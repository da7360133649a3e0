"""What an attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from ..report.attack_run import AttackRun, Scores
from ..tasks.kind import TaskKind
from .data import AttackData, Split
from .target import Target


@dataclass(frozen=True, eq=False)
class Trial:
    """What one attack run is given.

    Attributes:
        target: The model.
        data: What the attacker has.
        examples: Training rows it may use.
        seed: Of subset, head and data order.
        settings: One point of :meth:`Attack.space`.
        until: A short run of so many steps, up to a rung, that leaves the test split alone; ``None`` for a whole run.
        refit: A chosen run to make again on training and selection rows: by what it chose itself, such as a layer or a
            look, because no rows are left to choose on.
    """

    target: Target
    data: AttackData
    examples: int
    seed: int
    settings: dict[str, Any]
    until: int | None = None
    refit: AttackRun | None = None

    def followed(self) -> dict[str, Any]:
        """The settings by which it trains: a short run is a run of so many steps, with one look at their end."""
        return self.settings if self.until is None else {**self.settings, "steps": self.until, "looks": 1}

    def few(self) -> list[int]:
        """Numbers of the training rows that the run may use: the same for every model attacked."""
        return self.data.few(self.examples, self.seed)

    def rows(self) -> Split:
        """What the run trains on: those rows and, in a refit, the selection rows."""
        few = self.data.train.take(self.few())
        return few if self.refit is None else few.joined(self.data.selection)


@dataclass(frozen=True)
class Outcome:
    """What one attack run reached.

    Attributes:
        selection: Scores on the selection split.
        test: Scores on the test split; ``None`` for a short run.
        steps: Optimizer steps made.
        flops: Floating-point operations of training.
        curve: Pairs of step and selection score, at every look.
        desired_drop: Desired-task accuracy lost; ``None`` where it was not measured.
        probabilities: Answers to the test rows; of a classification probabilities of the classes.
        selected: Answers to the selection rows, by which attacks are combined.
        hits: Selection rows labelled right, at every look (or by every cell that was compared), ``(looks, rows)``; of
            another kind of task what each row adds to the score, see :meth:`TaskKind.credit`.
        found: What the run itself chose on the selection split, such as a layer.
        general: Loss on desired texts in nats per token, before the attack and at every look; empty where it was not
            measured.
        gibberish: Share of continuations of desired texts that are gibberish, before the attack and after it; empty
            where it was not measured.
    """

    selection: Scores
    test: Scores | None
    steps: int
    flops: float = 0.0
    curve: tuple[tuple[float, float], ...] = ()
    desired_drop: float | None = None
    probabilities: np.ndarray | None = field(default=None, compare=False)
    selected: np.ndarray | None = field(default=None, compare=False)
    hits: np.ndarray | None = field(default=None, compare=False)
    found: dict[str, Any] = field(default_factory=dict)
    general: tuple[float, ...] = ()
    gibberish: tuple[float, ...] = ()


class Attack(ABC):
    """A recipe with a search space, run on a freshly loaded stock model by plain torch and scikit-learn.

    Attributes:
        name: The field's name for it.
        assumes: What the attacker needs to have, in words.
        outside: Whether it stands outside the headline, because it holds the undefended model itself.
        needs: What must be there for it to run: ``desired`` (benign rows), ``sibling`` (the undefended model),
            ``pairs`` (rows that are pairs of texts).
        kinds: Names of the kinds of task that it can be run on; ``None`` for any.
        refits: Whether it can be made again on training and selection rows, see :attr:`Trial.refit`.
    """

    name: str
    assumes: str = "the published weights and labelled examples of the blocked task"
    outside: bool = False
    kinds: ClassVar[tuple[str, ...] | None] = ("classification",)
    refits: bool = False

    def fits(self, kind: TaskKind) -> bool:
        """Whether it can be run on a kind of task."""
        return self.kinds is None or kind.name in self.kinds

    def refusal(self, device: str) -> str:
        """Why it cannot be run on a type of device, such as ``cpu``; empty where it can."""
        return ""

    @property
    def needs(self) -> frozenset[str]:
        """What must be there for it to run, beside weights and examples."""
        return frozenset()

    def fitting(self, available: frozenset[str]) -> Attack | None:
        """The attack as far as it can be run with what is available; ``None`` where it cannot."""
        return self if self.needs <= available else None

    @abstractmethod
    def space(self) -> list[dict[str, Any]]:
        """Settings to search, the likeliest first; all models get the same."""

    def rung(self, settings: dict[str, Any]) -> int | None:
        """Steps of the short run by which settings are compared and most of them given up; ``None``: none is."""
        return None

    def cost(self, settings: dict[str, Any]) -> int:
        """Optimizer steps of a whole run, for the ledger shown before the start."""
        return 0

    @abstractmethod
    def run(self, trial: Trial) -> Outcome:
        """Attack once.

        Args:
            trial: The model, what the attacker has, and the settings to try.

        Returns:
            Scores on the selection and the test split.

        Raises:
            FloatingPointError: The run diverged; the suite records it as failed.
        """


@dataclass(frozen=True)
class AnyOf(Attack):
    """The best of several attacks, searched as one: their settings compete on the selection split.

    Args:
        name: Its name in the report.
        of: Attacks with different names.

    Example:
        ```python
        AnyOf("tampered fine-tuning", (Tuning("pruned", tamper=Prune()), Tuning("rescaled", tamper=Rescale())))
        ```
    """

    name: str
    of: tuple[Attack, ...]

    def fits(self, kind: TaskKind) -> bool:
        """Whether each of them can."""
        return all(attack.fits(kind) for attack in self.of)

    def refusal(self, device: str) -> str:
        """The first reason of one of them."""
        return next(filter(None, (attack.refusal(device) for attack in self.of)), "")

    def __post_init__(self) -> None:
        if len({attack.name for attack in self.of}) < len(self.of):
            raise ValueError(f"{self.name}: the attacks must have different names.")

    @property
    def assumes(self) -> str:  # type: ignore[override]
        """What the most demanding of them assumes, each thing once."""
        return "; ".join(dict.fromkeys(attack.assumes for attack in self.of))

    @property
    def outside(self) -> bool:  # type: ignore[override]
        """Whether one of them stands outside."""
        return any(attack.outside for attack in self.of)

    @property
    def refits(self) -> bool:  # type: ignore[override]
        """Whether each of them can be made again on more rows."""
        return all(attack.refits for attack in self.of)

    def fitting(self, available: frozenset[str]) -> Attack | None:  # noqa: D102
        left = tuple(attack for attack in self.of if attack.needs <= available)
        return AnyOf(self.name, left) if left else None

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{"variant": attack.name, **settings} for attack in self.of for settings in attack.space()]

    def rung(self, settings: dict[str, Any]) -> int | None:  # noqa: D102
        attack, inner = self._variant(settings)
        return attack.rung(inner)

    def cost(self, settings: dict[str, Any]) -> int:  # noqa: D102
        attack, inner = self._variant(settings)
        return attack.cost(inner)

    def run(self, trial: Trial) -> Outcome:  # noqa: D102
        attack, inner = self._variant(trial.settings)
        return attack.run(replace(trial, settings=inner))

    def _variant(self, settings: dict[str, Any]) -> tuple[Attack, dict[str, Any]]:
        attack = next(a for a in self.of if a.name == settings["variant"])
        return attack, {k: v for k, v in settings.items() if k != "variant"}
