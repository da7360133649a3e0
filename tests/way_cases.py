"""Adversaries that go two ways, of which a pool draws one for each life: a gradient for whatever each reads."""

from __future__ import annotations

from typing import Any

from toy_models import tiny_model

from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.models.stateless import OWN


def draws_of_both_ways(
    make_trainer: Any, folder: Any, *, field: str, heads: dict[str, str], task: Any, losses: Any, batch_size: int,
    steps: int, mode: str, episode: str,
) -> list[tuple[str, Any]]:  # fmt: skip
    """Way and head of each of some draws; a weight without a gradient is one that the second way does not read.

    Args:
        make_trainer: The fixture.
        folder: For the trainer.
        field: The adversary's field that says the way.
        heads: By way, the usual one first, the name of its head's weight.
        task: The blocked task.
        losses: Blocking losses.
        batch_size: Of the adversary.
        steps: Number of draws.
        mode: Of the meta-gradient.
        episode: Where inner steps run.
    """
    usual, other = heads
    few = {"learning_rate": 1e-2, "steps": 2, "batch_size": batch_size, "head": "random"}
    trainer = make_trainer(
        folder,
        model=tiny_model().double(),
        meta_gradient=mode,
        method_options={"episode": episode},
        blocked_tasks=[task],
        adversary={"pool": 4, "horizon": 50},
        adversaries=[Adversary(**few, **{field: (usual, other)})],
        blocking_losses=losses,
    )
    simulator, seen = trainer.objective.simulator, []
    for step in range(steps):
        draw = simulator.draw(step)
        found, way = simulator.meta_gradient(trainer.model, draw), getattr(draw.fine_tuning, field)
        seen.append((way, draw.member.own[OWN + heads[way]]))
        for name, gradient in found.weights.items():
            unread = name.startswith(("classifier", "bert.pooler")) and way == other
            constant = "key.bias" in name  # adds the same to all scores
            assert unread or constant or gradient.any(), name
    assert {way for way, _ in seen} == {*heads}
    return seen
