"""Docstrings as Sphinx takes them: fenced examples become directives, signatures of a hundred arguments are cut."""

import textwrap
from typing import Any

LONGEST_SIGNATURE = 1500


def fences_to_directives(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Turn the Markdown code fences of a docstring into code blocks, in place."""
    found: list[str] = []
    code: list[str] | None = None
    for line in lines:
        start = line.strip()
        if code is None and start.startswith("```"):
            indent, code = line[: len(line) - len(line.lstrip())], []
            found += ["", f"{indent}.. code-block:: {start.removeprefix('```') or 'text'}", ""]
        elif code is not None and start == "```":
            body = textwrap.dedent("\n".join(code)).splitlines()
            found += [f"{indent}   {one}" if one else "" for one in body] + [""]
            code = None
        elif code is not None:
            code.append(line)
        else:
            found.append(line)
    lines[:] = found


def short_signature(
    _app: Any, _what: str, _name: str, _obj: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Leave out what a class takes over from `transformers`: more arguments than anybody reads."""
    if signature and len(signature) > LONGEST_SIGNATURE:
        return "(output_dir, **arguments)", returns
    return None
