"""Outer steps on weights that ``fully_shard`` has sharded (whole in one process), for ``test_sharded.py``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from launched import hand_in, leave
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from toy_models import tiny_model, toy_rows, toy_task
from transformers import PreTrainedModel, default_data_collator

from hf_selfdestruct import BlockedTask, SelfDestructTrainingArguments
from hf_selfdestruct.hardening.defaults import configured_adversary
from hf_selfdestruct.hardening.draw import Rows
from hf_selfdestruct.hardening.simulator import Simulator
from hf_selfdestruct.losses.base import BlockingLoss
from hf_selfdestruct.losses.blocking import HeadAdjustedCrossEntropy
from hf_selfdestruct.losses.probe import RepresentationProbe
from hf_selfdestruct.meta_gradient.outer_loss import meta_loss
from hf_selfdestruct.models.distributed import Processes

ROWS, STEPS, RESUMED = 8, 6, 3
IN_PLACE: dict[str, Any] = {"meta_gradient": "first_order", "method_options": {"episode": "in_place"}}
CASES: dict[str, dict[str, Any]] = {
    "first order": {"meta_gradient": "first_order", "adversary": {"learns_rate": False}},
    "first order, a learned rate": {"meta_gradient": "first_order"},
    "exact, double backward": {"meta_gradient": "exact"},
    "exact, finite differences": {
        "meta_gradient": "exact",
        "method_options": {"hvp": "finite_difference", "trajectory": "recompute"},
    },
    "a pool": {"meta_gradient": "first_order", "adversary": {"learns_rate": False, "pool": 2, "horizon": 8}},
    "in place, first order": {**IN_PLACE, "adversary": {"learns_rate": False}},
    "in place, a learned rate": IN_PLACE,
    "in place, finite differences": {
        "meta_gradient": "exact",
        "method_options": {"episode": "in_place", "hvp": "finite_difference", "trajectory": "logarithmic"},
    },
    "in place, a pool": {**IN_PLACE, "adversary": {"learns_rate": False, "pool": 2, "horizon": 8}},
    "in place, last layer": {**IN_PLACE, "adversary": {"trainable": "last_1"}},
    "in place, adapters": {**IN_PLACE, "adversary": {"trainable": "lora"}},
    "last layer": {"meta_gradient": "exact", "adversary": {"trainable": "last_1"}},
}


def simulator_of(
    model: PreTrainedModel, task: BlockedTask, losses: Sequence[BlockingLoss], data: Dataset, settings: dict[str, Any]
) -> Simulator:
    """A simulator of one adversary for all processes."""
    usual = {"method": "mlac", "inner_steps": 3, "use_cpu": True, "report_to": "none"}
    adversary = {"scope": "global", **settings.get("adversary", {})}
    args = SelfDestructTrainingArguments("unused", **{**usual, **settings, "adversary": adversary}).filled()
    columns, collate = ("input_ids", "attention_mask"), default_data_collator
    return Simulator(
        model,
        args,
        tasks=[task],
        adversaries=[configured_adversary(args)],
        losses=losses,
        collate=collate,
        columns=columns,
        benign=Rows(data, columns, ("labels",), collate),
        general=Rows(data, columns, (), collate),
        device=args.device,
        processes=Processes(args.process_index, args.world_size),
    )


def shard(model: nn.Module, layers: Iterable[nn.Module], policies: Sequence[MixedPrecisionPolicy | None] = ()) -> None:
    """Shard each layer, and what is in none, over all processes; by default nothing is converted."""
    for module, policy in zip_longest((*layers, model), policies):
        fully_shard(module, mp_policy=policy or MixedPrecisionPolicy())


class Sharded:
    """A toy model in outer steps, its weights whole in one process, sharded in several.

    Args:
        case: Name of one of ``CASES``.
    """

    def __init__(self, case: str) -> None:
        self.model, self.data = tiny_model().double().train(), toy_rows(96, seed=4)
        losses = [HeadAdjustedCrossEntropy(), RepresentationProbe()]
        self.simulator = simulator_of(self.model, toy_task(), losses, self.data, CASES[case])
        ranks = self.simulator.processes
        self.rank, self.world = ranks.rank, ranks.size
        if self.world > 1:
            shard(self.model, self.model.bert.encoder.layer)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.losses: list[float] = []

    def step(self, number: int) -> None:
        """One outer step; before one of them, the adversaries' state is restored as from a checkpoint."""
        if number == RESUMED:
            self.simulator.load_state_dict(self.simulator.state_dict())
        rows = [self.data[(number * ROWS + i) % len(self.data)] for i in range(ROWS)]
        share = ROWS // self.world
        batch = default_data_collator(rows[self.rank * share : (self.rank + 1) * share])
        desired = self.model(**{n: v for n, v in batch.items() if n != "blocked"}).loss
        draw = self.simulator.draw(number)
        gradient = self.simulator.meta_gradient(self.model, draw)
        step = meta_loss(desired, dict(self.model.named_parameters()), gradient, blocking_weight=1.0)
        step.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.simulator.learn(draw, gradient, share=1.0)
        self.simulator.learned["blocked", 0].step()
        self.losses.append(gradient.loss)

    def state(self) -> dict[str, Tensor]:
        """Whole weights, and what the adversary has learned."""
        weights = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in self.model.named_parameters()}
        learned = {n.removeprefix("blocked/0/"): v for n, v in self.simulator.state_dict().items()}
        return {n: v.detach().contiguous().clone() for n, v in {**weights, **learned}.items()}

    def pieces(self) -> list[int]:
        """How many numbers of the model lie in this process."""
        return [p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in self.model.parameters()]


def main(folder: Path) -> None:
    """Train every case and hand in what came of it."""
    for case in CASES:
        run = Sharded(case)
        for number in range(STEPS):
            run.step(number)
        hand_in(folder, case, run.state(), losses=run.losses, here=sum(run.pieces()))
    leave()


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    main(Path(sys.argv[1]))
