"""Cosines of meta-gradients to float64, for each way and each precision of weights and of the inner loop.

The outer step is ``outer_steps.py``'s, on all-MiniLM-L6-v2. Each way is compared with itself in float64 on the same
weights; ``exact`` in float64 is the same as ``unrolled`` there (``meta_gradient.md``). The bfloat16 inner loop is no
option of the package: it is measured to say why.

    python benchmarks/precision.py benchmarks/precision.md
"""

import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from outer_steps import Job, load, machine, trainer
from torch import Tensor
from torch.nn.functional import cosine_similarity

WAYS = {"exact_db": "exact, double backward", "exact_fd": "exact, finite differences", "first_order": "first order"}
WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STEPS = (4, 16)
LEAST = 0.99


def gradient(way: str, steps: int, weights: torch.dtype, inner: str) -> Tensor:
    """A meta-gradient as one vector, of weights rounded to a type and in an inner loop of another."""
    job = Job(way, steps)
    model = load(job, "sdpa").to(weights)
    model = model.to(torch.float64 if inner == "float64" else weights)
    context: AbstractContextManager[object] = (
        torch.autocast("cpu", torch.bfloat16) if inner == "bfloat16" else nullcontext()
    )
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(job, model, folder)
        draw = made.objective.simulator.draw(0)
        if inner != "bfloat16":
            found = made.objective.simulator.meta_gradient(model, draw).weights
        else:  # past the guard that keeps autocast out
            with context:
                scene = made.objective.simulator.builder(model, draw)
                found = scene.whole(made.objective.simulator._way(scene.episode()).weights)
    return torch.cat([found[name].double().reshape(-1) for name in sorted(found)])


def main(target: str) -> None:
    """Measure all and write the table."""
    lines = [
        "# Precision of the meta-gradient",
        "",
        "all-MiniLM-L6-v2, batches of 16 rows of 64 tokens, Adam with rate 1e-4 and epsilon 1e-6: cosine of the",
        f"meta-gradient to the same way's in float64, on the same weights. {machine()['machine']}; torch "
        f"{torch.__version__}.",
        "",
        f"| way | published weights | inner loop | {' | '.join(f'K = {k}' for k in STEPS)} | |",
        f"|---|---|---|{'---|' * len(STEPS)}---|",
    ]
    for way, name in WAYS.items():
        for weights, kind in WEIGHTS.items():
            wanted = {k: gradient(way, k, kind, "float64") for k in STEPS}
            for inner in ("float32", "bfloat16"):
                found = [cosine_similarity(gradient(way, k, kind, inner), wanted[k], dim=0).item() for k in STEPS]
                fine = min(found) >= LEAST
                verdict = "what the package does" if inner == "float32" else "not offered"
                verdict += "" if fine else f", below {LEAST}"
                cells = " | ".join(f"{value:.7f}" for value in found)
                lines.append(f"| {name} | {weights} | {inner} | {cells} | {verdict} |")
                Path(target).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
