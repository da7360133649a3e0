"""Pairs of real handwritten digits, side by side: 1,797 of scikit-learn's, 8 x 8 pixels each.

Which digit is on the left is the desired task. Whether both are the same digit is blocked: pixels alone do not say it
to a linear classifier, and a network that knows digits has a head start. Every part has digits of its own.
"""

import functools

import numpy as np
import torch
from networks import Setting
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


def rows(count: int, seed: int, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs ``(count, 128)``, left digits, and 1 where both are the same digit, as in half of the rows."""
    pixels, classes = part_of(part)
    sizes = torch.bincount(classes, minlength=CLASSES)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(0, len(classes), (count,), generator=generator)
    same = torch.randint(0, 2, (count,), generator=generator)
    away = torch.randint(1, CLASSES, (count,), generator=generator)
    wanted = torch.where(same == 1, classes[left], (classes[left] + away) % CLASSES)
    place = (torch.rand(count, generator=generator) * sizes[wanted]).long()
    right = sizes.cumsum(0)[wanted] - sizes[wanted] + place
    return torch.cat([pixels[left], pixels[right]], dim=1), classes[left], same


DIGITS = Setting("digits", 128, CLASSES, rows)
