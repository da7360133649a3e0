"""The YAML behind ``hf-selfdestruct harden`` and ``attack``: every key known, every value checked."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from .attacks import named_suite
from .card import CardDetails
from .training_args import SelfDestructTrainingArguments

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataConfig:
    """Where the examples come from and how they become tokens.

    Args:
        path: Hub id, or a folder with ``train.parquet``, ``validation.parquet`` and ``test.parquet``
            (also ``.json``, ``.jsonl``, ``.csv``).
        text_column: Column with the text.
        label_column: Column with the desired task's label, text or integer.
        max_length: Most tokens of an example.
        only: A true/false column; rows where it is false are left out.
        replace_pronouns: Replace he/she/him/her/his/hers/himself/herself by neutral ones, as the MLAC
            paper does with its biographies.
        splits: Names of the splits, where they are not ``train``, ``validation`` and ``test``.
        max_rows: Most rows of each split, the first ones of a fixed shuffle; all by default.
    """

    path: str
    text_column: str = "text"
    label_column: str = "label"
    max_length: int = 128
    only: str | None = None
    replace_pronouns: bool = False
    splits: dict[str, str] = field(default_factory=dict)
    max_rows: int | None = None


@dataclass(frozen=True)
class TaskConfig:
    """A blocked task: its name, the column with its labels, and its weight among several."""

    name: str
    label_column: str
    weight: float = 1.0


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
    """

    model: str
    data: DataConfig
    blocked_tasks: tuple[TaskConfig, ...]
    training: dict[str, Any] = field(default_factory=dict)
    suite: str = "default"
    card: dict[str, Any] = field(default_factory=dict)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> HardenConfig:
    """Read a YAML file.

    Args:
        path: The file.
        overrides: Command-line words ``--name value`` (or ``--name=value``) for ``training``, ``suite``,
            ``model`` or, as ``--data.name``, ``data``.

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
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    top = _fields(raw, HardenConfig, str(path))
    _apply(top, overrides)
    data = DataConfig(**_fields(top["data"], DataConfig, f"{path}: data"))
    check_names(data.splits, SPLITS, f"{path}: data: splits")
    tasks = top["blocked_tasks"]
    if not isinstance(tasks, list) or not tasks:
        raise ValueError(f"{path}: blocked_tasks must be a list with at least one task, got {tasks!r}.")
    top["blocked_tasks"] = tuple(
        TaskConfig(**_fields(task, TaskConfig, f"{path}: blocked_tasks[{i}]")) for i, task in enumerate(tasks)
    )
    config = HardenConfig(**{**top, "data": data})
    training_arguments(config)
    named_suite(config.suite)
    CardDetails.from_dict(config.card, f"{path}: card")
    return config


def training_arguments(config: HardenConfig, **defaults: Any) -> SelfDestructTrainingArguments:
    """The training arguments of a configuration.

    Raises:
        ValueError: An unknown argument, with the nearest known one, or a wrong value.
    """
    known = [f.name for f in dataclasses.fields(SelfDestructTrainingArguments) if f.init]
    check_names(config.training, known, "training")
    given = {**defaults, **config.training}
    # YAML reads 1e-4 as text; the parser of the command line turns every value into its field's type.
    words = [word for k, v in given.items() for word in (f"--{k}", str(v)) if v is not None]
    parser = HfArgumentParser(SelfDestructTrainingArguments, exit_on_error=False)  # type: ignore[arg-type]
    try:
        (args,) = parser.parse_args_into_dataclasses(args=words, look_for_args_file=False)
    except (SystemExit, TypeError) as error:
        raise ValueError(f"training: {error}") from None
    return args


def check_names(given: Mapping[str, Any] | Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse an unknown name and say which known one is nearest."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}: unknown key {name!r}; did you mean {near!r}?")


def _fields(raw: Any, kind: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: expected keys and values, got {raw!r}.")
    fields = dataclasses.fields(kind)
    check_names(raw, [f.name for f in fields], where)
    for f in fields:
        if f.default is f.default_factory is dataclasses.MISSING and raw.get(f.name) is None:
            raise ValueError(f"{where}: {f.name!r} is missing.")
    return dict(raw)


def _apply(top: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put ``--name value`` words where they belong: ``--model``, ``--suite``, ``--data.NAME``, else training."""
    words = [part for word in overrides for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError(f"options must come as --name value; got {' '.join(overrides)}.")
    training, data = (f.name for f in dataclasses.fields(SelfDestructTrainingArguments) if f.init), DataConfig
    known = ["model", "suite", *(f"data.{f.name}" for f in dataclasses.fields(data)), *training]
    top["training"] = dict(top.get("training") or {})
    top["data"] = dict(top["data"]) if isinstance(top["data"], dict) else top["data"]
    for name, value in zip(words[::2], words[1::2], strict=True):
        key = name.removeprefix("--").replace("-", "_")
        check_names([key], known, "command line")
        if key.startswith("data."):
            top["data"][key.removeprefix("data.")] = yaml.safe_load(value)
        else:
            (top if key in ("model", "suite") else top["training"])[key] = value
