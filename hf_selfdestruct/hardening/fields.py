"""How settings are declared, and how those that stand together are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import field
from reprlib import repr as short
from typing import Any

from ..untrusted_json import check_names, parse_json


def option(default: Any, text: str, choices: Iterable[str] = ()) -> Any:
    """A field with the help text of the command line."""
    return field(default=default, metadata={"help": f"{text[:-1]}: {', '.join(choices)}." if choices else text})


def mapping_of(given: Mapping[str, Any] | str | None, kind: Any, where: str) -> dict[str, Any] | None:
    """Keys and values for the fields of a dataclass, from a mapping or its JSON; a key that is ``None`` is left out.

    Raises:
        ValueError: It is neither, or a key is unknown; the message names the nearest known one.
    """
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = parse_json(given)
        except ValueError as error:
            raise ValueError(f"{where}: expected keys and values in JSON ({error}); got {short(given)}.") from None
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: expected keys and values; got {short(given)}.")
    check_names(given, [f.name for f in dataclasses.fields(kind)], where)
    return {name: value for name, value in given.items() if value is not None}


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Refuse a name that is none of the known ones."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}.")


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number, or below its bound."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
