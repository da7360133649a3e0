"""What adversaries that continue add on real weights: ImageNet's, CIFAR-10's vehicles desired, its animals blocked.

    python benchmarks/pictures.py CIFAR10 [VARIANT ...]

CIFAR10 is a folder with ``train.parquet`` and ``test.parquet`` (columns ``image``, ``class_name``). Each line of
``pictures.jsonl`` is a model and its seed; what is there is not run again. The table is ``pictures.md``.
"""

import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pool
import torch
from datasets import Dataset
from efficientnet_lite import WIDTH, LiteModel, pretrained, random
from ledger import Line, fill
from pictures_report import table
from PIL import Image
from torch import Tensor, nn

from hf_selfdestruct import HardeningConfig, HardeningObjective

VEHICLES = ("airplane", "automobile", "ship", "truck")
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
SIDE, MEAN, DEVIATION = 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTER_STEPS, BATCH, LEARNING_RATE = 500, 32, 1e-3
HARDENING, ATTACK = 2400, 400  # rows of animals to harden with; then as many for an attacker, and to choose on
EXAMPLES = (100, 400)
LOOKS = range(40, 241, 40)  # steps of an attack
SEARCHED = ((3e-4, True), (1e-3, True), (3e-3, True), (1e-3, False))  # rate; whether a batch normalises itself
RESET: dict[str, Any] = {
    "learning_rate": {"low": 3e-4, "high": 3e-3},
    "batch_size": BATCH,
    "head_learning_rate": 1e-2,
}
Start = Callable[[int, int], LiteModel]


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        start: Makes the model from a number of labels and a seed.
        adversary: What it is hardened against; ``{}``: the desired task alone is trained; ``None``: nothing is.
    """

    start: Start
    adversary: dict[str, Any] | None = None


VARIANTS = {  # the most important first
    "base": Variant(pretrained),
    "scratch": Variant(random),
    "undefended": Variant(pretrained, {}),
    "pool of 1": Variant(pretrained, {**RESET, "pool": 1, "horizon": 200}),
    "reset, K = 4": Variant(pretrained, RESET),
    "relearned from random weights": Variant(random, {}),
    "reset, K = 0": Variant(pretrained, {**RESET, "steps": 0}),
}
Rows = tuple[Tensor, Tensor]


def main(folder: str, only: Sequence[str]) -> None:
    """Run what is not in the ledger yet, of some variants or of all, and write the table after each line."""
    torch.set_num_threads(1)
    desired, blocked = (rows(Path(folder), names) for names in (VEHICLES, ANIMALS))

    def line(name: str, seed: int) -> Line:
        return {"variant": name, "seed": seed, **measured(VARIANTS[name], seed, desired, blocked)}

    fill("pictures", [(name, seed) for seed in range(3) for name in only or VARIANTS], line, table)


def rows(folder: Path, names: tuple[str, ...]) -> tuple[Rows, Rows]:
    """Pixels ``(rows, 3, 64, 64)`` and classes of the pictures of some classes, of the files for training and test."""
    found = []
    for split in ("train", "test"):
        data = pd.read_parquet(folder / f"{split}.parquet")
        data = data[data["class_name"].isin(names)].sample(frac=1, random_state=0)
        pictures = [Image.open(io.BytesIO(one["bytes"])).convert("RGB") for one in data["image"]]
        pixels = torch.tensor(np.stack([np.asarray(one.resize((SIDE, SIDE), Image.BICUBIC)) for one in pictures]))
        scaled = (pixels / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
        labels = torch.tensor([names.index(one) for one in data["class_name"]])
        found.append((scaled.permute(0, 3, 1, 2), labels))  # channels last, in memory
    return found[0], found[1]


def measured(variant: Variant, seed: int, desired: tuple[Rows, Rows], blocked: tuple[Rows, Rows]) -> dict[str, Any]:
    """CPU seconds of hardening, desired accuracy, and what attacks reach, by number of examples."""
    start = time.process_time()
    model = hardened(variant, seed, desired[0], blocked[0])
    seconds = round(time.process_time() - start, 1)
    kept = accuracy(model, desired[1]) if variant.adversary is not None else None
    found = {str(n): attacked(model, seed, n, blocked) for n in EXAMPLES}
    return {"seconds": seconds, "desired": kept, "blocked": found}


def hardened(variant: Variant, seed: int, desired: Rows, blocked: Rows) -> LiteModel:
    """The model that a variant names, trained on vehicles while animals are blocked, if it says so.

    From ImageNet's weights, batches are normalised as ImageNet was; from random ones, by themselves.
    """
    model = variant.start(len(VEHICLES), seed)
    if variant.adversary is None:
        return model.eval()
    model.train(variant.start is random)
    pixels, labels = (one[:HARDENING] for one in blocked)
    data = Dataset.from_dict({model.main_input_name: list(range(len(labels))), "label": labels.tolist()})
    config = HardeningConfig(
        method="mlac_fast",  # first order, K = 4, the blocking loss is measured at both ends
        blocking_loss="uniform_kl",
        blocking_batch_size=BATCH,
        blocking_weight=1.0 if variant.adversary else 0.0,
        adversary=variant.adversary or RESET,
        method_options={"max_blocking_grad_norm": 2.0, "blocking_every": 4, "step_weights": "uniform"},
        seed=seed,
    )
    task = pool.InMemory("animals", train=data, name_of_inputs=model.main_input_name, inputs=pixels)
    objective = HardeningObjective(model, config, [task], collate=collate, batch_size=BATCH)
    objective.prepare(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    order = torch.Generator().manual_seed(seed)
    for step in range(OUTER_STEPS):
        few = torch.randperm(len(desired[1]), generator=order)[:BATCH]
        batch = {model.main_input_name: desired[0][few], "labels": desired[1][few]}
        pool.outer_step(objective, model, batch, optimizer, step)
    return model.eval()


def collate(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of rows, channels last in memory: these networks are faster so."""
    return {
        name: one.contiguous(memory_format=torch.channels_last) if one.ndim == 4 else one
        for name, one in pool.collate(features).items()
    }


def attacked(model: LiteModel, seed: int, examples: int, blocked: tuple[Rows, Rows]) -> float:
    """Test accuracy of fine-tuning all weights to animals; selection rows choose rate, normalisation and step."""
    theirs = [one[HARDENING : HARDENING + examples] for one in blocked[0]]
    selection = [one[HARDENING + ATTACK : HARDENING + 2 * ATTACK] for one in blocked[0]]
    best, chosen = -1.0, model
    for rate, by_batch in SEARCHED:
        torch.manual_seed(seed)
        tried = LiteModel(type(model.config)(num_labels=len(ANIMALS)))
        tried.trunk.load_state_dict(model.trunk.state_dict())
        tried.classifier = nn.Linear(WIDTH, len(ANIMALS))
        tried.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(tried.parameters(), lr=rate, weight_decay=0.0)
        for step in range(1, max(LOOKS) + 1):
            tried.train(by_batch)
            few = torch.randperm(examples)[:BATCH]
            optimizer.zero_grad()
            tried(theirs[0][few], theirs[1][few]).loss.backward()
            optimizer.step()
            if step in LOOKS and (found := accuracy(tried, (selection[0], selection[1]))) > best:
                best, chosen = found, LiteModel(tried.config)
                chosen.load_state_dict(tried.state_dict())
    return accuracy(chosen, blocked[1])


def accuracy(model: LiteModel, rows: Rows) -> float:
    """The share of rows that a model labels right."""
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(few).logits.argmax(1) for few in rows[0].split(100)])
    return round((found == rows[1]).float().mean().item(), 4)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
