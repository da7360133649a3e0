"""Outer steps of a small Llama, whose peaks of memory are measured in a new process each.

    python benchmarks/memory_points.py        measures what memory.jsonl does not have yet

Each process is forked from one that has loaded the libraries, and the system gets freed memory back at once, so that
what is resident is what is used.
"""

import ctypes
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from memory_shards import run_in_processes, train_sharded
from outer_steps import OURS, machine, resident
from transformers import LlamaConfig, LlamaForCausalLM

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.tasks.language_modeling import LANGUAGE_MODELING

LEDGER = Path(__file__).with_name("memory.jsonl")
WIDE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "vocab_size": 2048}
LONG = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8, "vocab_size": 512}
HEADS = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
MANY_WEIGHTS = {"language": True, "steps": 2, "batch": 2, "length": 32, "objectives": 1, "learns_rate": False}
MANY_TOKENS = {**MANY_WEIGHTS, "steps": 1, "batch": 4, "length": 256}
IN_PLACE = {"episode": "in_place"}
SHARDED = {"world": 2, "sharded": True}
PLANS: list[tuple[dict[str, int], dict[str, Any]]] = [
    (WIDE, {**MANY_WEIGHTS, "way": "first_order"}),
    (WIDE, {**MANY_WEIGHTS, "way": "first_order", **IN_PLACE}),
    (WIDE, {**MANY_WEIGHTS, "way": "exact_fd", **IN_PLACE}),
    (WIDE, {**MANY_WEIGHTS, "way": "exact_fd_cpu", **IN_PLACE, "steps": 4}),
    (WIDE, {**MANY_WEIGHTS, "way": "exact_fd", "adapters": True}),
    (WIDE, {**MANY_WEIGHTS, "way": "first_order", "adapters": True, **IN_PLACE}),
    (WIDE, {**MANY_WEIGHTS, "way": "first_order", "pool": 2}),
    (WIDE, {**MANY_WEIGHTS, "way": "first_order", "pool": 2, "pool_precision": "bfloat16", **IN_PLACE}),
    (WIDE, {**MANY_WEIGHTS, "way": "first_order", **SHARDED}),
    (WIDE, {**MANY_WEIGHTS, "way": "first_order", **SHARDED, **IN_PLACE}),
    (WIDE, {**MANY_WEIGHTS, "way": "exact_fd", **SHARDED, **IN_PLACE}),
    (LONG, {**MANY_TOKENS, "way": "first_order", **IN_PLACE}),
    (LONG, {**MANY_TOKENS, "way": "first_order", **IN_PLACE, "checkpointing": True}),
    (LONG, {**MANY_TOKENS, "way": "first_order", "checkpointing": True}),
    (LONG, {**MANY_TOKENS, "way": "first_order", **IN_PLACE, "bfloat16": True}),
]


def rows(count: int, length: int, words: int, seed: int) -> Dataset:
    """Rows of tokens, drawn evenly."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, words, (count, length), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": tokens, "labels": tokens, "attention_mask": [[1] * length] * count})


def arguments(plan: dict[str, Any], folder: str) -> SelfDestructTrainingArguments:
    """The trainer's arguments for a plan's settings."""
    way = plan["way"].removesuffix("_cpu")
    given: dict[str, Any] = dict(OURS[way])
    options = {**given.pop("method_options", {}), "step_weights": "uniform", "episode": plan.get("episode", "flat")}
    if plan["way"].endswith("_cpu"):
        options["trajectory"] = "cpu"
    rows_of_all = plan["batch"] * plan.get("world", 1)
    adversary = {
        **{"steps": plan["steps"], "batch_size": rows_of_all, "head": "keep", "learning_rate": 1e-4},
        "trainable": "lora" if plan.get("adapters") else "all",
        "pool": plan.get("pool", 0),
        "pool_precision": plan.get("pool_precision", "full"),
        "scope": "global" if plan.get("sharded") else "local",
    }
    return SelfDestructTrainingArguments(
        folder,
        **given,
        **{"method": "mlac_fast", "blocking_loss": "uniform_kl", "keeping_loss": "", "use_cpu": True},
        **{"max_steps": 2, "gradient_accumulation_steps": 2, "save_strategy": "no", "report_to": "none"},
        disable_tqdm=True,
        adversary=adversary,
        method_options=options,
        per_device_train_batch_size=plan["batch"],
        blocking_batch_size=rows_of_all,
        gradient_checkpointing=plan.get("checkpointing", False),
        bf16=plan.get("bfloat16", False),
    )


def measured(model: dict[str, int], plan: dict[str, Any]) -> float:
    """Train two outer steps, of two micro-steps each; the most that was resident, in MB over what was there before."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is larger is the system's again when it is freed
    libc.malloc_trim(0)
    base = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    words, length = model["vocab_size"], plan["length"]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        live = LlamaForCausalLM(LlamaConfig(**model, **HEADS, pad_token_id=0))
        blocked = rows(64, length, words, 1)
        task = BlockedTask("blocked", train=blocked, label_column="labels", kind=LANGUAGE_MODELING)
        trainer = SelfDestructTrainer(
            live.bfloat16() if plan.get("bfloat16") else live,
            arguments(plan, folder),
            train_dataset=rows(64, length, words, 2),
            blocked_tasks=[task],
        )
        if plan.get("sharded"):
            train_sharded(trainer)
        else:
            trainer.train()
    return resident("VmHWM") - base


def _told(model: dict[str, int], plan: dict[str, Any], answers: Any) -> None:
    answers.put(measured(model, plan))


def main() -> None:
    """Measure each plan that has no line."""
    torch.set_num_threads(1)
    forked = multiprocessing.get_context("fork")
    for model, plan in PLANS:
        done = [json.loads(line) for line in LEDGER.read_text().splitlines()] if LEDGER.is_file() else []
        if any((line["model"], line["plan"]) == (model, plan) for line in done):
            continue
        if plan.get("sharded"):
            given = json.dumps({"model": model, "plan": plan})
            peak = run_in_processes(Path(__file__), given, world=plan["world"])["peak"]
        else:
            answers = forked.SimpleQueue()
            process = forked.Process(target=_told, args=(model, plan, answers))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{plan} ended with exit code {process.exitcode}.")
            peak = answers.get()
        line = {"model": model, "plan": plan, "peak_mb": round(peak, 1), "machine": machine()["machine"]}
        with LEDGER.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        torch.set_num_threads(1)
        sys.stdout.write(json.dumps({"peak": measured(**json.loads(sys.argv[1]))}) + "\n")
        sys.stdout.flush()
