"""A U-Net of a few thousand weights, toy pictures, and a blocked task of them; needs diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

from hf_selfdestruct.tasks.blocked_task import BlockedTask
from hf_selfdestruct.tasks.denoising import Denoising, noised_rows

TIMESTEPS = 20
SCHEDULER = DDPMScheduler(TIMESTEPS, beta_schedule="squaredcos_cap_v2")
KIND = Denoising(SCHEDULER.alphas_cumprod)


def toy_unet(seed: int = 0) -> UNet2DModel:
    """A U-Net for pictures of 4 x 4 pixels with random weights, with attention."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            block_out_channels=(4, 8),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=2,
            attention_head_dim=4,
        ).eval()


def toy_pictures(count: int, seed: int) -> np.ndarray:
    """Pictures whose left half is dark, from -1 to 1."""
    pixels = np.random.default_rng(seed).uniform(0, 1, (count, 1, 4, 4))
    pixels[..., :2] -= 1
    return pixels.astype(np.float32)


def denoising_task(**fields: Any) -> BlockedTask:
    """A blocked task on toy pictures."""
    splits = {n: noised_rows(toy_pictures(24, i), TIMESTEPS) for i, n in enumerate(("train", "attack", "test"))}
    return BlockedTask(**{"name": "dark", **splits, "label_column": "noise", "kind": KIND, **fields})
