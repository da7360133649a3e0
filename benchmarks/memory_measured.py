"""Peaks of resident memory in trainings of all-MiniLM-L6-v2 by one process and by several.

    python benchmarks/memory_measured.py        measures what memory.jsonl does not have yet

Each training is measured in new processes, which run this file.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from ledger import lines
from outer_steps import LENGTH, OURS, Job, load, machine, resident, rows
from torch.distributed.fsdp import fully_shard
from transformers import default_data_collator

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.meta_gradient.outer_loss import meta_loss

HERE = Path(__file__)
BATCH, STEPS, MINILM = 16, 4, "all-MiniLM-L6-v2"
LAUNCHES = [  # way, processes, sharded
    ("first_order", 1, False),
    ("first_order", 2, False),
    ("exact_fd", 2, False),
    ("first_order", 2, True),
    ("exact_fd", 2, True),
]


def worker(way: str, sharded: bool) -> dict[str, float]:
    """Train three outer steps in this process; its peak, over what it held before the model."""
    gc.collect()
    base = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SelfDestructTrainingArguments(
            folder,
            **OURS[way],
            **{"use_cpu": True, "adversary": {"scope": "global"}, "max_steps": 3, "save_strategy": "no"},
            **{
                "blocking_loss": "uniform_kl",
                "report_to": "none",
                "disable_tqdm": True,
            },
            per_device_train_batch_size=BATCH,
            blocking_batch_size=BATCH * int(os.environ.get("WORLD_SIZE", "1")),
        )
        adversary = Adversary(steps=STEPS, batch_size=arguments.blocking_batch_size, learns_rate=True)
        task = BlockedTask("blocked", train=rows(50 * BATCH, 1), label_column="blocked", num_labels=2)
        trainer = SelfDestructTrainer(
            load(Job(way), "sdpa"), arguments, train_dataset=rows(100, 2), blocked_tasks=[task], adversaries=[adversary]
        )
        draw = trainer.objective.simulator.draw(0)
        episode = trainer.objective.simulator.builder(trainer.model, draw).episode()
        weights = {**episode.published, **episode.own}
        moving = sum(weights[n].numel() for n in episode.moving)
        del episode, weights
        if sharded:
            train_sharded(trainer)
        else:
            trainer.train()
        return {"peak": resident("VmHWM") - base, "moving": moving}


def train_sharded(trainer: SelfDestructTrainer) -> None:
    """Three outer steps on weights that raw ``fully_shard`` has sharded."""
    model: Any = trainer.model
    for layer in model.bert.encoder.layer:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    data = rows(100, 2).remove_columns("blocked")
    for number in range(3):
        batch = default_data_collator([data[number * BATCH + i] for i in range(BATCH)])
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


def main() -> None:
    """Measure each launch that has no line."""
    for way, world, sharded in LAUNCHES:
        plan = {"way": way, "steps": STEPS, "batch": BATCH, "length": LENGTH, "world": world, "sharded": sharded}
        if any({**line["plan"], "moving": None} == {**plan, "moving": None} for line in lines("memory")):
            continue
        seen = run_in_processes(HERE, way, str(int(sharded)), world=world)
        plan["moving"] = int(seen["moving"])
        line = {"model": MINILM, "plan": plan, "peak_mb": round(seen["peak"]), "machine": machine()["machine"]}
        with HERE.with_name("memory.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        sys.stdout.write(json.dumps(worker(sys.argv[1], sys.argv[2] == "1")) + "\n")
        sys.stdout.flush()
