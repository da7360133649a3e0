"""Untrusted JSON: strict parsing, and type checks against dataclass annotations."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import reprlib
import types
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

# Names of the JSON types in error messages.
NAMES = {dict: "an object", tuple: "a list", str: "text", int: "a whole number", float: "a number", bool: "a boolean"}
LARGEST = 2**63
MOST_ENTRIES = 500_000
MOST_DEPTH = 64
LONGEST = 100  # of an unknown name, to look for the nearest known one


def parse_json(text: str, *, infinite: bool = False, most: int = MOST_ENTRIES) -> Any:
    """Parse JSON strictly: no duplicate names, no NaN, no nesting deeper than :data:`MOST_DEPTH`.

    JSON parsers differ in which of two duplicate names they use; evidence must mean the same to all of them.

    Args:
        text: The JSON.
        infinite: Whether to allow infinities and larger whole numbers, as model configurations contain them.
        most: Maximum number of entries.

    Raises:
        ValueError: The text is not such JSON, or has more entries.
    """
    if text.count(",") >= most:  # a comma separates two entries; commas within strings only make the limit stricter
        raise ValueError(f"more than {most} entries.")
    constant, whole = (_constant, int) if infinite else (_number, _whole_number)
    try:
        parsed = json.loads(
            text, parse_constant=constant, parse_float=_number, parse_int=whole, object_pairs_hook=_once
        )
    except RecursionError:
        raise ValueError("nested too deeply.") from None
    _check_depth(parsed)
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"duplicate name {reprlib.repr(name)} in one object.")
        made[name] = value
    return made


def _check_depth(parsed: Any) -> None:
    level = [parsed]
    for _ in range(MOST_DEPTH):
        level = [inner for one in level for inner in _inside(one) if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError("nested too deeply.")


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def checked(kind: Any, raw: Any, where: str) -> Any:
    """Check a parsed JSON value against a type annotation and convert it.

    Args:
        kind: A dataclass, ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``, ``Any`` or a plain type.
        raw: The value.
        where: Path of the value, for error messages.

    Returns:
        The value, with objects converted to dataclasses and lists to tuples where the type asks for them.

    Raises:
        ValueError: The value, or a nested one, has another type; the message names its path.
    """
    if kind is Any:
        return raw
    if dataclasses.is_dataclass(kind):
        return _object(kind, raw, where)
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if outer is types.UnionType:
        return None if raw is None else checked(inner[0], raw, where)
    if outer is tuple:
        values = _plain(list | tuple, raw, where, NAMES[tuple])
        return tuple(checked(inner[0], value, f"{where}[{i}]") for i, value in enumerate(values))
    if outer is dict and inner:
        values = _plain(dict, raw, where, NAMES[dict])
        return {name: checked(inner[1], value, f"{where}[{name!r}]") for name, value in values.items()}
    return _plain(int | float if kind is float else kind, raw, where, NAMES[kind])


def check_names(given: Iterable[str], known: Sequence[str], where: str) -> None:
    """Refuse an unknown name and say which known one is nearest."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name)[:LONGEST], known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}: unknown key {reprlib.repr(name)}; did you mean {near!r}?")


def _object(kind: Any, raw: Any, where: str) -> Any:
    """Build a dataclass from a JSON object; fields with defaults may be missing."""
    raw = _plain(dict, raw, where, NAMES[dict])
    fields = {f.name: f for f in dataclasses.fields(kind)}
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if unknown := raw.keys() - fields.keys():
        names = ", ".join(sorted(map(str, unknown)))
        raise ValueError(f"{where}: unknown fields: {names}; known fields: {', '.join(fields)}.")
    if missing := required - raw.keys():
        raise ValueError(f"{where}: missing fields: {', '.join(sorted(missing))}.")
    hints = _hints(kind)
    return kind(**{name: checked(hints[name], value, f"{where}.{name}") for name, value in raw.items()})


_hints = functools.cache(get_type_hints)


def _plain(kind: Any, raw: Any, where: str, name: str) -> Any:
    # In Python a boolean is an integer; in a report it is not.
    if not isinstance(raw, kind) or (isinstance(raw, bool) and kind is not bool):
        raise ValueError(f"{where}: expected {name}, got {reprlib.repr(raw)}.")
    return raw


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number.")
    return value


def _constant(text: str) -> float:
    return float(text) if "Infinity" in text else _number(text)


def _whole_number(text: str) -> int:
    if abs(_number(text)) >= LARGEST:
        raise ValueError(f"the number {reprlib.repr(text)} is too large.")
    return int(text)
