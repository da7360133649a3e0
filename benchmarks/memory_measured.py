"""Peaks of resident memory in trainings of all-MiniLM-L6-v2 by one process and by several.

    python benchmarks/memory_measured.py        measures what memory.jsonl does not have yet

Each training is measured in new processes, which run this file.
"""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ledger import lines
from memory_shards import run_in_processes, train_sharded
from outer_steps import LENGTH, OURS, Job, load, machine, resident, rows

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.adversaries.adversary import Adversary

HERE = Path(__file__)
BATCH, STEPS, MINILM = 16, 4, "all-MiniLM-L6-v2"
LAUNCHES = [  # way, processes, sharded, episode
    ("first_order", 1, False, "flat"),
    ("first_order", 2, False, "flat"),
    ("exact_fd", 2, False, "flat"),
    ("first_order", 2, True, "flat"),
    ("exact_fd", 2, True, "flat"),
    ("first_order", 2, True, "in_place"),
    ("exact_fd", 2, True, "in_place"),
]


def worker(way: str, sharded: bool, episode: str) -> dict[str, float]:
    """Train three outer steps in this process; its peak, over what it held before the model."""
    given: dict[str, Any] = dict(OURS[way])
    options = given.pop("method_options", {})
    gc.collect()
    base = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SelfDestructTrainingArguments(
            folder,
            **given,
            method_options={**options, "episode": episode},
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
        built = trainer.objective.simulator.builder(trainer.model, draw).episode()
        weights = {**built.published, **built.own}
        moving = sum(weights[n].numel() for n in built.moving)
        del built, weights
        if sharded:
            train_sharded(trainer)
        else:
            trainer.train()
        return {"peak": resident("VmHWM") - base, "moving": moving}


def main() -> None:
    """Measure each launch that has no line."""
    for way, world, sharded, episode in LAUNCHES:
        plan = {"way": way, "steps": STEPS, "batch": BATCH, "length": LENGTH, "world": world, "sharded": sharded}
        plan |= {"episode": episode} if episode != "flat" else {}
        if any({**line["plan"], "moving": None} == {**plan, "moving": None} for line in lines("memory")):
            continue
        seen = run_in_processes(HERE, way, str(int(sharded)), episode, world=world)
        plan["moving"] = None if sharded and episode == "in_place" else int(seen["moving"])  # there, all of them
        line = {"model": MINILM, "plan": plan, "peak_mb": round(seen["peak"]), "machine": machine()["machine"]}
        with HERE.with_name("memory.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        sys.stdout.write(json.dumps(worker(sys.argv[1], sys.argv[2] == "1", sys.argv[3])) + "\n")
        sys.stdout.flush()
