"""A figure as SVG within an HTML page, in the colours that the page's style names."""

from __future__ import annotations

import re
from io import StringIO

import matplotlib
from matplotlib.figure import Figure

from .plots import COLOURS, GRID, INK, legend_below

# Colour to the property of the style that replaces it: a page has other colours in the dark.
NAMED = {**{colour: role for role, colour in COLOURS.items()}, GRID: "line", INK: "soft", "#000000": "ink"}
TAG = re.compile(r"<[^<>]+>")


def inline_svg(figure: Figure, size: tuple[float, float] | None = None) -> str:
    """Draw a figure as an SVG element that references nothing outside itself.

    Args:
        figure: The figure; loses its title, which the page shows as a caption.
        size: Width and height in inches; a figure that gets one gets a legend of two columns, too.

    Returns:
        The element; text in it is escaped, and its colours are properties such as ``var(--hardened)``.
    """
    for axes in figure.axes:
        axes.set_title("", loc="left")
    if size:
        figure.set_size_inches(*size)
        for axes in figure.axes:
            legend_below(axes, 2)
    drawn = StringIO()
    without = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hf_selfdestruct"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata=without)
    element = drawn.getvalue()
    return TAG.sub(_themed, element[element.index("<svg") :])


def _themed(tag: re.Match[str]) -> str:
    """A tag with named colours, and without the id of a group, which another figure has too."""
    text = re.sub(r'^<g id="[^"]*"', "<g", tag[0])
    return re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", lambda found: _name(found[0]), text)


def _name(colour: str) -> str:
    return f"var(--{NAMED[colour]})" if colour in NAMED else colour
