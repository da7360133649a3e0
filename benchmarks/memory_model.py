"""Memory of one outer step for each device, predicted; and whether it fits.

    python benchmarks/memory_model.py                        Llama-8B on 8 devices of 80 GB, by every way
    python benchmarks/memory_model.py CONFIG_DIR --world 4 --steps 4 --batch 8 --length 512 --device-gb 24
    python benchmarks/memory_model.py --in-place --world 1 --lora --checkpointing
    python benchmarks/memory_model.py --page                 writes memory_model.md, from ledgers of what was measured

What is predicted: the trainer's own tensors (weights, gradients, AdamW's moments, the buckets of DDP), the flat
vectors of the adversary (counted below as ``trajectory.py`` and ``adjoint.py`` allocate them), a pool, and what one
forward and backward of the model takes, run without data on tensors that do not exist (``memory_passes.py``).
"""

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from memory_passes import Model, Sizes, desired_activations, episode_pass, in_depth, sizes
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from hf_selfdestruct.meta_gradient.logarithmic import places_for

WAYS = (
    *("first_order", "exact_fd", "exact_fd_cpu", "exact_fd_recompute", "exact_fd_logarithmic"),
    *("exact_db", "exact_db_recompute"),
)
FLOAT = 4  # bytes
JOINED = 5  # copies of the logits of all processes: as joined, and what a blocking loss and its gradient take
RUNTIME = 110e6  # libraries, thread arenas and what the allocator keeps: first order, K = 1, in meta_gradient.jsonl
LLAMA_8B = {
    **{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"intermediate_size": 14336, "vocab_size": 128256},
}
Bytes = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """An outer step.

    Attributes:
        config: The model.
        way: One of ``WAYS``.
        steps: K.
        batch: Rows of each batch in one process: desired, blocked and held out alike.
        length: Tokens in a row.
        world: Processes.
        sharded: Whether weights and vectors are shared out.
        held_out: Rows, of all processes together, that the blocking loss is measured on; by default as the desired.
        moments: Of the adversary's optimizer: 2 for Adam.
        objectives: 2 where the adversary learns its head or rate, else 1.
        learns_rate: Whether it learns its rate.
        trains: Whether the trainer's own tensors count, or the meta-gradient alone.
        moving: Weights that move, where they are known; by default as if no token came twice.
        language: Whether the model predicts next tokens, with its published head; else it classifies rows.
        episode: ``flat`` or ``in_place``.
        checkpointing: Whether layers recompute their activations: the desired loss, and an episode in place.
        adapters: Whether the adversary trains its head and LoRA adapters alone.
        bfloat16: Whether the outer step runs in it, by autocast. Weights are float32 in training, also if their file's
            are not, and so are the inner steps.
        pool: Adversaries that continue, each with an offset and moments of its own on every device.
        pool_storage: ``device``, ``cpu`` or ``disk``.
        pool_precision: ``full`` or ``bfloat16``.
        runtime: Bytes of libraries and allocator.
    """

    config: PreTrainedConfig
    way: str
    steps: int
    batch: int = 8
    length: int = 512
    world: int = 1
    sharded: bool = False
    moments: int = 2
    objectives: int = 2
    learns_rate: bool = True
    trains: bool = True
    moving: int | None = None
    language: bool = False
    episode: str = "flat"
    checkpointing: bool = False
    adapters: bool = False
    bfloat16: bool = False
    pool: int = 0
    pool_storage: str = "device"
    pool_precision: str = "full"
    runtime: float = RUNTIME
    held_out: int | None = None

    @property
    def in_place(self) -> bool:
        """Whether inner steps run in the model's own modules."""
        return self.episode == "in_place"

    @property
    def by_layer(self) -> bool:
        """Whether each process has shards alone, and a layer's weights are gathered while it runs."""
        return self.sharded and self.in_place

    @property
    def place(self) -> int:
        """Vectors that one step of a trajectory consists of: the weights, and the optimizer's moments."""
        return 1 + self.moments


