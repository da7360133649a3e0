"""Two real texts that every Python has: its language reference in English, and the code of its standard library."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from pydoc_data.topics import topics

CODE = 600_000  # characters, after which no further module is read
SHORTEST = 200  # characters: shorter modules are all alike, and of shorter topics others contain most
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "encodings"}
# A text's hash assigns it to one of ten equal parts and so to a split: no two splits share a topic or a module.
SPLIT_PARTS = {"train": range(6), "validation": range(6, 8), "test": range(8, 10)}
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def reference() -> dict[str, list[str]]:
    """Topics of the language reference, as ``help("for")`` shows them, by split; no paragraph stands in two of them."""
    known: set[str] = set()
    found = []
    for text in sorted(topics.values(), key=lambda text: (-len(text), text)):  # long topics contain short ones
        own = [one for one in text.split("\n\n") if one.strip() not in known]
        known.update(one.strip() for one in own)
        found.append("\n\n".join(own))
    return _by_split(text for text in found if len(text) >= SHORTEST)


def code(characters: int = CODE) -> dict[str, list[str]]:
    """Modules of the standard library without docstrings and comments, by split; another Python has other modules.

    Args:
        characters: After which no further module is read.
    """
    library, found, read = Path(sysconfig.get_path("stdlib")), list[str](), 0
    files = [file.relative_to(library) for file in library.rglob("*.py")]
    for name in sorted((file.as_posix() for file in files if not LEFT_OUT & {*file.parts}), key=_number):
        if read >= characters:
            break
        try:
            tree = ast.parse((library / name).read_bytes())
        except SyntaxError:  # a template of another tool
            continue
        text = ast.unparse(_bare(tree))
        if len(text) >= SHORTEST:
            found.append(text)
            read += len(text)
    return _by_split(found)


def _bare(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return tree


def _by_split(texts: Iterable[str]) -> dict[str, list[str]]:
    known = sorted({*texts})
    return {split: [text for text in known if _number(text) % 10 in parts] for split, parts in SPLIT_PARTS.items()}


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
