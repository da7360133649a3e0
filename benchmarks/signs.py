"""Parities of hidden signs: tasks about which no linear probe says anything, so that only fine-tuning recovers them.

20 hidden signs are mixed linearly into 32 numbers with a little noise. The desired task is the product of two of the
signs, the blocked task the product of three others.
"""

import math

import networks
import torch
from setting import Setting
from torch import Tensor

HIDDEN, INPUTS, NOISE = 20, 32, 0.1
DESIRED, BLOCKED = (0, 1), (2, 3, 4)


def rows(count: int, seed: int, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs ``(count, 32)``, desired labels and blocked labels; as many parts as seeds."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randint(0, 2, (count, HIDDEN), generator=generator) * 2.0 - 1
    mixing = torch.randn(HIDDEN, INPUTS, generator=torch.Generator().manual_seed(7)) / math.sqrt(HIDDEN)
    inputs = hidden @ mixing + NOISE * torch.randn(count, INPUTS, generator=generator)
    desired, blocked = ((hidden[:, list(signs)].prod(1) > 0).long() for signs in (DESIRED, BLOCKED))
    return inputs, desired, blocked


SIGNS = Setting("signs", INPUTS, 2, rows, networks, networks.WIDTH)
