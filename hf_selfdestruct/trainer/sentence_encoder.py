"""A hardened sentence encoder opens as the same ``SentenceTransformer`` as its original."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..files import read_text
from ..publish.layout import MODULES, SENTENCE_FILES
from ..publish.sentence_files import sentence_problems
from ..publish.stock_loading import MOST_BYTES
from ..untrusted_json import parse_json

logger = logging.getLogger(__name__)


def carry_sentence_files(source: str, folder: str | Path) -> list[str]:
    """Copy how ``sentence_transformers`` reads a model into the folder of another one with the same trunk.

    Args:
        source: Folder or Hub id of the original.
        folder: Where to.

    Returns:
        The files that were copied; none where the original is no sentence encoder, or one with parts beside trunk,
        pooling and normalization, of which a warning tells.
    """
    folder = Path(folder)
    if not source or (Path(source).is_dir() and Path(source).resolve() == folder.resolve()):
        return []
    modules = _found(source, MODULES)
    if modules is None:
        return []
    contents = {MODULES: _parsed(modules)}
    problems = sentence_problems([MODULES], contents)
    if not problems:  # so that every path in it is one of ours
        parts = [f"{one['path']}/config.json" for one in contents[MODULES] if one["path"]]
        found = {name: path for name in (*SENTENCE_FILES, *parts) if (path := _found(source, name))}
        found[MODULES] = modules
        contents |= {name: _parsed(path) for name, path in found.items()}
        problems = sentence_problems([*found], contents)
    if problems:
        logger.warning("%s will not open as the sentence encoder that %s is (%s)", folder, source, problems[0])
        return []
    for name, path in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return sorted(found)


def _found(source: str, name: str) -> Path | None:
    """A file of a model in a folder, on the Hub or in its cache; ``None`` where it is not at hand."""
    if Path(source).is_dir():
        return path if (path := Path(source, name)).is_file() else None
    try:
        fetched = cached_file(
            source,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # no such repository
        return None
    return Path(fetched) if fetched else None


def _parsed(path: Path) -> Any:
    try:
        return parse_json(read_text(path, MOST_BYTES))
    except ValueError:
        return None
