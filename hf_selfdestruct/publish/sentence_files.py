"""Check the files of ``sentence_transformers``: they may name only its simplest modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .layout import MODULES, SENTENCE_FILES

ROOT = "sentence_transformers"
# Each module: every name of its class in the library's history, and its folder. None of them has weights of its own.
PARTS = {
    "Transformer": ({f"{ROOT}.models.Transformer", f"{ROOT}.base.modules.transformer.Transformer"}, ""),
    "Pooling": ({f"{ROOT}.models.Pooling", f"{ROOT}.sentence_transformer.modules.pooling.Pooling"}, "[0-9]_Pooling"),
    "Normalize": ({f"{ROOT}.models.Normalize", f"{ROOT}.base.modules.normalize.Normalize"}, "[0-9]_Normalize"),
}
SETTINGS = {  # of the first module; other settings could call methods or read other files
    "max_seq_length": lambda value: value is None or isinstance(value, int),
    "do_lower_case": lambda value: isinstance(value, bool),
    "transformer_task": lambda value: value == "feature-extraction",
    "module_output_name": lambda value: value == "token_embeddings",
    "modality_config": lambda value: (
        value == {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    ),
}


def sentence_problems(names: Iterable[str], contents: Mapping[str, Any]) -> list[str]:
    """List the problems of a sentence encoder's files.

    Args:
        names: The listed files.
        contents: Parsed content of the JSON files.

    Returns:
        One line per problem, naming the file.
    """
    found = [name for name in names if name in SENTENCE_FILES or name.endswith("/config.json")]
    if MODULES not in names:
        return [f"{name}: belongs to a sentence encoder, but {MODULES} is missing" for name in found]
    return [*_module_problems(contents.get(MODULES), found), *_setting_problems(contents.get(SENTENCE_FILES[0], {}))]


def _module_problems(modules: Any, found: list[str]) -> Iterator[str]:
    if not isinstance(modules, list) or not modules:
        yield f"{MODULES}: is not a list of modules"
        return
    places = set()
    for module in modules:
        held = module if isinstance(module, dict) else {}
        kind, path = held.get("type"), held.get("path")
        folder = next((place for kinds, place in PARTS.values() if isinstance(kind, str) and kind in kinds), None)
        if folder is None:
            yield f"{MODULES}: loads a class other than {', '.join(PARTS)} of {ROOT}"
        elif (
            not isinstance(path, str) or not re.fullmatch(folder, path) or held.keys() - {"idx", "name", "path", "type"}
        ):
            yield f"{MODULES}: loads files that do not belong to its modules"
        else:
            places.add(f"{path}/config.json")
    yield from (f"{name}: not named in {MODULES}" for name in found if "/" in name and name not in places)


def _setting_problems(settings: Any) -> Iterator[str]:
    name = SENTENCE_FILES[0]
    if not isinstance(settings, dict):
        yield f"{name}: contains no settings"
        return
    for key, value in settings.items():
        if key not in SETTINGS or not SETTINGS[key](value):
            yield f"{name}: {key} is not an allowed setting of a sentence encoder"
