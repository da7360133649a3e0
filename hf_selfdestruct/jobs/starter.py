"""Write a commented starter configuration, with the documentation of every key."""

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
# Which model to harden, against which task, and how. Edit the values, then run:
#
#   hf-selfdestruct harden {file}
#
# A line such as "# max_rows:" shows an optional key with its default.

# Hub id or folder of the model to harden.
model: {model}

data:
"""
TRAINING = """\
# Any field of SelfDestructTrainingArguments, including those of transformers' TrainingArguments.
training:
  # Folder to save the hardened model to.
  output_dir: hardened
  # Hardening preset; by default the best measured one for the kind of model.
  # method:
  # Changes to the preset, by key; `hf-selfdestruct harden --help` lists the keys.
  # adversary:
  # method_options:
  # --dry_run true on the command line prints what hardening will cost, and exits.
  max_steps: 1000
  per_device_train_batch_size: 24
  learning_rate: 5e-5
  warmup_steps: 50
  logging_steps: 10
  save_steps: 100
  save_total_limit: 1
  seed: 0

# Suite of attacks: smoke, small, glance, quick, default, mlac, sophon, durability, adaptive or full;
# with data.kind: text glance, quick, default, durability or adaptive.
suite: default

# Number of attack processes on this machine.
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
    """Return the text of a valid configuration.

    Args:
        kind: Kind of the examples, a key of :data:`STARTS`.
        file: Name of the configuration, for its first lines.

    Raises:
        ValueError: Configurations do not support this kind of examples.
    """
    if kind not in STARTS:
        raise ValueError(
            f"--kind {kind} is not supported: choose {' or '.join(STARTS)}; for other models, use SelfDestructTrainer "
            "in Python."
        )
    start = STARTS[kind]
    data = _section(DataConfig, start["data"], "  ")
    task = _section(TaskConfig, TASK, "    ")
    tasks = f"# Tasks to block: one entry per task.\nblocked_tasks:\n  -\n{task}\n"
    card = '# Text of the card; an empty key appears as "not stated".\ncard:\n'
    head = HEAD.format(file=file, model=start["model"])
    return f"{head}{data}\n{tasks}{TRAINING}{card}{_section(CardDetails, CARD, '  ')}"


def write_starter(file: str | Path, kind: str = "text") -> None:
    """Write :func:`starter` to a new file.

    Raises:
        ValueError: The file exists, or configurations do not support this kind of examples.
    """
    text = starter(kind, str(file))
    try:
        with open(file, "x", encoding="utf-8") as made:
            made.write(text)
    except FileExistsError:
        raise ValueError(f"{file} already exists and is not overwritten; pass another file name.") from None


def _section(kind: Any, given: Mapping[str, Any], indent: str) -> str:
    """Write every key of a section below its documentation; keys not given are commented out with their defaults."""
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
