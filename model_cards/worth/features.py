"""Frozen features of rows, encoded once per text and model and kept on disk, as the attacks' own code encodes them."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hf_selfdestruct.attacks import AttackData, Split, Target
from hf_selfdestruct.attacks.methods.features import Cell, Features, cells_of
from hf_selfdestruct.attacks.methods.pair_probe import differences
from hf_selfdestruct.tasks.classification import CLASSIFICATION

LAYERS = 6
# What is kept of each row, and what of it the attacks on frozen features read.
CELLS: tuple[Cell, ...] = (
    *((layer, pooling) for layer in range(LAYERS + 1) for pooling in ("mean", "max", "first")),
    *((layer, pooling) for layer in (0, LAYERS) for pooling in ("min", "deviation")),
)
READ: tuple[Cell, ...] = ((0, "mean"), (3, "mean"), (5, "mean"), (6, "mean"), (6, "first"), (6, "max"))
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A model, its tokenizer, and a folder of features that are already known.

    Attributes:
        target: The model.
        seed: Of a random model's weights.
        tokenizer: Its tokenizer.
        folder: Where features are kept.
    """

    target: Target
    seed: int
    tokenizer: PreTrainedTokenizerBase
    folder: Path

    def encode(self, rows: Sequence[dict[str, list[int]]]) -> np.ndarray:
        """Features of tokenised rows, shape ``(rows, cells, width)``."""
        files = [self._file(row) for row in rows]
        missing = {file: row for file, row in zip(files, rows, strict=True) if not file.is_file()}
        if missing:
            self._fill(missing)
        return np.stack([np.load(file) for file in files]).astype(np.float32)

    def _file(self, row: dict[str, list[int]]) -> Path:
        name = hashlib.sha256(repr(row["input_ids"]).encode()).hexdigest()[:24]
        return self.folder / f"{self.target.role}-{self.seed}" / name[:2] / f"{name}.npy"

    def _fill(self, missing: dict[Path, dict[str, list[int]]]) -> None:
        model = self.target.load(2, self.seed).eval()
        order = sorted(missing, key=lambda file: len(missing[file]["input_ids"]))
        for start in range(0, len(order), BATCH):
            files = order[start : start + BATCH]
            batch = self.tokenizer.pad([missing[file] for file in files], return_tensors="pt")
            with torch.no_grad():
                cells = cells_of(model, None, False, dict(batch))
            values = torch.stack([cells[cell] for cell in CELLS], dim=1).numpy().astype(np.float16)
            for file, value in zip(files, values, strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, value)


def prepared(data: AttackData, target: Target, seeds: Sequence[int], found: dict[str, np.ndarray]) -> AttackData:
    """The attacker's data with features already in its memory, where :func:`features_of` looks for them.

    Args:
        data: What the attacker has.
        target: The model that the features are of.
        seeds: Seeds of attacks: of a random model one set of weights serves them all.
        found: By split, features of shape ``(rows, cells, width)``.
    """
    cells = {split: {cell: values[:, CELLS.index(cell)] for cell in READ} for split, values in found.items()}
    return with_cells(data, target, seeds, cells)


def with_cells(
    data: AttackData, target: Target, seeds: Sequence[int], cells: dict[str, dict[Cell, np.ndarray]]
) -> AttackData:
    """As :func:`prepared`, with the cells themselves."""
    weights = (target.folder, target.random, target.identity().sha256)
    made = Features(cells, LAYERS, 0.0)
    keys = [("features", *weights, seed if target.random else 0, "") for seed in seeds]
    return dataclasses.replace(data, memory=dict.fromkeys(keys, made))


def attack_data(name: str, splits: dict[str, Split], classes: int) -> AttackData:
    """What attackers have of a task; a probe of known features collates nothing."""
    return AttackData(name, classes, splits["train"], splits["selection"], splits["test"], dict, kind=CLASSIFICATION)


def pair_cells(first: np.ndarray, second: np.ndarray) -> dict[Cell, np.ndarray]:
    """How two texts, encoded apart, differ: by layer ``|a - b|`` and ``a * b`` of averaged tokens, or the cosine.

    The average is normalised first, as sentence encoders are used; the cosine alone stands under ``first``.
    """
    cells: dict[Cell, np.ndarray] = {}
    for layer in (4, LAYERS):
        i = CELLS.index((layer, "mean"))
        cells[layer, "mean"] = found = differences(*(torch.from_numpy(side[:, i]) for side in (first, second))).numpy()
        cosine = found[:, -1:]
        cells[layer, "first"] = np.concatenate([cosine, cosine**2], axis=1)
    return cells
