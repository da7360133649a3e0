"""The page of predictions beside what was measured, from the ledgers ``meta_gradient.jsonl`` and ``memory.jsonl``."""

import json
from collections.abc import Sequence
from pathlib import Path

from ledger import Line, lines
from memory_answers import CARD, LENGTH, ROWS, SPEEDS, STEPS, UTILISATION, additions, table
from memory_model import Plan, on_a_cpu
from memory_points import HEADS
from outer_steps import OURS
from transformers import AutoConfig, LlamaConfig

from hf_selfdestruct.demo.job import minilm

WITHIN = 0.15
FORKED = 64e6  # what is left of RUNTIME where libraries were loaded before: the first training of the small Llama
Point = tuple[str, float, Plan]


def points(alone: Sequence[Line], training: Sequence[Line]) -> list[Point]:
    """What was measured, in MB, and the plan of each: meta-gradients alone, and whole trainings."""
    config = AutoConfig.from_pretrained(minilm(), num_labels=2, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    small = {"batch": 16, "length": 64, "objectives": 1, "learns_rate": False, "trains": False}
    found: list[Point] = []
    for job in alone:
        if job["method"] in OURS and job["method"] != "unrolled" and job["repeat"] == 0 and not job["error"]:
            plan = Plan(config, job["method"], job["inner_steps"], **small, moving=job["moving"])
            found.append(("MiniLM, the meta-gradient alone", job["peak_mb"], plan))
    for line in training:
        named = isinstance(line["model"], str)
        model = config if named else LlamaConfig(**line["model"], **HEADS, pad_token_id=0)
        plan = Plan(model, **line["plan"], **({} if named else {"runtime": FORKED}))
        found.append((f"{'MiniLM' if named else 'a small Llama'}, {described(plan)}", line["peak_mb"], plan))
    return found


def described(plan: Plan) -> str:
    """What is particular about a training, in words."""
    launch = "sharded" if plan.sharded else "DDP" if plan.world > 1 else "one process"
    said = {
        launch: True,
        "in place": plan.in_place,
        "checkpointing": plan.checkpointing,
        "LoRA": plan.adapters,
        "weights of bfloat16, outer step in bfloat16": plan.bfloat16,
        f"pool of {plan.pool}": bool(plan.pool),
        plan.pool_precision: plan.pool_precision != "full",
    }
    return ", ".join(name for name, here in said.items() if here)


def text_of(alone: Sequence[Line], training: Sequence[Line]) -> str:
    """The page."""
    seen, rows, errors = points(alone, training), [], []
    sets = next(plan for _, _, plan in seen if plan.runtime == FORKED)
    for what, measured, plan in seen:
        total = sum(on_a_cpu(plan).values()) / 1e6
        errors += [] if plan is sets else [abs(total / measured - 1)]
        rows.append(
            f"| {what} | {plan.way} | {plan.steps} | {plan.world} | {measured:,.0f} | {total:,.0f} | "
            f"{'sets the constant' if plan is sets else f'{total / measured - 1:+.0%}'} |"
        )
    return (
        "# Memory, predicted and measured\n\n"
        f"Peak of resident memory over what was there before, MB. {training[0]['machine']}. "
        f"{sum(error <= WITHIN for error in errors)} of {len(errors)} predictions are within {WITHIN:.0%}. "
        "No GPU was at hand: the device is the CPU, whose allocator is not a "
        "GPU's, and whose memory is main memory too, so that of a trajectory in main memory only the sum is checked. "
        "Pools in main memory or on disk were not measured. Sharded trainings of MiniLM took more than predicted. "
        "all-MiniLM-L6-v2 has 16 rows of 64 tokens in each process. The small Llama has 20 million weights and 2 rows "
        "of 32 tokens, or 2 million and 4 rows of 256, where checkpointing or bfloat16 is measured; its first line "
        f"sets the constant part of its process, {FORKED / 1e6:.0f} MB.\n\n"
        "| what | way | K | processes | measured | predicted | error |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n## Large language models on cards of {CARD:.0f} GB\n\n"
        f"**Predicted, not measured**: GB on each card; bold fits. K = {STEPS}, {ROWS} rows of {LENGTH} tokens in each "
        "process, Adam, the published head, a rate that is not learned, no keeping loss, float32; exact by finite "
        "differences. On several cards weights are sharded; flat episodes gather all of them for each pass, those in "
        "place one layer at a time. The blocking loss is measured on one row of each card, and every card joins the "
        "logits of all. Flat inner steps do not checkpoint: only the desired loss does.\n\n" + table() + "\n\n"
        f"Seconds of an outer step in place, without checkpointing (which adds a third at most): from FLOPs, "
        f"{' and '.join(f'{s / 1e12:.0f} TFLOP/s in {n}' for n, s in SPEEDS.items())} (H100 SXM by its data sheet), of "
        f"which {UTILISATION:.0%} are assumed to be used, and no communication.\n\n"
        "### What else Llama-8B takes, by first order, flat, sharded over 8 cards\n\n" + additions() + "\n\n"
        "A half-precision model is trained in float32 and saved in its own type: loading it in bfloat16 saves nothing. "
        "With `bf16=True` the outer step has its weights in bfloat16 beside those in float32.\n"
    )


def write(target: Path) -> None:
    """Write the page."""
    alone = [json.loads(line) for line in target.with_name("meta_gradient.jsonl").read_text().splitlines()]
    target.write_text(text_of(alone, lines("memory")), encoding="utf-8")
