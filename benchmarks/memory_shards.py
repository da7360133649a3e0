"""Trainings on sharded weights, in several new processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from transformers import default_data_collator
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_selfdestruct import SelfDestructTrainer
from hf_selfdestruct.meta_gradient.outer_loss import meta_loss


def train_sharded(trainer: SelfDestructTrainer) -> None:
    """Three outer steps on weights that raw ``fully_shard`` has sharded."""
    model: Any = trainer.model
    for layer in (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)):
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    data, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    data = data.remove_columns([*{"blocked"} & {*data.column_names}])
    for number in range(3):
        batch = default_data_collator([data[number * size + i] for i in range(size)])
        desired = model(**batch).loss
        draw = trainer.objective.simulator.draw(number)
        gradient = trainer.objective.simulator.meta_gradient(model, draw)
        meta_loss(desired, dict(model.named_parameters()), gradient, blocking_weight=1.0).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        trainer.objective.simulator.learn(draw, gradient, share=1.0)


def run_in_processes(script: Path, *arguments: str, world: int) -> dict[str, float]:
    """What a script, launched in some new processes with a thread each, writes in its line of JSON."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    done = subprocess.run(
        [sys.executable, *(start if world > 1 else []), str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"')))
