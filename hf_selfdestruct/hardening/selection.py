"""Selective edits of a language model before the first step: which rows they look at, and what they reached."""

from __future__ import annotations

import logging

import numpy as np
import torch
from transformers import PreTrainedModel

from ..erasure.selective_ascent import blocked_loss, divergence, measured_on, mlp_layers, selective_ascent
from ..models.functional import Weights
from ..tasks.blocked_task import draw_rows, seed_of
from .simulator import Simulator

ROWS, BATCH = 256, 16  # blocked rows of each task, and general rows

logger = logging.getLogger(__name__)


def selected(model: PreTrainedModel, simulator: Simulator) -> Weights:
    """The edited weights, by name; none where no edit is asked for."""
    options, seed = simulator.config.options, seed_of("selective", simulator.config.seed)
    if not options.selective_steps:
        return {}
    blocked = []
    for task in simulator.tasks:
        rows = draw_rows(task.adversary_rows(), ROWS, "selective", task.name, seed)
        for part in np.array_split(rows, -(-len(rows) // BATCH)):
            blocked.append(simulator.collate(task.features("train", part.tolist(), simulator.columns)))
    general = simulator.general.batches(ROWS, BATCH, "selective", seed)
    found = selective_ascent(
        model, blocked, general, steps=options.selective_steps, budget=options.selective_budget, seed=seed
    )
    with torch.no_grad():
        before, after = (blocked_loss(model, weights, blocked).item() for weights in ({}, found))
    logger.warning(
        "selective edits raised the blocked loss from %.4g to %.4g nats per token, at a KL of %.3g on general text",
        *(before, after, divergence(model, found, measured_on(general))),
    )
    return found


def check_selection(model: PreTrainedModel, simulator: Simulator) -> None:
    """Refuse selective edits of what is no language model, or without general rows.

    Raises:
        ValueError: The message says what to do.
    """
    if not simulator.config.options.selective_steps:
        return
    for task in simulator.tasks:
        if task.kind.model_class is None:
            raise ValueError(
                f"selective_steps raises the loss of the published head, which blocked task {task.name!r}, a "
                f"{task.kind.name}, does not have: set method_options={{'selective_steps': 0}}."
            )
    if simulator.general.data is None:
        raise ValueError("selective_steps compares on general rows: give keep_dataset=, or a map-style train_dataset.")
    mlp_layers(model)
