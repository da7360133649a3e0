"""What a simulation draws."""

from __future__ import annotations

import torch


def on_whole_tables(trainer) -> None:
    skeletons = [*trainer.objective.simulator._skeletons.values()]
    for skeleton in [trainer.objective.simulator.benign_skeleton, *(s for group in skeletons for s in group.values())]:
        undo(skeleton, trainer.model)


def undo(skeleton, model) -> None:
    """Put the whole table back."""
    whole = torch.nn.Embedding(60, 16, padding_idx=skeleton.padding, device="meta")
    skeleton.module.set_input_embeddings(whole)
    skeleton.embedding = skeleton._index = None
