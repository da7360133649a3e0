"""Markdown tables, and docstrings cut to what a table shows."""

import ast
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROLE = re.compile(r":\w+:`[~.!]*(?:\w+\.)*(\w+)`")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars and line ends in cells are made harmless."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def summary(doc: str | None, sentences: int = 1) -> str:
    """The first sentences of a docstring as Markdown."""
    first = re.split(r"\n\s*\n", doc or "", maxsplit=1)[0]
    text = ROLE.sub(r"`\1`", " ".join(first.split())).replace("``", "`")
    return " ".join(re.split(r"(?<=[.:!?]) (?=[A-Z`])", text)[:sentences])


def parsed(path: str) -> ast.Module:
    """A file of the repository as a syntax tree."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def assigned(tree: ast.Module) -> dict[str, ast.expr]:
    """The values of a module's top-level names."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = node.value
    return found
