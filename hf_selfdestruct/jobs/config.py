"""The YAML behind ``hf-selfdestruct harden`` and ``attack``: every key known, every value checked."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_type_hints

from transformers import HfArgumentParser

from ..attacks import named_suite
from ..files import read_text
from ..hardening.adversary_settings import AdversarySettings
from ..hardening.method_options import MethodOptions
from ..hardening.renamed import renamed, renamed_option
from ..publish.card_details import CardDetails
from ..tasks.rows import LABELS
from ..trainer.training_args import SelfDestructTrainingArguments
from ..untrusted_json import check_names
from .sections import DataConfig, TaskConfig, check_kinds, kinds_of
from .strict_yaml import parse_yaml

DOTTED = {"data": DataConfig, "adversary": AdversarySettings, "method_options": MethodOptions}
MOST_BYTES = 100_000  # of a configuration; real ones have a few thousand


@dataclass(frozen=True)
class HardenConfig:
    """A whole job.

    Args:
        model: Hub id or folder of the model to harden; in ``attack``, the base.
        data: The examples.
        blocked_tasks: What to block.
        training: Fields of ``SelfDestructTrainingArguments``.
        suite: Suite to attack with.
        card: Fields of ``CardDetails``.
        workers: Processes that share the attacks.
        control_tasks: Benign tasks that a buyer should still be able to fine-tune to; attacked as a control.

    Raises:
        ValueError: A value is wrong, also within ``training`` and ``card``.
    """

    model: str
    data: DataConfig
    blocked_tasks: tuple[TaskConfig, ...]
    training: dict[str, Any] = field(default_factory=dict)
    suite: str = "default"
    card: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    control_tasks: tuple[TaskConfig, ...] = ()

    def __post_init__(self) -> None:
        """Check every value, also those that others will read."""
        check_kinds(self)
        named_suite(self.suite)
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1; got {self.workers}.")
        for task in (*self.blocked_tasks, *self.control_tasks):
            task.own_data(self.data)  # refused where it is of other examples
            if task.path is None and task.label_column in (self.data.label_column, *LABELS):
                raise ValueError(
                    f"task {task.name!r}: its label_column {task.label_column!r} is, or will be taken for, the desired "
                    f"task's ({self.data.label_column!r} becomes 'label'); give it a column of its own, another name."
                )
        for name in ("name", "label_column"):
            values = [getattr(task, name) for task in (*self.blocked_tasks, *self.control_tasks)]
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(
                    f"two of blocked_tasks and control_tasks have the {name} {twice[0]!r}: each needs its own."
                )
        CardDetails.from_dict(self.card)
        training_arguments(self)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> HardenConfig:
    """Read a YAML file.

    Args:
        path: The file.
        overrides: Command-line words ``--name value`` (or ``--name=value``) for ``training``, ``suite``,
            ``workers``, ``model`` or, as ``--data.name``, ``data``; ``--adversary.name`` and ``--method_options.name``
            change one key within ``training``.

    Returns:
        The configuration, with every key known and every value checked as far as it can be.

    Raises:
        ValueError: The file is missing or not YAML, a key is unknown (the nearest known one is named) or
            missing, or a value is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no configuration at {path}.")
    try:
        parsed = parse_yaml(read_text(path, MOST_BYTES))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    top = _fields(parsed, HardenConfig, str(path))
    _apply(top, overrides, str(path))
    tasks = top["blocked_tasks"]
    if not isinstance(tasks, list) or not tasks:
        raise ValueError(f"{path}: blocked_tasks must be a list with at least one task, got {short(tasks)}.")
    top["card"] = _mapping(top.get("card", {}), f"{path}: card")
    top["data"] = _made(DataConfig, top["data"], f"{path}: data")
    for key in ("blocked_tasks", "control_tasks"):
        if not isinstance(tasks := top.get(key, []), list):
            raise ValueError(f"{path}: {key} must be a list of tasks, got {short(tasks)}.")
        top[key] = tuple(_made(TaskConfig, task, f"{path}: {key}[{i}]") for i, task in enumerate(tasks))
    return _made(HardenConfig, top, str(path))