def counted(plan: Plan) -> Sizes:
    """The numbers of weights of a plan."""
    # Where layers are gathered one by one, whole tables of embeddings move.
    tokens = 10**12 if plan.by_layer else plan.batch * plan.world * plan.length * (plan.steps + 1)
    found = sizes(Model(plan.config, plan.language, plan.adapters), tokens)
    return replace(found, moving=plan.moving or found.moving)


def vectors(plan: Plan) -> tuple[int, int]:
    """How many flat vectors lie on the device at most: as long as what moves, and as all that has a meta-gradient."""
    k, place, o = plan.steps, plan.place, plan.objectives
    if plan.way == "first_order":
        return 1 + place + (2 if plan.learns_rate else 0), o  # g, then x and moments, two for the rate; and sums
    recompute = plan.way.endswith("recompute")
    stretch = _stretch(plan)
    if plan.way.endswith("cpu"):
        kept = (place + 1) * min(stretch, k)
    elif plan.way.endswith("logarithmic"):
        kept = (places_for(k) + 1) * place + 1  # stored, the one that moves, its gradient
    elif recompute:
        kept = math.ceil(k / stretch) * place + place + min(stretch, k)
    else:
        kept = math.ceil(k / stretch) * place + place * (min(stretch, k) - 1) + k
    fd = "_fd" in plan.way  # a vector to move in, and the gradients at both sides
    return kept + o * (plan.moments + 1) + fd, o + 2 * fd  # the optimizer's costates, and room; and sums


def _stretch(plan: Plan) -> int:
    return math.isqrt(max(plan.steps * (3 if plan.way.endswith("recompute") else 1) - 1, 0)) + 1


def predicted(plan: Plan) -> Bytes:
    """Bytes on each device, by what they are for."""
    n = counted(plan)
    model, pieces = Model(plan.config, plan.language, plan.adapters), plan.world if plan.sharded else 1
    moving, whole = FLOAT * n.moving, FLOAT * (n.moving + n.fixed)
    short, long = vectors(plan)
    own = short * moving + long * whole + (0 if plan.in_place else FLOAT * n.fixed)  # a copy of what does not move
    own += moving if plan.by_layer else 0  # the published shards, to be put back
    options = {
        "twice": "_db" in plan.way,
        "in_place": plan.in_place,
        "checkpoints": plan.in_place and plan.checkpointing,
    }
    once = in_depth(model, lambda few: episode_pass(few, plan.batch, plan.length, **options))
    found = {"the adversary's vectors": own / pieces, "forward and backward": once}
    if plan.world > 1:
        found["everyone's logits"] = JOINED * FLOAT * _outputs(plan) * (plan.held_out or plan.batch * plan.world)
    if plan.by_layer:
        found["a pass's gradients"] = FLOAT * n.live / pieces
    elif plan.world > 1:  # gradients are laid side by side to be added up, while they are still there
        found["adding up"] = whole / pieces
    if plan.sharded and not plan.in_place:
        found["whole weights"] = whole
    if plan.sharded and (plan.trains or plan.in_place):
        # A group's weights gathered, their gradients, and the buffers both are sent through.
        found["FSDP's largest group"] = 4.0 * FLOAT * n.group
    if plan.trains:
        shared, mode = FLOAT * n.live / pieces, {"checkpoints": plan.checkpointing, "bfloat16": plan.bfloat16}
        desired = replace(model, adapters=False)
        activations = in_depth(desired, lambda few: desired_activations(few, plan.batch, plan.length, **mode))
        found |= {"weights": shared, "gradients": shared, "AdamW": 2 * shared, "desired activations": activations}
        found |= {"DDP's buckets": shared} if plan.world > 1 and not plan.sharded else {}
    return {**found, **_pool(plan, n, once), "runtime": plan.runtime}


def _outputs(plan: Plan) -> float:
    """Numbers of an answer to one row: a logit for each class, or for each word at each position."""
    return plan.length * plan.config.vocab_size if plan.language else plan.config.num_labels


