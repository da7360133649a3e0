"""The YAML configuration of ``hf-selfdestruct harden`` and ``attack``; every key and value is checked."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_type_hints

from peft import LoraConfig
from transformers import HfArgumentParser

from ..attacks import named_suite
from ..files import read_text
from ..hardening.adversary_settings import AdversarySettings
from ..hardening.method_options import MethodOptions
from ..hardening.renamed import renamed, renamed_option
from ..publish.card_details import CardDetails
from ..tasks.classification import CLASSIFICATION
from ..tasks.language_modeling import LANGUAGE_MODELING
from ..tasks.rows import LABELS
from ..trainer.desired_tasks import DesiredTasks
from ..trainer.training_args import SelfDestructTrainingArguments
from ..untrusted_json import check_names
from .sections import DataConfig, TaskConfig, check_kinds, kinds_of
from .strict_yaml import parse_yaml

DOTTED = {"data": DataConfig, "adversary": AdversarySettings, "method_options": MethodOptions}
ADAPTER = (  # fields of LoraConfig that say what is trained, and how it begins
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "fan_in_fan_out", "init_lora_weights", "task_type"),
)
MOST_BYTES = 100_000  # size limit of a configuration; real ones have a few thousand bytes


@dataclass(frozen=True)
class HardenConfig:
    """The configuration of a job.

    Args:
        model: Hub id or folder of the model to harden; in ``attack``, the base.
        data: The examples.
        blocked_tasks: What to block.
        training: Fields of ``SelfDestructTrainingArguments``.
        suite: Suite to attack with.
        card: Fields of ``CardDetails``.
        workers: Number of attack processes on this machine.
        control_tasks: Benign tasks that users should still be able to fine-tune to; attacked as a control.
        filtered: Hub id or folder of a model trained as ``model`` was, but never on what is blocked; a reference.
        desired_tasks: Tasks of lm-eval on which a language model's desired quality is measured, too.
        adapter: Fields of ``peft.LoraConfig``: an adapter alone is trained, merged into the model in each step; by
            default the whole model is.

    Raises:
        ValueError: A value is wrong, including those in ``training``, ``card`` and ``adapter``.
    """

    model: str
    data: DataConfig
    blocked_tasks: tuple[TaskConfig, ...]
    training: dict[str, Any] = field(default_factory=dict)
    suite: str = "default"
    card: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    control_tasks: tuple[TaskConfig, ...] = ()
    filtered: str = ""
    desired_tasks: DesiredTasks = field(default_factory=DesiredTasks)
    adapter: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value, including those of the card and the training arguments."""
        check_kinds(self)
        named_suite(self.suite)
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1; got {self.workers}.")
        self._check_kind()
        for task in (*self.blocked_tasks, *self.control_tasks):
            task.own_data(self.data)  # raises if the task's data set has other kinds of examples
            if task.path is None and task.label_column in (self.data.label_column, *LABELS):
                raise ValueError(
                    f"task {task.name!r}: label_column {task.label_column!r} collides with the desired task's label "
                    f"column ({self.data.label_column!r} is renamed to 'label'); rename the blocked column."
                )
        for name in ("name", *(() if self.data.of_texts else ("label_column",))):
            values = [getattr(task, name) for task in (*self.blocked_tasks, *self.control_tasks)]
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(
                    f"two of blocked_tasks and control_tasks share the {name} {twice[0]!r}; make each {name} unique."
                )
        CardDetails.from_dict(self.card)
        training_arguments(self)
        lora_config(self)

    def _check_kind(self) -> None:
        """Tasks have labels or texts of their own, as the data say, and the suite's attacks can be run on them."""
        kind = LANGUAGE_MODELING if self.data.of_texts else CLASSIFICATION
        suite = named_suite(self.suite, [kind])
        for key in ("blocked_tasks", "control_tasks"):
            for i, task in enumerate(getattr(self, key)):
                if not self.data.of_texts and not task.label_column:
                    raise ValueError(f"{key}[{i}]: 'label_column' is missing.")
                if self.data.of_texts and (task.label_column or not task.path):
                    raise ValueError(f"{key}[{i}]: with data.kind: text, set path to its texts, and no label_column.")
        if self.data.of_texts and not all(entry.attack.fits(kind) for entry in suite.entries):
            raise ValueError(
                f"suite {self.suite!r} attacks classifiers: choose suite glance, quick, default, durability or "
                "adaptive, which attack language models too."
            )
        suite.check_kind(kind, "these data")
        if self.desired_tasks.names and not self.data.of_texts:
            raise ValueError("desired_tasks asks language models: set data.kind: text, or leave them out.")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> HardenConfig:
    """Read a YAML file.

    Args:
        path: The file.
        overrides: Command-line arguments ``--name value`` (or ``--name=value``) for ``training``, ``suite``,
            ``workers``, ``filtered``, ``model`` or, as ``--data.name``, ``data``; ``--adversary.name`` and
            ``--method_options.name`` change one key within ``training``.

    Returns:
        The checked configuration.

    Raises:
        ValueError: The file is missing or not YAML, a key is missing or unknown (the message suggests the nearest
            known key), or a value is wrong.
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
    for key in ("card", "adapter"):
        top[key] = _mapping(top.get(key, {}), f"{path}: {key}")
    top["data"] = _made(DataConfig, top["data"], f"{path}: data")
    for key in ("blocked_tasks", "control_tasks"):
        if not isinstance(tasks := top.get(key, []), list):
            raise ValueError(f"{path}: {key} must be a list of tasks, got {short(tasks)}.")
        top[key] = tuple(_made(TaskConfig, task, f"{path}: {key}[{i}]") for i, task in enumerate(tasks))
    if "desired_tasks" in top:
        top["desired_tasks"] = _made(DesiredTasks, top["desired_tasks"], f"{path}: desired_tasks")
    return _made(HardenConfig, top, str(path))


def training_arguments(config: HardenConfig) -> SelfDestructTrainingArguments:
    """Build the training arguments of a configuration.

    Raises:
        ValueError: An argument is unknown (the message suggests the nearest known one), or a value is wrong.
    """
    if told := renamed(config.training):
        raise ValueError(f"training: {told}")
    check_names(config.training, _training_names(), "training")
    # transformers disables progress bars by default when its warnings are silenced.
    given = {"disable_tqdm": False, **{k: v for k, v in config.training.items() if v is not None}}
    hints = get_type_hints(SelfDestructTrainingArguments)
    ready = {k: v for k, v in given.items() if type(v) in kinds_of(hints[k])}
    # YAML reads 1e-4 as text; the command-line parser converts such values to the type of their field.
    rest = {k: f"--{k}={v}" for k, v in given.items() if k not in ready}
    parser = HfArgumentParser(SelfDestructTrainingArguments, exit_on_error=False)  # type: ignore[arg-type]
    try:
        read = parser.parse_args([*rest.values()])
        return SelfDestructTrainingArguments(**ready, **{k: getattr(read, k) for k in rest})
    except (argparse.ArgumentError, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"training: {error}") from None


def lora_config(config: HardenConfig) -> LoraConfig | None:
    """Build the adapter of a configuration; ``None`` if the whole model is trained.

    Raises:
        ValueError: A field is unknown (the message suggests the nearest known one), or its value is wrong.
    """
    if not config.adapter:
        return None
    check_names(config.adapter, ADAPTER, "adapter")
    for name in ("r", "lora_alpha"):
        value = config.adapter.get(name, 1)
        if type(value) is not int or value < 1:
            raise ValueError(f"adapter: {name} must be a whole number of at least 1; got {short(value)}.")
    try:
        return LoraConfig(**config.adapter)
    except (TypeError, ValueError) as error:
        raise ValueError(f"adapter: {error}") from None


def _training_names() -> list[str]:
    return [f.name for f in dataclasses.fields(SelfDestructTrainingArguments) if f.init]


def _mapping(raw: Any, where: str) -> dict[Any, Any]:
    """Check for a mapping and drop keys without a value."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: expected keys and values, got {short(raw)}.")
    return {k: v for k, v in raw.items() if v is not None}


def _fields(raw: Any, kind: Any, where: str) -> dict[str, Any]:
    """Check that a mapping has only known fields of a dataclass, and every required one."""
    given, fields = _mapping(raw, where), dataclasses.fields(kind)
    check_names(given, [f.name for f in fields], where)
    for f in fields:
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in given:
            raise ValueError(f"{where}: {f.name!r} is missing.")
    return given


def _made(kind: Any, raw: Any, where: str) -> Any:
    """Build a dataclass from a mapping; errors name the place in the file."""
    fields = _fields(raw, kind, where)
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _apply(top: dict[str, Any], overrides: Sequence[str], where: str) -> None:
    """Apply ``--name value`` overrides of the file's own keys, of ``--data.NAME``, or else of training."""
    words = [part for word in overrides for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError(f"write options as --name value; got {' '.join(overrides)}.")
    known = [
        "model",
        "suite",
        "workers",
        "filtered",
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
            (top if key in ("model", "suite", "filtered") else top["training"])[key] = value


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
