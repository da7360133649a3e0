"""The vision demo's base: a small vision transformer that knows both tasks of the pairs of digits."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from .pairs import DIGITS, MATCHES, Pairs

HEIGHT, WIDTH = 8, 16
STEPS, BATCH, RATE = 800, 64, 2e-3

logger = logging.getLogger(__name__)


def write_base(folder: Path, known: Pairs) -> Path:
    """Train a base on both tasks, under a head each, and write it with its image processor.

    Args:
        folder: Where to write it; what is there already stays.
        known: The pairs that it is trained on.

    Returns:
        The folder.
    """
    if (folder / "config.json").is_file():
        return folder
    logger.warning("training a base that knows both tasks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _trained(known)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    ViTImageProcessor(do_resize=False, size={"height": HEIGHT, "width": WIDTH}).save_pretrained(unfinished)
    model.save_pretrained(unfinished)
    return unfinished.rename(folder)


def tensors(known: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels as the image processor makes them, ``(pairs, 3, 8, 16)``, left digits and matches.

    Args:
        known: Pairs.
    """
    pixels = torch.tensor(known.pixels, dtype=torch.float32) / 127.5 - 1
    return pixels[:, None].expand(-1, 3, -1, -1), torch.tensor(known.digits), torch.tensor(known.matches)


def _trained(known: Pairs) -> ViTForImageClassification:
    model = ViTForImageClassification(_config())
    second = nn.Linear(model.config.hidden_size, len(MATCHES))
    pixels, digits, matches = tensors(known)
    optimizer = torch.optim.AdamW([*model.parameters(), *second.parameters()], lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(digits), (BATCH,))
        token = model.vit(pixels[rows]).last_hidden_state[:, 0]
        loss = nn.functional.cross_entropy(model.classifier(token), digits[rows])
        loss = loss + nn.functional.cross_entropy(second(token), matches[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _config() -> ViTConfig:
    return ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=(HEIGHT, WIDTH),
        patch_size=4,
        id2label=dict(enumerate(DIGITS)),
        label2id={name: number for number, name in enumerate(DIGITS)},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