def training_arguments(config: HardenConfig) -> SelfDestructTrainingArguments:
    """The training arguments of a configuration.

    Raises:
        ValueError: An unknown argument, with the nearest known one, or a wrong value.
    """
    if told := renamed(config.training):
        raise ValueError(f"training: {told}")
    check_names(config.training, _training_names(), "training")
    # transformers takes silenced warnings for a wish to see no progress either.
    given = {"disable_tqdm": False, **{k: v for k, v in config.training.items() if v is not None}}
    hints = get_type_hints(SelfDestructTrainingArguments)
    ready = {k: v for k, v in given.items() if type(v) in kinds_of(hints[k])}
    # YAML reads 1e-4 as text; the parser of the command line turns such values into their field's type.
    rest = {k: f"--{k}={v}" for k, v in given.items() if k not in ready}
    parser = HfArgumentParser(SelfDestructTrainingArguments, exit_on_error=False)  # type: ignore[arg-type]
    try:
        read = parser.parse_args([*rest.values()])
        return SelfDestructTrainingArguments(**ready, **{k: getattr(read, k) for k in rest})
    except (argparse.ArgumentError, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"training: {error}") from None


def _training_names() -> list[str]:
    return [f.name for f in dataclasses.fields(SelfDestructTrainingArguments) if f.init]


def _mapping(raw: Any, where: str) -> dict[Any, Any]:
    """Keys and values; a key without a value is as good as none."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: expected keys and values, got {short(raw)}.")
    return {k: v for k, v in raw.items() if v is not None}


def _fields(raw: Any, kind: Any, where: str) -> dict[str, Any]:
    """Keys and values for a dataclass: none unknown, none missing."""
    given, fields = _mapping(raw, where), dataclasses.fields(kind)
    check_names(given, [f.name for f in fields], where)
    for f in fields:
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in given:
            raise ValueError(f"{where}: {f.name!r} is missing.")
    return given


def _made(kind: Any, raw: Any, where: str) -> Any:
    """A dataclass made from keys and values; what it refuses is told with its place."""
    fields = _fields(raw, kind, where)
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _apply(top: dict[str, Any], overrides: Sequence[str], where: str) -> None:
    """Put ``--name value`` words where they belong: ``--model``, ``--suite``, ``--data.NAME``, else training."""
    words = [part for word in overrides for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError(f"options must come as --name value; got {' '.join(overrides)}.")
    known = [
        "model",
        "suite",
        "workers",
        *(f"{section}.{f.name}" for section, kind in DOTTED.items() for f in dataclasses.fields(kind)),
        *_training_names(),
    ]
    top["training"] = _mapping(top.get("training", {}), f"{where}: training")
    top["data"] = _mapping(top["data"], f"{where}: data")
    for name, value in zip(words[::2], words[1::2], strict=True):
        key = name.removeprefix("--").replace("-", "_")
        if told := renamed_option(key, value):
            raise ValueError(f"command line: {told}")
        check_names([key], known, "command line")
        section, dot, inner = key.partition(".")
        if dot:
            _section(top, section, where)[inner] = _typed(value, name)
        elif key == "workers":
            top[key] = _typed(value, name)
        else:
            (top if key in ("model", "suite") else top["training"])[key] = value


def _section(top: dict[str, Any], section: str, where: str) -> dict[str, Any]:
    """The keys of a section, to be changed one by one."""
    place = top if section == "data" else top["training"]
    place[section] = _mapping(place.get(section, {}), f"{where}: {section}")
    return place[section]


def _typed(word: str, name: str) -> Any:
    try:
        return parse_yaml(word)
    except ValueError as error:
        raise ValueError(f"command line: {name}: {error}") from None
