"""What a trainer holds, in comparable form."""

from __future__ import annotations

import torch

MODES = ("exact", "unrolled", "first_order")


def weights_of(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def learned_of(trainer) -> dict[str, torch.Tensor]:
    return {
        f"{key}/{n}": value.detach().clone()
        for key, adversary in trainer.objective.simulator.learned.items()
        for n, value in adversary.state_dict().items()
    }


def still(before, after) -> set[str]:
    return {n for n, value in before.items() if torch.equal(value, after[n])}


def assert_bitwise(one, other) -> None:
    assert set(one) == set(other)
    assert not [n for n in one if not torch.equal(one[n], other[n])]


def moments_of(trainer) -> dict[str, torch.Tensor]:
    state = trainer.optimizer.state_dict()["state"]
    found = {f"{i}/{key}": value for i, moments in state.items() for key, value in moments.items()}
    assert len(found) >= 2 * len(list(trainer.model.parameters()))
    return found


def bones_of(trainer):
    """The weightless models that stand for the first adversary's."""
    return [skeleton.module for skeleton in next(iter(trainer.objective.simulator._skeletons.values())).values()]
