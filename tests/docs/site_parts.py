"""The pages of the documentation, and the code, commands and messages that stand on them."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS))
PAGES = sorted(path for path in DOCS.glob("*.md") if path.stem not in ("security", "changelog"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FEWEST_WORDS = 20  # letters of a message that must stand in the source as they are


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page."""
    return [code for kind, code in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


@cache
def messages() -> list[re.Pattern[str]]:
    """Every text of the package, what is filled in standing for anything."""
    found = []
    for path in sorted((ROOT / "hf_selfdestruct").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if _is_text(part) else None for part in parts]
            if sum(len(text) for text in texts if text) >= FEWEST_WORDS:
                found.append(re.compile("".join("(.*?)" if text is None else re.escape(text) for text in texts)))
    return found


def matches(message: str) -> list[re.Match[str]]:
    """The texts of the package that a message is."""
    return [match for pattern in messages() if (match := pattern.fullmatch(message))]


@cache
def source() -> str:
    """The package's source, texts over several lines joined."""
    files = sorted((ROOT / "hf_selfdestruct").rglob("*.py"))
    return " ".join(re.sub(r'"\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in files)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
