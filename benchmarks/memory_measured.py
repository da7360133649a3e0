"""Peaks of resident memory, measured, beside what ``memory_model.py`` predicts.

Whole outer steps of training are measured in new processes, each of which runs this file; those of the meta-gradient
alone are the ones in ``meta_gradient.jsonl``.
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
from memory_model import LLAMA_8B, WAYS, Plan, answer, predicted
from outer_steps import LENGTH, OURS, Job, load, machine, resident, rows
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, LlamaConfig, default_data_collator

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.demo.job import minilm
from hf_selfdestruct.meta_gradient.outer_loss import meta_loss

HERE = Path(__file__)
BATCH, STEPS, WITHIN = 16, 4, 0.15
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


def points() -> list[tuple[str, float, Plan]]:
    """What was measured, in MB, and the plan of each."""
    config = AutoConfig.from_pretrained(minilm(), num_labels=2, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    alone = {"batch": BATCH, "length": LENGTH, "objectives": 1, "learns_rate": False, "trains": False}
    found = []
    for line in HERE.with_name("meta_gradient.jsonl").read_text().splitlines():
        job = json.loads(line)
        if job["method"] in OURS and job["method"] != "unrolled" and job["repeat"] == 0 and not job["error"]:
            plan = Plan(config, job["method"], job["inner_steps"], **alone, moving=job["moving"])
            found.append(("the meta-gradient alone", job["peak_mb"], plan))
    for way, world, sharded in LAUNCHES:
        seen = run_in_processes(HERE, way, str(int(sharded)), world=world)
        name = "sharded" if sharded else "DDP" if world > 1 else "one process"
        plan = Plan(config, way, STEPS, BATCH, LENGTH, world, sharded, moving=int(seen["moving"]))
        found.append((f"training, {name}", seen["peak"], plan))
    return found


def write(target: Path) -> None:
    """Write the table."""
    lines, close = [], 0
    seen = points()
    for what, measured, plan in seen:
        total = sum(predicted(plan).values()) / 1e6
        close += abs(total / measured - 1) <= WITHIN
        lines.append(
            f"| {what} | {plan.way} | {plan.steps} | {plan.world} | {measured:,.0f} | {total:,.0f} | "
            f"{total / measured - 1:+.0%} |"
        )
    target.write_text(
        "# Memory, predicted and measured\n\n"
        f"all-MiniLM-L6-v2, {BATCH} rows of {LENGTH} tokens in each process: peak of resident memory over what was "
        f"there before, MB. {machine()['machine']}. {close} of {len(seen)} predictions are within {WITHIN:.0%}. The "
        "device is the CPU, whose allocator is not a GPU's.\n\n"
        "| what | way | K | processes | measured | predicted | error |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n\n## Llama-8B on 8 devices of 80 GB\n\n"
        f"K = {STEPS}, one row of 512 tokens in each process, Adam, a learned head and rate, float32.\n\n"
        + answer(Plan(LlamaConfig(**LLAMA_8B), WAYS[0], STEPS, 1, 512, 8, sharded=True), 80.0)
        + "\n"
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(worker(sys.argv[1], sys.argv[2] == "1")) + "\n")
    sys.stdout.flush()