def _pool(plan: Plan, n: Sizes, once: float) -> Bytes:
    """Of a pool: its adversaries, where one starts, and where it ends; flat episodes store them whole everywhere."""
    if not plan.pool:
        return {}
    fast = FLOAT * plan.place * n.moving
    ends = max(fast - once, 0.0) if plan.way == "first_order" else fast  # after the last pass, or before the way back
    converted = plan.pool_storage != "device" or plan.pool_precision != "full"
    starts = FLOAT * n.published + (FLOAT * plan.moments * n.moving if converted else 0)
    found = {"the pool": stored(plan, n) if plan.pool_storage == "device" else 0.0, "the pool's turn": starts + ends}
    return {name: value / (plan.world if plan.by_layer else 1) for name, value in found.items()}


def stored(plan: Plan, n: Sizes) -> float:
    """Bytes that a pool's adversaries take between their turns, where they are stored."""
    return plan.pool * plan.place * n.stored * (2.0 if plan.pool_precision == "bfloat16" else FLOAT)


def in_main_memory(plan: Plan) -> Bytes:
    """Bytes that each process has in main memory, or on disk, instead of on its device."""
    n, found = counted(plan), {}
    if plan.way.endswith("cpu"):
        vectors = math.ceil(plan.steps / _stretch(plan)) * plan.place + plan.steps
        found["the trajectory"] = FLOAT * vectors * n.moving / (plan.world if plan.sharded else 1)
    if plan.pool and plan.pool_storage != "device":
        found[f"the pool ({plan.pool_storage})"] = stored(plan, n)
    return found


def on_a_cpu(plan: Plan) -> Bytes:
    """Bytes of a training on a CPU, whose main memory is the device's: nothing is copied to and fro."""
    storage = "device" if plan.pool_storage == "cpu" else plan.pool_storage
    return predicted(replace(plan, way=plan.way.removesuffix("_cpu"), pool_storage=storage))


def told(plan: Plan, device_gb: float) -> str:
    """One line of a table: what each part takes, and whether it fits."""
    parts = predicted(plan)
    total = sum(parts.values()) / 1e9
    where = "sharded" if plan.sharded else "DDP" if plan.world > 1 else "one process"
    largest = ", ".join(f"{n} {v / 1e9:.0f}" for n, v in sorted(parts.items(), key=lambda p: -p[1])[:3])
    verdict = "yes" if total <= device_gb else "no"
    return f"| {plan.way} | {plan.steps} | {where}, {plan.world} | {total:.0f} | {largest} | {verdict} |"


def answer(plan: Plan, device_gb: float) -> str:
    """Whether a model fits, by every way; in place, by those that need no second derivative."""
    ways = [way for way in WAYS if not (plan.in_place and "_db" in way)]
    head = f"| way | K | launch | GB on each device | largest parts, GB | fits {device_gb:.0f} GB |"
    return "\n".join([head, "|---|---|---|---|---|---|", *(told(replace(plan, way=way), device_gb) for way in ways)])


def main() -> None:
    """Answer, or write the page of predictions beside what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="folder with a config.json; Llama-8B by default")
    for name, default in (("steps", 4), ("batch", 1), ("length", 512), ("world", 8), ("pool", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device-gb", type=float, default=80.0)
    for name in ("whole", "in-place", "checkpointing", "lora", "language", "bf16", "page"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--pool-storage", choices=("device", "cpu", "disk"), default="device")
    parser.add_argument("--pool-precision", choices=("full", "bfloat16"), default="full")
    given = parser.parse_args()
    if given.in_place and given.world > 1 and not given.whole and given.pool_storage != "device":
        parser.error("in place, a pool of sharded adversaries is stored on the device: leave out --pool-storage.")
    if given.page:
        from memory_page import write

        write(Path(__file__).with_suffix(".md"))
        return
    plan = Plan(
        AutoConfig.from_pretrained(given.config) if given.config else LlamaConfig(**LLAMA_8B),
        WAYS[0],
        *(given.steps, given.batch, given.length, given.world),
        sharded=given.world > 1 and not given.whole,
        language=given.language,
        episode="in_place" if given.in_place else "flat",
        checkpointing=given.checkpointing,
        adapters=given.lora,
        bfloat16=given.bf16,
        pool=given.pool,
        pool_storage=given.pool_storage,
        pool_precision=given.pool_precision,
    )
    sys.stdout.write(answer(plan, given.device_gb) + "\n")


if __name__ == "__main__":
    main()
