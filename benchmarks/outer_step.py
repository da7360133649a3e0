"""Seconds of one outer step, by meta-gradient, beside one plain training step on the same batch.

    python benchmarks/outer_step.py --inner-steps 4 --repeats 5

all-MiniLM-L6-v2 from the `demo` extra, random tokens, batch 16 of length 64 everywhere. Modes are
interleaved; medians are printed. Peak memory is not measured here.
"""

import argparse
import statistics
import sys
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.demo.recipe import minilm

BATCH, LENGTH = 16, 64


def rows(count: int, seed: int) -> Dataset:
    """Random token rows with random labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, 20000, (count, LENGTH), generator=generator)
    return Dataset.from_dict(
        {
            "input_ids": ids.tolist(),
            "attention_mask": torch.ones_like(ids).tolist(),
            "label": (ids[:, 0] % 4).tolist(),
            "blocked": (ids[:, 1] % 2).tolist(),
        }
    )


def step(mode: str, inner_steps: int) -> float:
    """Seconds of a forward and backward: `plain`, or an outer step by `mode`."""
    weight, gradient = (0.0, "first_order") if mode == "plain" else (1.0, mode)
    model = AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=4)
    with tempfile.TemporaryDirectory() as folder:
        args = SelfDestructTrainingArguments(
            folder,
            meta_gradient=gradient,
            inner_steps=inner_steps,
            blocking_weight=weight,
            blocking_batch_size=BATCH,
            adversary_batch_size=BATCH,
            adversary_learns_rate=False,
            per_device_train_batch_size=BATCH,
        )
        task = BlockedTask("blocked", train=rows(160, 1), label_column="blocked")
        trainer = SelfDestructTrainer(model, args, train_dataset=rows(BATCH, 2), blocked_tasks=[task])
        inputs = next(iter(trainer.get_train_dataloader()))
        model.train()
        start = time.perf_counter()
        trainer.compute_loss(model, inputs).backward()
        return time.perf_counter() - start


def main() -> None:
    """Run every mode in turn and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inner-steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    modes = ("plain", "first_order", "unrolled")
    step("plain", 1)  # warm up
    seconds = {mode: [] for mode in modes}
    for _ in range(options.repeats):
        for mode in modes:
            seconds[mode].append(step(mode, options.inner_steps))
    unit = statistics.median(seconds["plain"])
    sys.stdout.write(f"K = {options.inner_steps}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    for mode in modes:
        median = statistics.median(seconds[mode])
        sys.stdout.write(f"{mode:12s} {median:7.2f} s  {median / unit:5.1f} u\n")


if __name__ == "__main__":
    main()
