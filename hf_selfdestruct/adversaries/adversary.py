"""The adversary: a distribution over fine-tunings, from which each outer step draws one."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig

from ..tasks.blocked_task import seed_of
from .optimizer import InnerOptimizer
from .optimizers import Adam
from .ranges import BetaShare, Range, Schedule

TRAINABLE = re.compile(r"all|head|lora|last_[1-9][0-9]*")
HEADS = ("learned", "random", "keep", "probe")
PAIRS = ("joined", "apart")
READS = ("last", "all_layers")
BATCH_NORMS = ("batch", "stored")
SCHEDULES = ("constant", "linear")
KNOWN = {"head": HEADS, "pairs": PAIRS, "reads": READS, "batch_norm": BATCH_NORMS, "schedule": SCHEDULES}
FEWEST = 8  # rows over which features are standardised


@dataclass(frozen=True)
class FineTuning:
    """One fine-tuning, drawn from an :class:`Adversary`: the same fields, each a plain value."""

    optimizer: InnerOptimizer
    learning_rate: float
    learns_rate: bool
    steps: int
    batch_size: int
    examples: int | None
    head: str
    trainable: str | LoraConfig
    prelude: int
    dropout: bool
    pairs: str = "joined"
    reads: str = "last"
    batch_norm: str = "batch"
    schedule: str = "constant"

    def config(self) -> dict[str, Any]:
        """The fine-tuning as plain values."""
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}


@dataclass(frozen=True)
class Adversary:
    """How the simulated fine-tuning goes about it.

    Each field is a value, a tuple of values to draw from, a :class:`Range` (numbers), a :class:`Schedule`
    (``steps``, ``prelude``) or a :class:`BetaShare` (``prelude``).

    Args:
        optimizer: Pure inner optimizer.
        learning_rate: Rate of the inner steps; the starting point where it is learned.
        learns_rate: Whether the rate is learned, so as to minimise the blocked task's loss.
        steps: K, the number of inner steps (0: the model as published, seen through the head alone).
        batch_size: Blocked examples in one inner step.
        examples: Most blocked examples the adversary has, drawn anew each time; all by default.
        head: ``"learned"`` (kept and improved from one outer step to the next), ``"random"`` (drawn
            anew each time), ``"keep"`` (the published head; needs the desired task's label space) or ``"probe"`` (for
            ``reads="all_layers"``: a ridge regression on up to 256 rows of the adversary, a constant for gradients).
        trainable: ``"all"`` weights, only the ``"head"``, ``"last_n"`` (the last n layers and what follows
            them), ``"lora"``, or a ``peft.LoraConfig`` of your own: new adapters on the published weights.
        prelude: Benign steps before, on the desired task's training rows and with its head
            (heal-then-attack); they need ``trainable="all"``. They come on top of ``steps``, but for a
            :class:`BetaShare`, which makes so many of the ``steps`` benign.
        dropout: Whether the inner steps run with dropout. Learning curves of real attacks have it; it is
            replayed exactly wherever a step is computed again.
        pairs: How rows of two texts are read: ``"joined"`` to one input, or ``"apart"``, both through the trunk and
            then compared, as sentence encoders do (a bi-encoder), under a new head.
        reads: What its head reads: the ``"last"`` layer, as the architecture's own head does, or ``"all_layers"``: a
            linear head, at first 0, reads the averages of all hidden states, standardised over the batch. Attackers
            find in earlier layers what a defence has taken from the last.
        batch_norm: By which statistics batch normalisation works in the inner steps and where they are measured: of the
            ``"batch"``, as in ``model.train()``, or the ``"stored"`` ones. Neither updates the stored ones. A model
            that is hardened against stored ones alone may hide behind them from its adversary, and not from attackers.
        schedule: Of the rate over the life of an adversary in a pool: ``"constant"``, or ``"linear"`` from the rate
            that was drawn down to 0 at its end, as attackers' rates fall; within an outer step the rate is constant.
        weight: Relative chance of being drawn, among several adversaries.

    Raises:
        ValueError: A field is out of range.

    Example:
        ```python
        Adversary(optimizer=(SGD(momentum=0.9), AdamW()), learning_rate=Range(1e-5, 1e-3), steps=8, head="random")
        ```
    """

    optimizer: InnerOptimizer | tuple[InnerOptimizer, ...] = field(default_factory=Adam)
    learning_rate: float | tuple[float, ...] | Range = 3e-4
    learns_rate: bool = False
    steps: int | tuple[int, ...] | Range | Schedule = 16
    batch_size: int | tuple[int, ...] | Range = 16
    examples: int | tuple[int, ...] | Range | None = None
    head: str | tuple[str, ...] = "learned"
    trainable: str | LoraConfig | tuple[str | LoraConfig, ...] = "all"
    prelude: int | BetaShare | tuple[int | BetaShare, ...] | Range | Schedule = 0
    dropout: bool = False
    pairs: str | tuple[str, ...] = "joined"
    reads: str | tuple[str, ...] = "last"
    batch_norm: str | tuple[str, ...] = "batch"
    schedule: str | tuple[str, ...] = "constant"
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check every value that can be drawn."""
        if empty := [item.name for item in dataclasses.fields(self) if not self.options(item.name)]:
            raise ValueError(f"{empty[0]} is empty: give at least one value.")
        for name, least in (("steps", 0), ("prelude", 0), ("batch_size", 1), ("examples", 1)):
            for value in self.options(name):
                if (name == "prelude" and isinstance(value, BetaShare)) or (name == "examples" and value is None):
                    continue
                if type(value) is not int or value < least:
                    raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
        for value in (*self.options("learning_rate"), self.weight):
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"learning_rate and weight must be positive numbers; got {value!r}.")
        for name, known in KNOWN.items():
            if other := [value for value in self.options(name) if value not in known]:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {other[0]!r}.")
        if self.options("pairs") != ("joined",) and (other := [v for v in self.options("head") if v != "random"]):
            raise ValueError(
                f"texts that are encoded apart are compared by a new head: set head='random', got {other[0]!r}."
            )
        if "all_layers" in self.options("reads") or "probe" in self.options("head"):
            self._check_reader()
        for value in self.options("trainable"):
            if not isinstance(value, LoraConfig) and not TRAINABLE.fullmatch(str(value)):
                raise ValueError(f"trainable must be all, head, last_n, lora or a peft.LoraConfig; got {value!r}.")
        for value in self.options("optimizer"):
            if not isinstance(value, InnerOptimizer):
                raise ValueError(f"optimizer must be an InnerOptimizer, such as Adam(); got {value!r}.")
        preludes = self.options("prelude")
        if any(preludes) and (part := [v for v in self.options("trainable") if v != "all"]):
            raise ValueError(
                "an adversary with a prelude trains all weights in all its steps, benign and blocked; set "
                f"trainable='all' or prelude=0, got trainable={_plain(part[0])!r}."
            )
        if self.learns_rate and not isinstance(self.learning_rate, int | float):
            raise ValueError(f"a learned rate starts from one number; got learning_rate={self.learning_rate!r}.")
        if self.learns_rate and self.options("schedule") != ("constant",):
            raise ValueError(
                f"a learned rate has no schedule: set learns_rate=False, or schedule='constant'; got {self.schedule!r}."
            )

    def _check_reader(self) -> None:
        """Refuse what a head on all layers cannot be, or be trained on."""
        if "probe" in self.options("head") and self.options("reads") != ("all_layers",):
            raise ValueError("head='probe' is linear on features of all layers: set reads='all_layers'.")
        if "probe" in self.options("head") and any(self.options("prelude")):
            raise ValueError("a prelude moves what head='probe' was fitted on: set prelude=0 or head='random'.")
        others = (("head", "keep", "'probe', 'learned' or 'random'"), ("pairs", "apart", "'joined'"))
        for name, value, cure in others:
            if value in self.options(name):
                raise ValueError(f"a new head reads all layers: set {name}={cure}, or reads='last'; got {value!r}.")
        if (fewest := min(self.options("batch_size"))) < FEWEST:
            raise ValueError(
                f"reads='all_layers' standardises features over a batch: set batch_size={FEWEST} or more; got {fewest}."
            )

    def options(self, name: str) -> tuple[Any, ...]:
        """The values a field can take: all of a set, the ends of a range or schedule."""
        value = getattr(self, name)
        if isinstance(value, Range):
            return value.low, value.high
        if isinstance(value, Schedule):
            return value.first, value.last
        return value if isinstance(value, tuple) else (value,)

    def draw(self, outer_step: int, *key: Any, healed: bool = False, lived: float = 0.0) -> FineTuning:
        """One fine-tuning, drawn from ``key``.

        Args:
            outer_step: Number of the outer step, from 0.
            key: What draws depend on.
            healed: Whether the adversary has made its benign steps; it makes no more.
            lived: Share of its life, in [0, 1], that an adversary of a pool has behind it.
        """
        found: dict[str, Any] = {}
        for item in dataclasses.fields(FineTuning):
            value = getattr(self, item.name)
            if isinstance(value, Schedule):
                value = value.at(outer_step)
            elif isinstance(value, Range):
                value = value.draw(_share(item.name, *key))
            elif isinstance(value, tuple):
                value = value[int(_share(item.name, *key) * len(value))]
            found[item.name] = value
        if healed:
            found["prelude"] = 0
        elif isinstance(found["prelude"], BetaShare):
            found["prelude"] = found["prelude"].of(found["steps"], _share("benign", *key))
            found["steps"] -= found["prelude"]
        if found["schedule"] == "linear":
            found["learning_rate"] *= 1 - lived
        return FineTuning(**found)

    def config(self) -> dict[str, Any]:
        """The adversary as plain values, for the report; what is at its default is left out."""
        return dict(self._stated())

    def _stated(self) -> Iterator[tuple[str, Any]]:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            shown = ("optimizer", "learning_rate", "steps", "batch_size", "head", "trainable")
            if item.name in shown or value != item.default:
                yield item.name, _plain(value)


def _share(*key: Any) -> float:
    generator = torch.Generator().manual_seed(seed_of("adversary", *key))
    return torch.rand((), generator=generator, dtype=torch.float64).item()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, LoraConfig):
        names = value.target_modules or "default"
        shown = ", ".join(sorted(names)) if isinstance(names, set | list) else names  # a set has no order of its own
        return f"LoRA(r={value.r}, alpha={value.lora_alpha}, targets={shown})"
    return repr(value) if dataclasses.is_dataclass(value) else value
