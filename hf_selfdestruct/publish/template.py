"""The templates of cards and pages; a value that they name and nobody gives is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template_of(name: str, finalize: Callable[[Any], Any], *, autoescape: bool = False) -> Template:
    """Return a template of this package.

    Args:
        name: File name in ``templates``.
        finalize: What makes a value harmless before it is shown.
        autoescape: Whether HTML in values is escaped.
    """
    environment = Environment(
        loader=PackageLoader("hf_selfdestruct.publish"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
