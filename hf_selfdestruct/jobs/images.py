"""Labelled images: read from folders, checked before training, and converted to pixels when rows are read."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value, load_dataset
from torch import Tensor
from transformers import BaseImageProcessor

from ..files import reason
from ..tasks.blocked_task import label_column_of

PIXELS = "pixel_values"
UNREADABLE = (
    AttributeError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
)  # a missing image, and errors of the decoders


@dataclass(frozen=True)
class Pixels:
    """A transform that converts images to pixels when rows are read; stored pixels would fill memory and disk.

    Args:
        processor: The model's image processor.
        column: Column with the images.
    """

    processor: BaseImageProcessor
    column: str

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, Any]:
        """Replace images by ``pixel_values``."""
        if self.column not in rows:
            return rows
        found: dict[str, Any] = {name: values for name, values in rows.items() if name != self.column}
        images = [image.convert("RGB") for image in rows[self.column]]
        return {**found, PIXELS: [*self.processor(images, return_tensors="pt")[PIXELS]]}


def image_batch(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate rows of :class:`Pixels` into a batch of an image classifier, with labels if there are any.

    Channels are last in memory, by which convolutions take about half the time on a CPU.
    """
    pixels = torch.stack([row[PIXELS] for row in rows])
    batch = {PIXELS: pixels.contiguous(memory_format=torch.channels_last)}
    label = label_column_of([*rows[0]])
    return batch if label is None else {**batch, "labels": torch.tensor([row[label] for row in rows])}


def read_image_folder(folder: Path) -> Dataset:
    """Read the images of one split: one folder per class, or images beside a metadata file with label columns.

    Raises:
        ValueError: There are no images, or the metadata cannot be read.
    """
    flat = not any(path.is_dir() for path in folder.iterdir())
    pattern = str(Path(glob.escape(str(folder)), "**"))
    rows = load_dataset("imagefolder", data_files=pattern, split="train", drop_labels=flat)
    label = rows.features.get("label")
    if not isinstance(label, ClassLabel):
        return rows
    # Use class names: a split that lacks a class would number the others differently.
    features = rows.features.copy()
    features["label"] = Value("string")
    return rows.map(
        lambda cells: {"label": [label.names[number] for number in cells["label"]]}, batched=True, features=features
    )


def check_image_column(rows: Dataset, column: str, where: str) -> None:
    """Check that a column contains images.

    Raises:
        ValueError: The column has another type; the message names it and the remedy.
    """
    if not isinstance(feature := rows.features[column], Image):
        raise ValueError(
            f"{where}: column {column!r} contains {getattr(feature, 'dtype', type(feature).__name__)}, not images: "
            f"convert it with datasets, rows.cast_column({column!r}, Image()), and save it as parquet, or use a folder "
            "of images."
        )


def with_pixels(found: DatasetDict, processor: BaseImageProcessor, column: str, where: str) -> DatasetDict:
    """Convert images to pixels on reading; each is converted once here, to find broken images before training.

    Args:
        found: All splits.
        processor: The model's image processor.
        column: Column with the images.
        where: Name of the data set, for messages.

    Raises:
        ValueError: An image cannot be read, or the pixels have several shapes.
    """
    made = found.with_transform(Pixels(processor, column))
    first = None
    for split, rows in made.items():
        for number in range(len(rows)):
            place = f"{where}, split {split!r}, column {column!r}, row {number}"
            try:
                shape = tuple(rows[number][PIXELS].shape)
            except UNREADABLE as error:
                raise ValueError(
                    f"{place}: the image is missing or unreadable ({reason(error)}); repair it, or remove the row."
                ) from None
            first = first or shape
            if shape != first:
                raise ValueError(
                    f"{place}: the pixels have shape {shape}, those of the first image {first}: use images of one "
                    "size, or a model whose preprocessor_config.json resizes them (do_resize)."
                )
    return made
