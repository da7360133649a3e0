"""A commented configuration to start from, written from the documentation of its keys."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..publish.card_details import CardDetails
from .sections import DataConfig, TaskConfig, words_of

WIDTH = 100
HEAD = """\
# What to harden, against what, and how. Put your own values in, then run:
#
#   hf-selfdestruct harden {file}
#
# A line such as "# max_rows:" shows a key that may be left out, with its default.

# Hub id or folder of the model to harden.
model: {model}

data:
"""
TRAINING = """\
# Any field of SelfDestructTrainingArguments, and so of transformers' TrainingArguments.
training:
  # Where the hardened model goes.
  output_dir: hardened
  # Preset of hardening; by default the one that was measured to work for the kind of model.
  # method:
  # Changes to the preset, by key; `hf-selfdestruct harden --help` lists the keys.
  # adversary:
  # method_options:
  # --dry_run true on the command line says what hardening will cost, and ends.
  max_steps: 1000
  per_device_train_batch_size: 24
  learning_rate: 5e-5
  warmup_steps: 50
  logging_steps: 10
  save_steps: 100
  save_total_limit: 1
  seed: 0

# Suite of attacks, one of smoke, glance, quick, default, mlac, sophon, durability, adaptive or full.
suite: default

# Processes on this machine that share the attacks.
# workers: 1

"""
STARTS: dict[str, dict[str, Any]] = {
    "text": {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "data": {"path": "my-data", "text_column": "text", "label_column": "label", "max_length": 128},
    },
    "image": {
        "model": "google/vit-base-patch16-224-in21k",
        "data": {"path": "my-images", "image_column": "image", "label_column": "label"},
    },
}
TASK = {"name": "blocked", "label_column": "blocked_label"}
CARD = {"title": "A hardened model", "license": "apache-2.0", "language": "en"}


def starter(kind: str = "text", file: str = "CONFIG.yaml") -> str:
    """The text of a configuration that can be read as it is.

    Args:
        kind: What the examples are.
        file: Name of the configuration, for its first lines.

    Raises:
        ValueError: No examples of this kind can be hardened from a configuration.
    """
    if kind not in STARTS:
        raise ValueError(
            f"--kind {kind} is not supported: a configuration can be for {' or '.join(STARTS)}; for other models, use "
            "SelfDestructTrainer in Python."
        )
    start = STARTS[kind]
    data = _section(DataConfig, start["data"], "  ")
    task = _section(TaskConfig, TASK, "    ")
    tasks = f"# What to block: one entry for each task.\nblocked_tasks:\n  -\n{task}\n"
    card = '# The publisher\'s own words; what is left empty is "not stated" on the card.\ncard:\n'
    head = HEAD.format(file=file, model=start["model"])
    return f"{head}{data}\n{tasks}{TRAINING}{card}{_section(CardDetails, CARD, '  ')}"


def write_starter(file: str | Path, kind: str = "text") -> None:
    """Write :func:`starter` into a new file.

    Raises:
        ValueError: The file exists, or no examples of this kind can be hardened from a configuration.
    """
    text = starter(kind, str(file))
    try:
        with open(file, "x", encoding="utf-8") as made:
            made.write(text)
    except FileExistsError:
        raise ValueError(f"{file} exists, and is not overwritten; name another file.") from None


def _section(kind: Any, given: Mapping[str, Any], indent: str) -> str:
    """Every key of a section under its words; those that are not given are commented out, with their defaults."""
    lines, words = [], words_of(kind)
    for field in dataclasses.fields(kind):
        lines += textwrap.wrap(words[field.name], WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if field.name in given:
            lines.append(f"{indent}{field.name}: {_shown(given[field.name])}")
        else:
            lines.append(f"{indent}# {field.name}: {_shown(field.default)}".rstrip())
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z_][\w ./-]*", value) else json.dumps(value) if value else ""
    return json.dumps(value) if isinstance(value, bool | int | float) else ""
