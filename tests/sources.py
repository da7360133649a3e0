"""The package as syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

NAME = "hf_selfdestruct"
ROOT = Path(__file__).resolve().parents[1] / NAME
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def room_of(path: Path, root: Path = ROOT) -> str:
    """``attacks/data.py`` is ``attacks.data``; ``attacks/__init__.py`` is ``attacks``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package, or of a copy of it, by its dotted name inside."""
    return {room_of(path, root): path for path in sorted(root.rglob("*.py"))}


SOURCES = modules()
TREES = {room: ast.parse(path.read_text(encoding="utf-8")) for room, path in SOURCES.items()}
IN_ROOMS = pytest.mark.parametrize("room", sorted(TREES))


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
