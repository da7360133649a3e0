"""YAML that means one thing and is as large as it looks."""

from __future__ import annotations

import reprlib
from typing import Any

import yaml

MOST_DEPTH = 20


def parse_yaml(text: str) -> Any:
    """Parse YAML strictly: no key twice in a mapping, no aliases, nested no deeper than :data:`MOST_DEPTH`.

    A few lines of aliases of aliases stand for gigabytes; of two equal keys one would be lost without a word.

    Args:
        text: The YAML.

    Raises:
        ValueError: The text is not such YAML.

    Example:
        >>> parse_yaml("steps: 100")
        {'steps': 100}
    """
    try:
        return yaml.load(text, _Strict)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


class _Strict(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias, such as *name: write the value out", problem_mark=mark)
        if self.depth == MOST_DEPTH:
            raise yaml.YAMLError("nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        made, seen = super().construct_mapping(node, deep=deep), set()
        for one, _ in node.value:
            key = self.construct_object(one, deep=True)
            if key in seen:
                problem = f"the key {reprlib.repr(key)} stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=one.start_mark)
            seen.add(key)
        return made
