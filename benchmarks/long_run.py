"""A long training on real weights: memory after every outer step, throughput, and a log that TensorBoard reads.

    python benchmarks/long_run.py OUT_DIR [STEPS]

Trains the first two layers of all-MiniLM-L6-v2 (the ``demo`` extra) by first order, K = 4, on rows of tokens by Zipf's
law, logs to ``OUT_DIR/board`` (``tensorboard --logdir``), and writes ``benchmarks/long_run.md``.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from outer_steps import Job, load, machine, resident, rows
from transformers import TrainerCallback

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments

STEPS, WARM, LENGTH, LAYERS = 500, 50, 32, 2


class Memory(TrainerCallback):
    """Resident memory after every outer step, in MB."""

    def __init__(self) -> None:
        self.after: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look."""
        self.after.append(resident("VmRSS"))


def main(folder: str, steps: int = STEPS) -> None:
    """Train and write down what was seen."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(folder, "board"))
    arguments = SelfDestructTrainingArguments(
        folder,
        method="mlac_fast",
        max_steps=steps,
        per_device_train_batch_size=8,
        adversary={"batch_size": 8},
        blocking_batch_size=8,
        logging_steps=10,
        save_strategy="no",
        report_to=["tensorboard"],
        disable_tqdm=True,
        use_cpu=True,
    )
    short = {column: lambda cells: [cell[:LENGTH] for cell in cells] for column in ("input_ids", "attention_mask")}
    desired, blocked = (
        rows(400, seed).map(lambda batch: {n: cut(batch[n]) for n, cut in short.items()}, batched=True)
        for seed in (0, 1)
    )
    task = BlockedTask("blocked", train=blocked, label_column="blocked", num_labels=2)
    trainer = SelfDestructTrainer(
        load(Job("first_order", layers=LAYERS), "sdpa"), arguments, train_dataset=desired, blocked_tasks=[task]
    )
    memory = Memory()
    trainer.add_callback(memory)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    logged = [line["outer_steps_per_second"] for line in trainer.state.log_history if "outer_steps_per_second" in line]
    settled = np.array(memory.after[WARM:])
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    Path(__file__).with_suffix(".md").write_text(
        "# A long run\n\n"
        f"The first {LAYERS} layers of all-MiniLM-L6-v2, first order, K = 4, batches of 8 rows of {LENGTH} tokens, "
        f"{steps} outer steps in {seconds:,.0f} seconds. {machine()['machine']}; {machine()['threads']} thread(s).\n\n"
        "| | |\n|---|---|\n"
        f"| resident memory after step {WARM} | {settled[0]:,.0f} MB |\n"
        f"| after the last step | {settled[-1]:,.0f} MB |\n"
        f"| least and most between them | {settled.min():,.0f} - {settled.max():,.0f} MB |\n"
        f"| slope of a line through them | {slope * 100:+.2f} MB in 100 steps |\n"
        f"| outer steps per second, median of the log's lines | {np.median(logged):.3f} |\n"
        f"| examples per second, likewise | {8 * np.median(logged):.2f} |\n"
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
