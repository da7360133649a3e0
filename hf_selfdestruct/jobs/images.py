"""Labelled images: read from folders, made into pixels on the way, and looked at once before anything is trained."""

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
UNREADABLE = (AttributeError, OSError, SyntaxError, TypeError, ValueError)  # a missing one, and what decoders raise


@dataclass(frozen=True)
class Pixels:
    """A transform: images become pixels when rows are read, for stored they would fill memory and disk.

    Args:
        processor: The model's.
        column: The images.
    """

    processor: BaseImageProcessor
    column: str

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, Any]:
        """Rows with ``pixel_values`` in the place of images."""
        if self.column not in rows:
            return rows
        found: dict[str, Any] = {name: values for name, values in rows.items() if name != self.column}
        images = [image.convert("RGB") for image in rows[self.column]]
        return {**found, PIXELS: [*self.processor(images, return_tensors="pt")[PIXELS]]}


def image_batch(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of rows that :class:`Pixels` made: what an image classifier reads, and the labels if there are any."""
    batch = {PIXELS: torch.stack([row[PIXELS] for row in rows])}
    label = label_column_of([*rows[0]])
    return batch if label is None else {**batch, "labels": torch.tensor([row[label] for row in rows])}


def read_image_folder(folder: Path) -> Dataset:
    """The images of one split: a folder for each class, or images beside a metadata file with columns of labels.

    Raises:
        ValueError: There are none, or the metadata cannot be read.
    """
    flat = not any(path.is_dir() for path in folder.iterdir())
    pattern = str(Path(glob.escape(str(folder)), "**"))
    rows = load_dataset("imagefolder", data_files=pattern, split="train", drop_labels=flat)
    label = rows.features.get("label")
    if not isinstance(label, ClassLabel):
        return rows
    # As names: a split may lack a class, and would number the others otherwise.
    features = rows.features.copy()
    features["label"] = Value("string")
    return rows.map(
        lambda cells: {"label": [label.names[number] for number in cells["label"]]}, batched=True, features=features
    )


def check_image_column(rows: Dataset, column: str, where: str) -> None:
    """Refuse a column that holds no images.

    Raises:
        ValueError: It holds something else; the message says what, and what to do.
    """
    if not isinstance(feature := rows.features[column], Image):
        raise ValueError(
            f"{where}: column {column!r} holds {getattr(feature, 'dtype', type(feature).__name__)} and no images: cast "
            f"it by datasets, rows.cast_column({column!r}, Image()), and save that as parquet, or give a folder of "
            "images."
        )


def with_pixels(found: DatasetDict, processor: BaseImageProcessor, column: str, where: str) -> DatasetDict:
    """The rows with their images as pixels, each of which is made once: a broken one is found before training.

    Args:
        found: All splits.
        processor: The model's.
        column: The images.
        where: Their data set, for messages.

    Raises:
        ValueError: An image cannot be read, or the processor makes pixels of several shapes.
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
                    f"{place}: the image is missing or cannot be read ({reason(error)}); mend it, or leave the row out."
                ) from None
            first = first or shape
            if shape != first:
                raise ValueError(
                    f"{place}: its pixels have the shape {shape}, and those of the first image {first}: give images of "
                    "one size, or a model whose preprocessor_config.json resizes them (do_resize)."
                )
    return made
