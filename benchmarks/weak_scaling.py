"""Weak scaling: two processes with a core each and their own rows, against one process on one core.

    python benchmarks/weak_scaling.py            on a machine with two idle cores; writes weak_scaling.md

Each process has 16 desired rows; where all simulate one adversary, its batches grow with the number of processes.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from memory_measured import run_in_processes
from outer_steps import Job, load, machine, rows

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments

HERE, BATCH, STEPS, REPEATS, LAYERS = Path(__file__), 16, 10, 2, 2
CASES = [("local", 1), ("local", 2), ("global", 2)]


def worker(scope: str) -> float:
    """Outer steps per second of this launch, the first lines of the log left out."""
    os.sched_setaffinity(0, {int(os.environ.get("LOCAL_RANK", "0"))})
    world = int(os.environ.get("WORLD_SIZE", "1"))
    shared = BATCH * (world if scope == "global" else 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SelfDestructTrainingArguments(
            folder,
            **{"method": "mlac_fast", "use_cpu": True, "disable_tqdm": True},
            **{"max_steps": STEPS, "save_strategy": "no", "logging_steps": 1, "report_to": "none"},
            per_device_train_batch_size=BATCH,
            adversary={"scope": scope, "batch_size": shared},
            blocking_batch_size=shared,
        )
        task = BlockedTask("blocked", train=rows(800, 1), label_column="blocked", num_labels=2)
        model = load(Job("first_order", layers=LAYERS), "sdpa")
        trainer = SelfDestructTrainer(model, arguments, train_dataset=rows(400, 2), blocked_tasks=[task])
        trainer.train()
    lines = [line["outer_steps_per_second"] for line in trainer.state.log_history if "outer_steps_per_second" in line]
    return statistics.median(lines[3:])


def main() -> None:
    """Measure in turns and write the table."""
    seen: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
    for _ in range(REPEATS):
        for scope, world in CASES:
            seen[scope, world].append(run_in_processes(HERE, scope, world=world)["steps"])
    alone = statistics.median(seen[CASES[0]])
    lines = []
    for (scope, world), values in seen.items():
        speed = statistics.median(values)
        name = "one process, one core" if world == 1 else f"{world} processes, a core each, `{scope}`"
        spread = f"{min(values):.3f} - {max(values):.3f}"
        lines.append(f"| {name} | {speed:.3f} ({spread}) | {world * BATCH * speed:.2f} | {speed / alone:.0%} |")
    HERE.with_suffix(".md").write_text(
        "# Weak scaling\n\n"
        f"The first {LAYERS} layers of all-MiniLM-L6-v2, first order, K = 4, {BATCH} rows of 64 tokens in each "
        f"process; gloo. {machine()['machine']}. Median of {REPEATS} launches (least - most), load "
        f"{os.getloadavg()[0]:.1f} at the end.\n\n"
        "| | outer steps per second | desired examples per second | efficiency |\n|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps({"steps": worker(sys.argv[1])}) + "\n")
    else:
        main()
