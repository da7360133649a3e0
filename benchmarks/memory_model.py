"""Memory of one outer step for each device, predicted; and whether it fits.

    python benchmarks/memory_model.py                        Llama-8B on 8 devices of 80 GB, by every way
    python benchmarks/memory_model.py CONFIG_DIR --world 4 --sharded --steps 4 --batch 8 --length 512 --device-gb 24
    python benchmarks/memory_model.py --check                against measured peaks; writes memory_model.md

What is predicted: the trainer's own tensors (weights, gradients, AdamW's moments, the buckets of DDP), the flat
vectors of the adversary (counted below as ``trajectory.py`` and ``adjoint.py`` allocate them), and what one forward and
backward of the model takes, run without data on tensors that do not exist.
"""

import argparse
import math
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForSequenceClassification, LlamaConfig, PreTrainedConfig

from hf_selfdestruct.meta_gradient.logarithmic import places_for

WAYS = (
    "first_order",
    "exact_fd",
    "exact_fd_recompute",
    "exact_fd_logarithmic",
    "exact_db",
    "exact_db_recompute",
)
FLOAT = 4  # bytes
RUNTIME = 110e6  # libraries, thread arenas and what the allocator keeps: first order, K = 1, in meta_gradient.jsonl
LLAMA_8B = {
    **{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"intermediate_size": 14336, "vocab_size": 128256},
}


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
        moments: Of the adversary's optimizer: 2 for Adam.
        objectives: 2 where the adversary learns its head or rate, else 1.
        learns_rate: Whether it learns its rate.
        trains: Whether the trainer's own tensors count, or the meta-gradient alone.
        moving: Weights that move, where they are known; by default as if no token came twice.
        pool: Adversaries that continue, each with an offset and moments of its own on every device.
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
    pool: int = 0


class Peak(TorchDispatchMode):
    """Bytes of all tensors made inside, now and at most.

    Args:
        known: Tensors from before, which do not count.
    """

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {value.untyped_storage()._cdata: 0 for value in known}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it makes."""
        found = function(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in self._known:
                storage = value.untyped_storage()
                self._known[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return found

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


def passes(config: PreTrainedConfig, batch: int, length: int, *, twice: bool) -> tuple[float, float]:
    """Bytes a forward and backward takes at most (twice: a Hessian-vector product), and those of its activations."""
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel([SDPBackend.MATH]) if twice else nullcontext():
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
        weights, tokens = [*model.parameters()], torch.ones(batch, length, dtype=torch.long)
        with Peak([*weights, *model.buffers()]) as peak:
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
            forward = peak.now
            found = torch.autograd.grad(logits.sum(), weights, create_graph=twice, allow_unused=True)
            if twice:
                outputs = [g for g in found if g is not None and g.requires_grad]
                torch.autograd.grad(outputs, weights, [torch.ones_like(g) for g in outputs], allow_unused=True)
    return float(peak.most), float(forward)


def sizes(config: PreTrainedConfig, tokens: int) -> tuple[int, int, int]:
    """Weights of the model; those that batches of so many tokens can move; those of FSDP's largest group.

    Each layer is a group, and all that is in no layer is one.
    """
    with FakeTensorMode():
        model = AutoModelForSequenceClassification.from_config(config)
        table = model.get_input_embeddings().weight
        unused = max(0, len(table) - tokens) * table.shape[1]
        count = sum(p.numel() for p in model.parameters())
        layers = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
        groups = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    return count, count - unused, max(*groups, count - sum(groups))


def vectors(plan: Plan) -> float:
    """How many flat vectors, each as long as the weights that move, lie in memory at most."""
    k, place, o = plan.steps, 1 + plan.moments, plan.objectives
    if plan.way == "first_order":
        return 1 + place + o + (2 if plan.learns_rate else 0)  # g, then x and moments, sums, two for the rate
    recompute = plan.way.endswith("recompute")
    stretch = math.isqrt(max(k * (3 if recompute else 1) - 1, 0)) + 1
    costates = o * (1 + plan.moments + 1)  # sums, the optimizer's, and room
    differences = 3 if "_fd" in plan.way else 0
    if plan.way.endswith("logarithmic"):
        return places_for(k) * place + place + 1 + costates + differences  # stored, the one that moves, its gradient
    kept = place + min(stretch, k) if recompute else place * (min(stretch, k) - 1) + k
    return math.ceil(k / stretch) * place + kept + costates + differences


def predicted(plan: Plan) -> dict[str, float]:
    """Bytes on each device, by what they are for."""
    weights, most, group = sizes(plan.config, plan.batch * plan.world * plan.length * (plan.steps + 1))
    pieces = plan.world if plan.sharded else 1
    n = FLOAT * (plan.moving or most)
    once, activations = passes(plan.config, plan.batch, plan.length, twice="_db" in plan.way)
    found = {"the adversary's vectors": vectors(plan) * n / pieces, "forward and backward": once}
    if plan.world > 1:  # gradients are laid side by side to be added up, while they are still there
        found["adding up"] = n / pieces
    if plan.sharded:
        found["whole weights"] = n
        # A group's weights gathered, their gradients, and the buffers both are sent through.
        found |= {"FSDP's largest group": 4.0 * FLOAT * group} if plan.trains else {}
    if plan.trains:
        shared = FLOAT * weights / pieces
        found |= {"weights": shared, "gradients": shared, "AdamW": 2 * shared, "desired activations": activations}
        found |= {"DDP's buckets": shared} if plan.world > 1 and not plan.sharded else {}
    if plan.pool:
        found["the pool"] = plan.pool * (1 + plan.moments) * FLOAT * weights
    return {**found, "runtime": RUNTIME}


def told(plan: Plan, device_gb: float) -> str:
    """One line of a table: what each part takes, and whether it fits."""
    parts = predicted(plan)
    total = sum(parts.values()) / 1e9
    where = "sharded" if plan.sharded else "DDP" if plan.world > 1 else "one process"
    largest = ", ".join(f"{n} {v / 1e9:.0f}" for n, v in sorted(parts.items(), key=lambda p: -p[1])[:3])
    verdict = "yes" if total <= device_gb else "no"
    return f"| {plan.way} | {plan.steps} | {where}, {plan.world} | {total:.0f} | {largest} | {verdict} |"


def answer(plan: Plan, device_gb: float) -> str:
    """Whether a model fits, by every way."""
    head = f"| way | K | launch | GB on each device | largest parts, GB | fits {device_gb:.0f} GB |"
    return "\n".join([head, "|---|---|---|---|---|---|", *(told(replace(plan, way=way), device_gb) for way in WAYS)])


def main() -> None:
    """Answer, or check the predictions against what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="folder with a config.json; Llama-8B by default")
    for name, default in (("steps", 4), ("batch", 1), ("length", 512), ("world", 8), ("pool", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device-gb", type=float, default=80.0)
    parser.add_argument("--whole", action="store_true", help="DDP instead of sharded weights")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.check:
        from memory_measured import write

        write(Path(__file__).with_suffix(".md"))
        return
    config = AutoConfig.from_pretrained(given.config) if given.config else LlamaConfig(**LLAMA_8B)
    plan = Plan(
        config,
        WAYS[0],
        *(given.steps, given.batch, given.length, given.world),
        sharded=not given.whole,
        pool=given.pool,
    )
    sys.stdout.write(answer(plan, given.device_gb) + "\n")


if __name__ == "__main__":
    main()
