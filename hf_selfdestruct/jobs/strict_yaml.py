"""Strict YAML: no ambiguity, no expansion."""

from __future__ import annotations

import re
import reprlib
from typing import Any

import yaml

MOST_DEPTH = 20
# Plain scalars as YAML 1.2 and Python read them: `no` is text, 0100 is a hundred, 1e-1 a tenth.
# YAML 1.1 reads these three as false, 64 and text.
WHOLE = "[0-9]+(?:_[0-9]+)*"
PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (rf"[-+]?{WHOLE}", "-+0123456789"),
    "float": (
        rf"[-+]?(?:\.[0-9]+|{WHOLE}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


def parse_yaml(text: str) -> Any:
    """Parse YAML strictly: no duplicate keys, no aliases, no nesting deeper than :data:`MOST_DEPTH`.

    Plain scalars are read as in YAML 1.2, see :data:`PLAIN`.

    A few lines of nested aliases can expand to gigabytes, and PyYAML silently drops all but one of duplicate keys.

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
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name
        first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in PLAIN]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            problem = "aliases, such as *name, are not allowed: write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
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
                problem = f"duplicate key {reprlib.repr(key)}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=one.start_mark)
            seen.add(key)
        return made

    def construct_decimal(self, node: Any) -> int:
        return int(self.construct_scalar(node))


for _tag, (_pattern, _first) in PLAIN.items():
    _Strict.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Strict.add_constructor("tag:yaml.org,2002:int", _Strict.construct_decimal)
