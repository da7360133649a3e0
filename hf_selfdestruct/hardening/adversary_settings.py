"""What a configuration says of its adversary, in plain values: from YAML, from JSON, or from an ``Adversary``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from ..adversaries.adversary import BATCH_NORMS, HEADS, PAIRS, READS, SCHEDULES, Adversary
from ..adversaries.optimizers import INNER_OPTIMIZERS
from ..adversaries.pool import PRECISIONS, STORAGES, AdversaryPool
from ..adversaries.ranges import BetaShare, Range, Schedule
from .fields import check_choice, check_count, option

SCOPES = ("local", "global")
RANGE, SCHEDULE = {"low", "high"}, {"first", "last", "every"}


@dataclass(frozen=True)
class AdversarySettings:
    """The settings behind ``adversary``, complete.

    A number may be a range to draw from log-uniformly, ``{low: 1e-4, high: 1e-3}``; ``steps`` and ``prelude`` may grow,
    ``{first: 4, last: 16, every: 100}``; of the steps, a share that is drawn from Beta(6, 3) may be benign,
    ``prelude={beta: [6, 3]}``; and whatever an :class:`Adversary` draws may be a list to draw from,
    ``[sgd, adam]``.

    Raises:
        ValueError: A value is out of range or misspelt.

    Example:
        >>> AdversarySettings(learning_rate={"low": 1e-4, "high": 1e-3}).adversary().learning_rate
        Range(low=0.0001, high=0.001)
    """

    optimizer: Any = option("adam", "Optimizer of the inner steps.", INNER_OPTIMIZERS)
    learning_rate: Any = option(3e-4, "Learning rate of the inner steps; where it starts if it is learned.")
    learns_rate: bool = option(False, "Whether the adversary learns its learning rate.")
    steps: Any = option(16, "K, the number of inner steps; a single number is inner_steps too.")
    batch_size: Any = option(16, "Blocked examples in one inner step.")
    examples: Any = option(None, "Maximum number of blocked examples in an outer step; by default all.")
    head: Any = option("learned", "Head that the adversary starts from.", HEADS)
    trainable: Any = option("all", "What the adversary trains: all, head, last_n (such as last_2) or lora.")
    prelude: Any = option(0, "Number of benign steps on the desired task first, or share of steps.")
    dropout: bool = option(False, "Whether the inner steps run with dropout.")
    pairs: Any = option("joined", "How rows of two texts are read.", PAIRS)
    reads: Any = option("last", "Layers that the adversary's head reads.", READS)
    batch_norm: Any = option("batch", "Statistics of batch normalisation in the inner steps.", BATCH_NORMS)
    schedule: Any = option("constant", "Schedule of the rate over the life of an adversary in a pool.", SCHEDULES)
    pool: int = option(0, "Number of adversaries that continue over outer steps; 0: no pool.")
    horizon: int = option(200, "Number of blocked steps after which an adversary of the pool is reset.")
    pool_storage: str = option("device", "Where the pool stores its adversaries; disk: in TMPDIR.", STORAGES)
    pool_precision: str = option("full", "Precision in which the pool stores its adversaries.", PRECISIONS)
    pool_patience: int = option(0, "Reset one after so many steps without a better score, too; 0: never.")
    pool_by_success: bool = option(False, "Whether successful adversaries of the pool are drawn more often.")
    scope: str = option("local", "An adversary of its own for each process, or one for all.", SCOPES)
    head_learning_rate: float = option(1e-3, "Adam rate of a learned head; 10 times as fast for the log of a rate.")

    def __post_init__(self) -> None:
        """Check every value, also those that an :class:`Adversary` checks."""
        check_choice("adversary: scope", self.scope, SCOPES)
        rate = self.head_learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ValueError(f"adversary: head_learning_rate must be a positive number; got {rate!r}.")
        for name in ("learns_rate", "dropout", "pool_by_success"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"adversary: {name} must be true or false; got {getattr(self, name)!r}.")
        for name, least in (("pool", 0), ("horizon", 1), ("pool_patience", 0)):
            check_count(f"adversary: {name}", getattr(self, name), least)
        for name, known in (("pool_storage", STORAGES), ("pool_precision", PRECISIONS)):
            check_choice(f"adversary: {name}", getattr(self, name), known)
        self.adversary()

    def adversary_pool(self) -> AdversaryPool | None:
        """The pool that they describe, if they do."""
        own = {name: getattr(self, f"pool_{name}") for name in ("storage", "precision", "patience", "by_success")}
        return AdversaryPool(size=self.pool, horizon=self.horizon, **own) if self.pool else None

    def adversary(self) -> Adversary:
        """The adversary that they describe."""
        names = [f.name for f in dataclasses.fields(Adversary) if f.name != "weight"]
        try:
            return Adversary(**{name: _read(name, getattr(self, name)) for name in names})
        except ValueError as error:
            raise ValueError(f"adversary: {error}") from None


def overridden(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's adversary with what is given instead, key by key.

    A rate that is drawn is not learned, and a learned one starts where a method's range does.
    """
    found = {**own, **given}
    if "learning_rate" in given and not isinstance(given["learning_rate"], int | float):
        found["learns_rate"] = given.get("learns_rate", False)
    if given.get("learns_rate") and "learning_rate" not in given and isinstance(own.get("learning_rate"), dict):
        found["learning_rate"] = own["learning_rate"]["low"]
    return found


def described(adversary: Adversary) -> dict[str, Any]:
    """An adversary in plain values; an optimizer or adapters that have no name stay the objects that they are."""
    names = [f.name for f in dataclasses.fields(Adversary) if f.name != "weight"]
    found = {name: _plain(getattr(adversary, name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _read(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_read(name, one) for one in value)
    if name == "prelude" and isinstance(value, Mapping) and {*value} == {"beta"}:
        return _share(value["beta"])
    if isinstance(value, Mapping):
        numbers = all(type(one) in (int, float) for one in value.values())
        kind = Range if {*value} == RANGE else Schedule if {*value} in (SCHEDULE, SCHEDULE - {"every"}) else None
        if numbers and kind is not None:
            try:
                return kind(**value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        raise ValueError(
            f"{name}: a range is {{low: 1e-4, high: 1e-3}}, a growing number {{first: 4, last: 16, every: 100}}; "
            f"got {short(value)}."
        )
    if name == "optimizer" and isinstance(value, str):
        check_choice(name, value, INNER_OPTIMIZERS)
        return INNER_OPTIMIZERS[value]
    return value


def _share(given: Any) -> BetaShare:
    if not isinstance(given, list | tuple) or [type(n) in (int, float) for n in given] != [True, True]:
        raise ValueError(f"prelude: a share of the steps is {{beta: [6, 3]}}; got beta: {short(given)}.")
    try:
        return BetaShare(*given)
    except ValueError as error:
        raise ValueError(f"prelude: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, BetaShare):
        return {"beta": [value.a, value.b]}
    if isinstance(value, Range | Schedule):
        return dataclasses.asdict(value)
    return next((name for name, known in INNER_OPTIMIZERS.items() if known == value), value)
