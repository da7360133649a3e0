"""Names that settings had once, each with what is said today."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from .adversary_settings import AdversarySettings
from .method_options import MethodOptions

NEW = (
    "steps",
    "pairs",
    "reads",
    "batch_norm",
    "schedule",
    "pool",
    "horizon",
    "pool_storage",
    "pool_precision",
    "pool_patience",
    "pool_by_success",
    "episode",
    "selective_steps",
    "selective_budget",
    "noise",
    "blocking_ceiling",
    "blocking_learning_rate",
    "unlearn_steps",
    "unlearn_weight",
)
RENAMED: dict[str, tuple[str, str, str]] = {  # field, key, and of a range or a growing number the end
    **{
        f"adversary_{one.name}": ("adversary", one.name, "") for one in fields(AdversarySettings) if one.name not in NEW
    },
    **{one.name: ("method_options", one.name, "") for one in fields(MethodOptions) if one.name not in NEW},
    "adversary_learning_rate_max": ("adversary", "learning_rate", "high"),
    "adversary_carries": ("adversary", "pool", "carries"),
    "adversary.carries": ("adversary", "pool", "carries"),
    "inner_steps_start": ("adversary", "steps", "first"),
    "inner_steps_every": ("adversary", "steps", "every"),
}
ENDS = {
    "high": "{{'low': ..., 'high': {}}}",
    "first": "{{'first': {}, 'last': ...}}",
    "every": "{{'first': ..., 'last': ..., 'every': {}}}",
    "carries": "1, 'horizon': {} * inner_steps",
}

Kind = TypeVar("Kind", bound=type)


def renamed(given: Mapping[str, Any]) -> str:
    """One line that says what old names among these are today; empty where there are none.

    Example:
        >>> renamed({"method": "mlac", "adversary_learning_rate": 1e-3})
        "adversary_learning_rate=0.001 is now adversary={'learning_rate': 0.001}."
    """
    said = []
    for name in given:
        if name in RENAMED:
            field, key, end = RENAMED[name]
            said.append(f"{name}={given[name]!r} is now {field}={{{key!r}: {_shown(end, repr(given[name]))}}}")
    return f"{'; '.join(said)}." if said else ""


def renamed_option(name: str, word: str) -> str:
    """The same of one option of the command line.

    Example:
        >>> renamed_option("adversary_learning_rate_max", "1e-3")
        "--adversary_learning_rate_max 1e-3 is now --adversary.learning_rate '{low: ..., high: 1e-3}'."
    """
    if name not in RENAMED:
        return ""
    field, key, end = RENAMED[name]
    if end == "carries":
        return f"--{name} {word} is now --{field}.{key} 1 --{field}.horizon {word}*inner_steps."
    shown = _shown(end, word).replace("'", "")
    return f"--{name} {word} is now --{field}.{key} " + (f"'{shown}'." if end else f"{shown}.")


def refuses_old_names(kind: Kind) -> Kind:
    """Let a dataclass say what an old name is today, where it is given as a keyword."""
    made = kind.__init__  # type: ignore[misc]

    @functools.wraps(made)
    def checked(self: Any, *values: Any, **named: Any) -> None:
        if told := renamed(named):
            raise TypeError(told)
        made(self, *values, **named)

    kind.__init__ = checked  # type: ignore[misc]
    return kind


def _shown(end: str, value: str) -> str:
    return ENDS[end].format(value) if end else value
