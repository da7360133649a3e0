"""A whole toy job on images: PNG files, a tiny classifier of images with its processor, and a YAML file.

Every image has a brighter half, the left or the right one (*blocked*), and is red or blue (*desired*), independently.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from toy_project import CONFIG

SPLITS = {"train": 60, "validation": 60, "test": 30}
SIZE = 20


def picture(row: int, seed: int) -> tuple[Image.Image, dict[str, str]]:
    """One image, and what is to be seen on it."""
    generator = np.random.default_rng((seed, row))
    pixels = generator.integers(0, 80, (SIZE, SIZE, 3))
    blue, right = generator.integers(0, 2, 2)
    pixels[..., 2 * blue] += 60
    pixels[:, SIZE // 2 :][:, : SIZE // 2 * right] += 90
    pixels[:, : SIZE // 2 * (1 - right)] += 90
    return Image.fromarray(pixels.astype(np.uint8)), {"colour": ["red", "blue"][blue], "side": ["left", "right"][right]}


def make_gallery(folder: Path, *, by: str = "") -> Path:
    """Images of every split, beside a ``metadata.csv`` with both labels, or in folders named as one label."""
    for seed, (split, count) in enumerate(SPLITS.items()):
        rows = []
        for row in range(count):
            image, labels = picture(row, seed)
            name = f"{labels[by]}/{row}.png" if by else f"{row}.png"
            (folder / split / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / split / name)
            rows.append({"file_name": name, **labels})
        if not by:
            with (folder / split / "metadata.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, [*rows[0]])
                writer.writeheader()
                writer.writerows(rows)
    return folder


def make_processor() -> Any:
    """What makes pixels of images."""
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": 16, "width": 16})


def make_image_project(folder: Path, *, architecture: str = "vit", seed: int = 0) -> Path:
    """Images, model, processor and configuration; returns the configuration."""
    from toy_models import tiny_model

    make_gallery(folder / "data")
    tiny_model(architecture, seed=seed).save_pretrained(folder / "model")
    make_processor().save_pretrained(folder / "model")
    text = CONFIG.format(folder=folder).replace("origin", "side").replace("job", "colour")
    text = text.replace("text_column: text", "image_column: image").replace("  max_length: 16\n", "")
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path
