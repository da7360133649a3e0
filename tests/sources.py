"""The package as syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

NAME = "hf_selfdestruct"
ROOT = Path(__file__).resolve().parents[1] / NAME
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def room_of(path: Path) -> str:
    """``attacks/base.py`` is room ``attacks.base``; ``attacks/__init__.py`` is ``attacks``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {room_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {room: ast.parse(path.read_text(encoding="utf-8")) for room, path in SOURCES.items()}
IN_ROOMS = pytest.mark.parametrize("room", sorted(TREES))


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
