"""Pairs of real handwritten digits, side by side: 1,797 of scikit-learn's, 8 x 8 pixels each.

Which digit is on the left is the desired task. Whether both are the same digit is blocked: pixels alone do not say it
to a linear classifier, and a network that knows digits has a head start. Every part has digits of its own.
"""

import functools
from dataclasses import replace

import networks
import numpy as np
import torch
import vision_transformer
from setting import RATES, Setting
from sklearn.datasets import load_digits
from torch import Tensor

DIGITS_OF = {"train": slice(900), "attack": slice(900, 1200), "selection": slice(1200, 1350), "test": slice(1350, None)}
CLASSES = 10


@functools.cache
def part_of(name: str) -> tuple[Tensor, Tensor]:
    """Pixels ``(digits, 64)`` from -1 to 1 and classes of a part's digits, sorted by class."""
    images, classes = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(classes))[DIGITS_OF[name]]
    chosen = chosen[np.argsort(classes[chosen], kind="stable")]
    return torch.tensor(images[chosen] / 8 - 1, dtype=torch.float32), torch.tensor(classes[chosen])


def drawn(count: int, seed: int, part: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs ``(count, 128)``, left digits, right digits, and 1 where both are the same, as in half of the rows."""
    pixels, classes = part_of(part)
    sizes = torch.bincount(classes, minlength=CLASSES)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(0, len(classes), (count,), generator=generator)
    same = torch.randint(0, 2, (count,), generator=generator)
    away = torch.randint(1, CLASSES, (count,), generator=generator)
    wanted = torch.where(same == 1, classes[left], (classes[left] + away) % CLASSES)
    place = (torch.rand(count, generator=generator) * sizes[wanted]).long()
    right = sizes.cumsum(0)[wanted] - sizes[wanted] + place
    return torch.cat([pixels[left], pixels[right]], dim=1), classes[left], wanted, same


def rows(count: int, seed: int, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs ``(count, 128)``, left digits, and whether both are the same digit."""
    inputs, left, _, same = drawn(count, seed, part)
    return inputs, left, same


def right_rows(count: int, seed: int, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, left digits, right digits."""
    inputs, left, right, _ = drawn(count, seed, part)
    return inputs, left, right


def even_rows(count: int, seed: int, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, left digits, and whether they are even."""
    inputs, left, _, _ = drawn(count, seed, part)
    return inputs, left, 1 - left % 2


def larger_rows(count: int, seed: int, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of pairs of different digits, inputs, left digits, and whether the left one is larger."""
    inputs, left, right, same = drawn(3 * count, seed, part)
    found = (same == 0).nonzero().flatten()[:count]
    return inputs[found], left[found], (left > right)[found].long()


def images(count: int, seed: int, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Those of ``rows``, as images ``(count, 1, 8, 16)``."""
    pixels, left, same = rows(count, seed, part)
    return pixels.view(-1, 2, 8, 8).transpose(1, 2).reshape(-1, 1, 8, 16), left, same


DIGITS = Setting("digits", 128, CLASSES, rows, networks, networks.WIDTH)
HARMLESS = {  # tasks that nobody blocks: of the left digit, of the right one, of both
    "left digit is even": replace(DIGITS, rows=even_rows),
    "right digit": replace(DIGITS, rows=right_rows, blocked_classes=CLASSES),
    "left digit is larger": replace(DIGITS, rows=larger_rows),
}
TRANSFORMER = Setting(
    "transformer",
    128,
    CLASSES,
    images,
    vision_transformer,
    vision_transformer.WIDTH,
    base_steps=2000,
    learning_rate=3e-4,
    rates=((1e-4, 0.0), *RATES),
)
