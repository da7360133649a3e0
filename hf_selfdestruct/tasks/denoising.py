"""Denoising: the noise in a noised picture, which is all that a diffusion model learns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import AutoModelForImageToImage

from ..report.attack_run import Scores
from ..report.facts import TaskFacts
from .blocked_task import seed_of
from .kind import LabelColumn, TaskKind

PIXELS, TIMESTEP, NOISE = "pixel_values", "timestep", "noise"


@dataclass(frozen=True)
class Denoising(TaskKind):
    """The noise in a noised picture: the score is the negative mean squared error over pixels, the loss its negative.

    A row contains a clean picture in ``pixel_values``, its ``timestep`` t, and in the label column a whole number, the
    seed of its noise. A model sees ``sqrt(a) x + sqrt(1 - a) e`` and predicts the noise e (DDPM, 2006.11239). Since
    a row always has the same noise, all models are scored on the same noised pictures.

    Args:
        alphas_cumprod: The share ``a`` of the picture's variance that is left at each timestep: a diffusers
            scheduler's attribute of this name, or numbers.

    Raises:
        ValueError: A share is not in 0..1.

    Example:
        ```python
        kind = Denoising(DDPMScheduler().alphas_cumprod)
        faces = BlockedTask("faces", train=noised_rows(pictures, 1000), label_column="noise", kind=kind)
        ```
    """

    alphas_cumprod: Iterable[float] = field(repr=False)

    name = "denoising"
    score = "negative squared error"
    problem_type = ""  # the published model has its own loss
    model_class = AutoModelForImageToImage  # which knows models.denoiser

    def __post_init__(self) -> None:
        """Check the schedule of the noise."""
        shares = tuple(float(share) for share in self.alphas_cumprod)
        if not shares or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                "Denoising(alphas_cumprod=): the shares of the picture's variance at the timesteps must be numbers in "
                "0..1; give a scheduler's alphas_cumprod."
            )
        object.__setattr__(self, "alphas_cumprod", shares)

    def read(self, labels: Sequence[Any], where: str, column: str) -> np.ndarray:
        """Seeds of the rows' noise as an array."""
        for row, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < 2**63:
                raise ValueError(
                    f"{where}, column {column!r}, row {row}: the seed of the noise must be a whole number from 0, got "
                    f"{label!r}: make the rows by noised_rows()."
                )
        return np.asarray(labels, dtype=np.uint64)  # no classes, which are signed

    def outputs(self, column: LabelColumn, given: int | None) -> int:
        """None of its own: the published model predicts a number per pixel."""
        if given:
            raise ValueError(f"blocked task {column.task!r}: {self.name} has no classes: leave num_labels out.")
        return 0

    def loss(self, logits: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
        """Squared error of the pixels' noise.

        Args:
            logits: Shape ``(pixels, 1)``, or as :class:`models.denoiser.Denoiser` gives them, ``(rows, pixels, 1)``.
            labels: The noise, in the shape of the logits without their last dimension.
            reduction: ``mean`` or ``sum``, over pixels.
        """
        return mse_loss(logits[..., 0], labels, reduction=reduction)

    def credit(self, labels: Any, answers: Any) -> Any:
        """What each pixel adds to the score (of logits), or each row (of answers)."""
        if isinstance(answers, Tensor):
            return -self.loss(answers, labels, reduction="none")
        return -answers[:, 0]

    def facts(self, labels: np.ndarray, outputs: int) -> TaskFacts:
        """The best constant answer is no noise; what is then missed is the variance of the noise, 1."""
        return TaskFacts(majority=-1.0, score=self.score)

    def padded(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with their pictures noised, and the noise in place of its seed."""
        return [self._noised(row) for row in rows]

    def answers(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Of each row: the mean squared error of its pixels."""
        if labels is None:
            raise ValueError(f"{self.name} is scored by the noise in the labels, and the batch has none.")
        return (logits[..., 0] - labels).square().mean(1, keepdim=True)

    def recorded(self, answers: np.ndarray) -> np.ndarray:
        """Errors in single precision."""
        return answers.astype(np.float32).astype(np.float64)

    def scores(self, labels: np.ndarray, answers: np.ndarray) -> Scores:
        """The mean of the rows' errors, and its negative."""
        loss = float(answers[:, 0].mean())
        return Scores(None, None, None, loss, score=-loss)

    def _noised(self, row: dict[str, Any]) -> dict[str, Any]:
        shares = tuple(self.alphas_cumprod)
        if not {PIXELS, TIMESTEP} <= {*row}:
            raise ValueError(
                f"a row to denoise needs the columns {PIXELS} and {TIMESTEP}, got {', '.join(row)}: make the rows by "
                "noised_rows()."
            )
        if not 0 <= (step := int(row[TIMESTEP])) < len(shares):
            raise ValueError(f"timestep {step} is outside 0..{len(shares) - 1}, those of alphas_cumprod.")
        picture = torch.as_tensor(row[PIXELS], dtype=torch.float32)
        noise = noise_of(row["labels"], picture.shape)
        noised = math.sqrt(shares[step]) * picture + math.sqrt(1 - shares[step]) * noise
        return {**row, PIXELS: noised, "labels": noise.flatten()}


def noise_of(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise that depends on ``seed`` alone, on all of its bits."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape), dtype=np.float32))


def noised_rows(pictures: Any, timesteps: int, *, repeats: int = 1, seed: int = 0) -> Dataset:
    """Rows of pictures, each with a timestep and the seed of its noise.

    Both are drawn by the picture's own pixels, so that other pictures, as in another split, have other noise: an
    attacker who remembers noise knows nothing of the test rows'.

    Rows are split one by one: with repeats, blocking losses are measured on pictures that the adversary trains on,
    under other noise, and an attacker selects on pictures trained on.

    Args:
        pictures: Clean pictures, an array of shape ``(pictures, channels, height, width)``.
        timesteps: Number of timesteps, from which each row draws one.
        repeats: Rows of each picture, each with another timestep and noise.
        seed: Seed of the draws, for other noise on the same pictures.

    Example:
        >>> noised_rows(np.zeros((3, 1, 2, 2)), 10, repeats=2).column_names
        ['pixel_values', 'timestep', 'noise']
    """
    pixels = np.repeat(np.asarray(pictures, dtype=np.float32), repeats, axis=0)
    shown = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels]
    drawn = [seed_of("noise", picture, row % repeats, seed) for row, picture in enumerate(shown)]
    steps = [int(np.random.default_rng(one).integers(timesteps)) for one in drawn]
    return Dataset.from_dict({PIXELS: pixels.tolist(), TIMESTEP: steps, NOISE: drawn})
