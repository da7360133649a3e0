"""The run that a folder contains: it goes on only if it was asked for in the same way."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..files import write_whole
from ..hardening.adversary_settings import AdversarySettings
from ..hardening.config import NESTED, HardeningConfig
from ..hardening.method_options import MethodOptions
from ..trainer.sibling import DECISIVE
from ..trainer.training_args import SelfDestructTrainingArguments
from .config import HardenConfig
from .sections import DataConfig, TaskConfig


def check_the_same(config: HardenConfig, args: SelfDestructTrainingArguments, *, goes_on: bool) -> None:
    """Refuse to resume a run of another configuration: the report would name the wrong one."""
    args = args.filled()
    folder = Path(args.output_dir or ".")
    file = folder / "_config.json"
    ours = {**inspect.get_annotations(HardeningConfig), **inspect.get_annotations(SelfDestructTrainingArguments)}
    training = {f"training.{name}": getattr(args, name) for name in (*DECISIVE, *ours) if name not in NESTED}
    parts = {"adversary": asdict(args.adversary_settings), "method_options": asdict(args.options)}
    training["training.inner_steps"] = parts["adversary"].pop("steps")
    training |= {f"training.{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    data = {f"data.{name}": value for name, value in asdict(config.data).items()}
    tasks = {"blocked_tasks": [_deciding(task) for task in config.blocked_tasks]}
    own = {"model": config.model, "adapter": config.adapter}
    asked = json.loads(json.dumps({**own, **data, **tasks, **training}, default=str))
    if not goes_on:
        if PartialState().is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(asked, indent=1))
        return
    known = _defaults() | json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if differing := [name for name in asked if name not in known or known[name] != asked[name]]:
        name = differing[0]
        raise ValueError(
            f"{folder} contains a run with {name}={known.get(name, 'not stated')!r}, but the configuration has "
            f"{asked[name]!r}: pass another --output_dir, or remove the folder to start over."
        )


def _deciding(task: TaskConfig) -> dict[str, Any]:
    """What decides a task's rows, later keys only where they are set: runs of earlier versions have none."""
    later = ("development", "document_column", "prompt_column")
    return {name: value for name, value in asdict(task).items() if name != "readings" and (value or name not in later)}


def _defaults() -> dict[str, Any]:
    """Options as they are where nobody sets them: what runs of earlier versions had of those that came later."""
    data, adversary, options = asdict(DataConfig("")), asdict(AdversarySettings()), asdict(MethodOptions())
    parts = {"data": data, "training.adversary": adversary, "training.method_options": options}
    return {"adapter": {}} | {
        f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()
    }
