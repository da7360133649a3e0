"""Large language models on cards of 80 GB: predicted memory and time of an outer step. Nothing here was measured."""

from dataclasses import dataclass, replace

from memory_model import LLAMA_8B, Plan, counted, in_main_memory, predicted
from transformers import LlamaConfig

CARD, STEPS, ROWS, LENGTH = 80.0, 4, 4, 512
UTILISATION = 0.4  # assumed
SPEEDS = {"float32": 67e12, "TF32": 495e12}  # FLOP/s of an H100 SXM by its data sheet, TF32 without sparsity


@dataclass(frozen=True)
class Launch:
    """A model and the devices that it is trained on.

    Attributes:
        name: How the table names it.
        config: The model.
        world: Devices; weights are sharded over several.
    """

    name: str
    config: LlamaConfig
    world: int


LAUNCHES = (
    Launch(
        "Llama-1B, 1 card",
        LlamaConfig(
            **{"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
            **{"intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True},
        ),
        1,
    ),
    Launch("Llama-8B, 8 cards", LlamaConfig(**LLAMA_8B), 8),
    Launch(
        "Llama-70B, 64 cards",
        LlamaConfig(
            **{"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8},
            **{"intermediate_size": 28672, "vocab_size": 128256},
        ),
        64,
    ),
)


def plan_of(launch: Launch, way: str, *, adapters: bool = False) -> Plan:
    """A language model's outer step: Adam, the published head, a rate that is not learned; weights sharded."""
    return Plan(
        launch.config,
        way,
        *(STEPS, ROWS, LENGTH, launch.world),
        sharded=launch.world > 1,
        objectives=1,
        learns_rate=False,
        language=True,
        adapters=adapters,
        held_out=launch.world,
    )


def gigabytes(plan: Plan) -> float:
    """On each device."""
    return sum(predicted(plan).values()) / 1e9


def flops(plan: Plan) -> float:
    """Of an outer step in each process, attention scores and optimizers left out.

    A forward takes 2 for each weight and token, a gradient for the activations 2, and one for the weights 2 more. Inner
    steps of adapters need no gradient for the weights, all others do, and so do those where FSDP gathers layers; with
    checkpointing a forward more.
    """
    one = 2.0 * counted(plan).live * plan.batch * plan.length
    again = plan.checkpointing * plan.in_place
    inner = plan.steps * ((2 if plan.adapters and not plan.by_layer else 3) + again)
    products = 2 * plan.steps * plan.objectives * (3 + again) if plan.way.startswith("exact_fd") else 0
    measured = (plan.steps + 1) * (1 + 2 * plan.objectives + again * plan.objectives)
    return one * (3 + plan.checkpointing + inner + products + measured)


def seconds(plan: Plan) -> str:
    """Of an outer step, in float32 and in TF32, communication left out."""
    found = [flops(plan) / speed / UTILISATION for speed in SPEEDS.values()]
    return " / ".join(f"{one:.0f}" if one >= 10 else f"{one:.1f}" for one in found)


def table() -> str:
    """A line for each model, way and adversary."""
    lines = [
        "| model | way | trained | flat | flat, checkpointing | in place | in place, checkpointing | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for launch in LAUNCHES:
        for way, name in (("first_order", "first order"), ("exact_fd", "exact")):
            for adapters in (False, True):
                plan = plan_of(launch, way, adapters=adapters)
                kinds = [replace(plan, episode=e, checkpointing=c) for e in ("flat", "in_place") for c in (False, True)]
                cells = " | ".join(_cell(kind) for kind in kinds)
                lines.append(
                    f"| {launch.name} | {name} | {'LoRA' if adapters else 'all'} | {cells} | {seconds(kinds[2])} |"
                )
    return "\n".join(lines)


def _cell(plan: Plan) -> str:
    found = gigabytes(plan)
    return f"**{found:,.0f}**" if found <= CARD else f"{found:,.0f}"


def additions() -> str:
    """What else Llama-8B takes on each of 8 devices, by first order."""
    plan = plan_of(LAUNCHES[1], "first_order")
    others = {
        "pool of 1": replace(plan, pool=1),
        "pool of 8": replace(plan, pool=8),
        "pool of 8, bfloat16": replace(plan, pool=8, pool_precision="bfloat16"),
        "pool of 8, bfloat16, in main memory or on disk": replace(
            plan, pool=8, pool_precision="bfloat16", pool_storage="cpu"
        ),
        "pool of 8, adversaries train LoRA": replace(plan_of(LAUNCHES[1], "first_order", adapters=True), pool=8),
        "outer step in bfloat16": replace(plan, bfloat16=True),
        "outer step in bfloat16, with checkpointing": replace(plan, bfloat16=True, checkpointing=True),
        "exact, trajectory on the device": replace(plan, way="exact_fd"),
        "exact, trajectory in main memory": replace(plan, way="exact_fd_cpu"),
        "exact, trajectory recomputed": replace(plan, way="exact_fd_recompute"),
    }
    lines = [f"| nothing | {gigabytes(plan):,.0f} | 0 |"]
    for name, other in others.items():
        lines.append(f"| {name} | {gigabytes(other):,.0f} | {sum(in_main_memory(other).values()) / 1e9:,.0f} |")
    return "\n".join(
        ["| with | GB on each device | GB in main memory or on disk, each process |", "|---|---|---|", *lines]
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(table() + "\n\n" + additions() + "\n")
