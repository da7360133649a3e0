"""Trains toy cases with one adversary for all processes; launched by ``test_global_scope.py``, alone or in several."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from launched import hand_in, leave
from toy_models import tiny_model, toy_rows, toy_task

from hf_selfdestruct import Adversary, JudgeCallback, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.attacks import HeadOnly
from hf_selfdestruct.losses.keeping import EmbeddingDistillation

ROWS, STEPS = 8, 10  # desired rows in a micro-batch of all processes together; outer steps
CASES: dict[str, dict[str, Any]] = {
    "exact": {"meta_gradient": "exact", "method_options": {"probe_weight": 1.0}},
    "exact, 4 micro-batches": {"meta_gradient": "exact", "gradient_accumulation_steps": 4},
    "finite differences": {
        "meta_gradient": "exact",
        "method_options": {"hvp": "finite_difference", "trajectory": "recompute"},
    },
    "first order": {"meta_gradient": "first_order", "adversary": {"examples": 17, "batch_size": 7}},
    "first order, 4 micro-batches": {"meta_gradient": "first_order", "gradient_accumulation_steps": 4},
    "in place": {"meta_gradient": "first_order", "method_options": {"episode": "in_place"}},
    "a pool": {"meta_gradient": "first_order", "adversary": {"pool": 3, "horizon": 8}, "inner_steps": 2},
}
LOCAL = "each its own"
JUDGED = "first order"
CASES[LOCAL] = {"meta_gradient": "first_order", "adversary": {"scope": "local"}}
MIXTURE = "a mixture, and rows to keep"
BARE = "a bare trunk, blocked in every other step"  # its pooler has a gradient in every other step only
IN_TURN = "steps that only block, in turn with others"
CASES[IN_TURN] = {
    "method_options": {"blocking_interval": 2, "blocking_learning_rate": 1e-3},
    "meta_gradient": "first_order",
}
CASES[BARE] = {"meta_gradient": "first_order", "method_options": {"blocking_interval": 2}}


def trained(case: str, folder: Path) -> SelfDestructTrainer:
    """A toy case after its training."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    own = CASES.get(case, {})
    args = SelfDestructTrainingArguments(
        str(folder / case),
        **{
            **{
                "method": "mlac",
                "inner_steps": 3,
                "max_steps": STEPS,
                "learning_rate": 1e-3,
            },
            **{"per_device_train_batch_size": ROWS // world, "save_strategy": "no", "logging_steps": 1},
            **{"use_cpu": True, "disable_tqdm": True, "report_to": "none", **own},
            "adversary": {"scope": "global", **own.get("adversary", {})},
        },
    )
    options: dict[str, Any] = {}
    if case == MIXTURE:
        options["adversaries"] = [
            Adversary(steps=2, prelude=1, learns_rate=True, head="learned"),
            Adversary(steps=2, trainable="lora", head="random"),
        ]
        options["keeping_losses"] = [EmbeddingDistillation()]
        options["keep_dataset"] = toy_rows(40, seed=7, columns=())
    model = tiny_model(layers=1).double()
    if case == BARE:
        options["keeping_losses"], model = [EmbeddingDistillation()], model.base_model
    trainer = SelfDestructTrainer(
        model, args, train_dataset=toy_rows(96, seed=4), blocked_tasks=[toy_task()], **options
    )
    if case == JUDGED:
        trainer.add_callback(JudgeCallback(trainer, every=STEPS, attack=HeadOnly(strengths=(0.1,)), examples=20))
    trainer.train()
    return trainer


def state_of(trainer: SelfDestructTrainer) -> dict[str, torch.Tensor]:
    """Weights, and everything that adversaries have learned."""
    learned = {f"learned.{n}": v.detach() for n, v in trainer.objective.state_dict().items()}
    return {**{n: p.detach() for n, p in trainer.plain_model().named_parameters()}, **learned}


def losses_of(trainer: SelfDestructTrainer) -> list[float]:
    """The logged blocking loss of every step."""
    return [line["blocking_loss"] for line in trainer.state.log_history if "blocking_loss" in line]


def judged_of(trainer: SelfDestructTrainer) -> list[float]:
    """The score of every reading of the judge."""
    name = "judge/blocked/head_only"
    return [line[name] for line in trainer.state.log_history if name in line]


def main(folder: Path, *cases: str) -> None:
    """Train some cases and hand in what came of them."""
    for case in cases:
        trainer = trained(case, folder)
        hand_in(folder, case, state_of(trainer), losses=losses_of(trainer), judged=judged_of(trainer))
    leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
