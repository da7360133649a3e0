"""What the study of the pool compares: by what each model is hardened, from which start, and how it is attacked."""

from dataclasses import dataclass
from typing import Any

LOW, USUAL, HIGH = {"low": 1e-4, "high": 1e-3}, {"low": 3e-4, "high": 3e-3}, {"low": 1e-3, "high": 1e-2}
RESET: dict[str, Any] = {"learning_rate": USUAL, "batch_size": 64, "head_learning_rate": 1e-2}
POOL: dict[str, Any] = {**RESET, "pool": 8, "horizon": 200}
BLOCKING = {"max_blocking_grad_norm": 0.5}
COMMON: dict[str, Any] = {
    "method": "mlac_fast",  # first order, K = 4, the blocking loss is measured at both ends
    "blocking_loss": "uniform_kl",
    "blocking_batch_size": 128,
}
LONG = (30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 7000, 10000)


@dataclass(frozen=True)
class Variant:
    """A row of a table.

    Attributes:
        table: The table that the row stands in.
        adversary: Settings that replace the usual ones; ``None``: without hardening, as it starts.
        steps: Outer steps.
        start: ``base``, ``scratch``, or the share of random weights that the base's are mixed with.
        blocked: Whether anything is blocked.
        every: Number of inner steps from one measurement to the next, counted back from the last.
        end_only: Whether the blocking loss is measured at the end of a stretch alone.
        exact: Whether the gradient goes through the stretch, at second order.
        in_turn: Whether every second outer step blocks and does nothing else, by an optimizer of its own (as SOPHON's
            do, 2404.12699), instead of each doing both.
        seeds: Of base and hardening.
        examples: Of the attacks.
        looks: Of an attack that is longer than usual.
        setting: Name of the setting: the two tasks.
        harmless: Whether tasks that nobody blocks are fine-tuned to, instead of the blocked one.
        every_layer: Whether the attacker reads every layer (``every_layer.py``).
    """

    table: str
    adversary: dict[str, Any] | None = None
    steps: int = 1000
    start: str | float = "base"
    blocked: bool = True
    every: int = 4
    end_only: bool = False
    exact: bool = False
    in_turn: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    examples: tuple[int, ...] = (200, 500)
    looks: tuple[int, ...] | None = None
    setting: str = "signs"
    harmless: bool = False
    every_layer: bool = False

    def config(self) -> dict[str, Any]:
        """The settings of ``HardeningConfig``."""
        options = {**BLOCKING, "blocking_every": self.every, "step_weights": "last" if self.end_only else "uniform"}
        options |= {"blocking_interval": 2, "blocking_learning_rate": 1e-3} if self.in_turn else {}
        found = {**COMMON, "adversary": self.adversary, "method_options": options}
        found |= {} if self.blocked else {"blocking_weight": 0.0}
        return {**found, **({"meta_gradient": "exact"} if self.exact else {})}

    @property
    def passes(self) -> int:
        """Gradients taken in an outer step: one of the desired task, of each inner step and of each measurement.

        Where every second step blocks and the others do not, it is their mean.
        """
        if not self.blocked or self.adversary is None:
            return 1
        inner = self.adversary.get("steps", 4)
        both = 1 + inner + (1 if self.end_only or not inner else 1 + -(-inner // self.every))
        return (both + 1) // 2 if self.in_turn else both

    @property
    def oldest(self) -> int:
        """The most steps that an adversary has made when it is reset, or when hardening ends."""
        adversary = self.adversary or {}
        inner = adversary.get("steps", 4)
        if "pool" not in adversary:
            return inner
        return min(adversary["horizon"], inner * -(-self.steps // adversary["pool"]))


def _pool(**changes: Any) -> dict[str, Any]:
    return {**POOL, **changes}


def _first(**settings: Any) -> Variant:
    return Variant("first", seeds=(0, 1, 2, 3, 4), examples=(50, 200, 500), **settings)


def _digits(adversary: dict[str, Any] | None = None, **settings: Any) -> Variant:
    usual = {"table": "digits", "seeds": (0, 1, 2, 3, 4), "examples": (100, 400), "setting": "digits"}
    return Variant(adversary=adversary, **{**usual, **settings})


def _harmless(adversary: dict[str, Any] | None = None, **settings: Any) -> Variant:
    return _digits(adversary, table="harmless", examples=(400,), harmless=True, **settings)


def _read(adversary: dict[str, Any] | None = None, **settings: Any) -> Variant:
    return _digits(adversary, table="digits, every layer", every_layer=True, **settings)


def _digits_long(adversary: dict[str, Any] | None = None, **settings: Any) -> Variant:
    return _digits(adversary, table="digits, long", looks=LONG, seeds=(0, 1, 2), **settings)


def _vit(adversary: dict[str, Any] | None = None, **settings: Any) -> Variant:
    usual = {"table": "transformer", "examples": (100, 400), "setting": "transformer"}
    return Variant(adversary=adversary, **{**usual, **settings})


def _long(horizon: int | None, **settings: Any) -> Variant:
    adversary = None if horizon is None else _pool(horizon=horizon)
    return Variant("long", adversary, looks=LONG, **{"steps": 3200, **settings})


def _order(inner: int) -> Variant:
    adversary = {**RESET, "steps": inner}
    return Variant("order", adversary, steps=300, every=max(inner, 1), seeds=(0, 1, 2, 3, 4))


UNBLOCKED: dict[str, Any] = {"adversary": RESET, "blocked": False}
VARIANTS = {  # the most important first
    "base": _first(),
    "scratch": _first(start="scratch"),
    "pool of 8": _first(adversary=POOL),
    "pool of 8, rates 1e-3 to 1e-2": _first(adversary=_pool(learning_rate=HIGH)),
    "reset, K = 4": _first(adversary=RESET),
    "undefended": _first(**UNBLOCKED),
    "reset, K = 0": _first(adversary={**RESET, "steps": 0}),
    "digits: base": _digits(),
    "digits: scratch": _digits(start="scratch"),
    "digits: undefended": _digits(**UNBLOCKED),
    "digits: reset, K = 0": _digits({**RESET, "steps": 0}),
    "digits: reset, K = 4": _digits(RESET),
    "digits: pool of 8": _digits(POOL),
    "digits: pool of 1": _digits(_pool(pool=1)),
    "digits: pool of 8, rates 1e-3 to 1e-2": _digits(_pool(learning_rate=HIGH)),
    "digits: pool of 8, rates that fall to 0": _digits(_pool(schedule="linear")),
    "digits: pool of 8, rates 1e-3 to 1e-2 that fall to 0": _digits(_pool(learning_rate=HIGH, schedule="linear")),
    "digits: reset, K = 4, in turn": _digits(RESET, in_turn=True, steps=2000),
    "digits: pool of 8, in turn": _digits(POOL, in_turn=True, steps=2000),
    "digits: relearned from random weights": _digits(start="scratch", **UNBLOCKED),
    "digits: noise 0.6": _digits(start=0.6, **UNBLOCKED),
    "digits: noise 0.6, then the pool": _digits(POOL, start=0.6),
    "every layer: base": _read(),
    "every layer: scratch": _read(start="scratch"),
    "every layer: undefended": _read(**UNBLOCKED),
    "every layer: reset, K = 4": _read(RESET),
    "every layer: pool of 8": _read(POOL),
    "every layer: pool of 8, rates 1e-3 to 1e-2": _read(_pool(learning_rate=HIGH)),
    "every layer: relearned from random weights": _read(start="scratch", **UNBLOCKED),
    "harmless: base": _harmless(),
    "harmless: scratch": _harmless(start="scratch"),
    "harmless: undefended": _harmless(**UNBLOCKED),
    "harmless: relearned from random weights": _harmless(start="scratch", **UNBLOCKED),
    "harmless: reset, K = 4": _harmless(RESET),
    "harmless: pool of 8": _harmless(POOL),
    "harmless: pool of 8, rates 1e-3 to 1e-2": _harmless(_pool(learning_rate=HIGH)),
    "transformer: base": _vit(),
    "transformer: scratch": _vit(start="scratch"),
    "transformer: undefended": _vit(**UNBLOCKED),
    "transformer: relearned from random weights": _vit(start="scratch", **UNBLOCKED),
    "transformer: reset, K = 0": _vit({**RESET, "steps": 0}),
    "transformer: reset, K = 4": _vit(RESET),
    "transformer: pool of 8": _vit(POOL),
    "transformer: pool of 8, rates 1e-3 to 1e-2": _vit(_pool(learning_rate=HIGH)),
    "transformer: pool of 1, rates 1e-3 to 1e-2": _vit(_pool(pool=1, learning_rate=HIGH)),
    "digits: scratch, attacked longer": _digits_long(start="scratch"),
    "digits: pool of 8, attacked longer": _digits_long(POOL),
    "digits: relearned, attacked longer": _digits_long(start="scratch", **UNBLOCKED),
    "digits: reset, K = 4, attacked longer": _digits_long(RESET),
    "scratch, attacked longer": _long(None, start="scratch"),
    "T = 200": _long(200),
    "T = 800": _long(800),
    "T = 50": _long(50),
    "T = 3200": _long(3200, steps=6400, seeds=(0, 1)),
    "reset, K = 16, 300 outer steps": _order(16),
    "reset, K = 4, 300 outer steps": _order(4),
    "reset, K = 0, 300 outer steps": _order(0),
    "noise 0.3": Variant("noise", start=0.3, **UNBLOCKED),
    "noise 0.6": Variant("noise", start=0.6, **UNBLOCKED),
    "noise 0.3, then the pool": Variant("noise", POOL, start=0.3),
    "noise 0.6, then the pool": Variant("noise", POOL, start=0.6),
    "pool of 8, measured at the end alone": Variant("parts", POOL, steps=1167, end_only=True),
    "pool of 8, K = 1": Variant("parts", _pool(steps=1), steps=1750, every=1),
    "pool of 8, K = 16": Variant("parts", _pool(steps=16), steps=368, every=16),
    "pool of 32": Variant("parts", _pool(pool=32)),
    "pool of 8, reset after 50 steps without a better score": Variant("parts", _pool(pool_patience=50)),
    "pool of 8, T = 800, reset after 100 steps without a better score": Variant(
        "parts", _pool(horizon=800, pool_patience=100)
    ),
    "pool of 8, exact": Variant("parts", POOL, exact=True),
    "pool of 1": _first(adversary=_pool(pool=1)),
    "pool of 8, T = 40": _first(adversary=_pool(horizon=40)),
    "pool of 8, T = 800": _first(adversary=_pool(horizon=800)),
    "pool of 8, rates 1e-4 to 1e-3": _first(adversary=_pool(learning_rate=LOW)),
}


# They only complete a table.
LAST = ("pool of 1", "pool of 8, T = 40", "pool of 8, T = 800", "pool of 8, rates 1e-4 to 1e-3")


def plan() -> list[tuple[str, int]]:
    """Variants and seeds in the order in which they are run: the most important first, table by table."""
    tables = [*dict.fromkeys(variant.table for variant in VARIANTS.values())]

    def place(pair: tuple[str, int]) -> tuple[bool, int, int]:
        variant = VARIANTS[pair[0]]
        seed = 0 if variant.table == "first" else pair[1]  # elsewhere the first seed of all rows comes first
        return pair[0] in LAST, tables.index(variant.table), seed

    return sorted(((name, seed) for name, variant in VARIANTS.items() for seed in variant.seeds), key=place)
