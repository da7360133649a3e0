"""Does a step against the meta-gradient reduce the blocking loss as much as predicted? By K, inner rate and way.

    python benchmarks/reduction.py benchmarks/reduction.md

Pairs of digits (``digits.py``): adversaries with a fresh head fine-tune the base's network to the blocked task by Adam,
in float64. The blocking loss is measured after the last of K steps.
"""

import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from digits import DIGITS
from fine_tuned import base
from networks import WIDTH, Network
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, log_softmax

from hf_selfdestruct.adversaries.optimizers import Adam
from hf_selfdestruct.meta_gradient.episode import Episode, Reading
from hf_selfdestruct.meta_gradient.methods import method
from hf_selfdestruct.meta_gradient.reduction import reduction_ratio
from hf_selfdestruct.models.functional import Weights

ROWS, BATCH, DRAWS = 2000, 32, 8
STEPS, RATES, LENGTHS = (4, 16, 64, 200), (3e-4, 1e-3, 3e-3), (1e-4, 1e-2)
WAYS = {
    "exact": method("exact", trajectory="logarithmic"),
    "first order": method("first_order"),
}


def episode_of(network: Network, steps: int, rate: float, seed: int) -> Episode:
    """One adversary's fine-tuning."""
    inputs, _, labels = DIGITS.rows(ROWS, 0, "train")
    others, _, theirs = DIGITS.rows(512, 0, "selection")
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, DIGITS.blocked_classes).double()
    trunk = {name: weight.detach().double() for name, weight in network.trunk.named_parameters()}

    def logits(weights: Weights, rows: Tensor) -> Tensor:
        hidden = functional_call(network.trunk, {name: weights[name] for name in trunk}, (rows.double(),))
        return hidden @ weights["own.weight"].T + weights["own.bias"]

    def inner(rows: Tensor) -> Callable[[Weights], Tensor]:
        return lambda weights: cross_entropy(logits(weights, inputs[rows]), labels[rows])

    def measure(weights: Weights) -> Reading:
        found = logits(weights, others)
        even = -(log_softmax(found, -1).mean(-1) + math.log(found.shape[-1])).mean()
        return Reading(even, cross_entropy(found, theirs), (found.argmax(-1) == theirs).double().mean().item())

    own = {f"own.{name}": weight.detach() for name, weight in head.named_parameters()}
    return Episode(
        published=trunk,
        own=own,
        moving=frozenset([*trunk, *own]),
        inner_losses=[inner(torch.randint(ROWS, (BATCH,), generator=generator)) for _ in range(steps)],
        measure=measure,
        shares=[None] * steps + [1.0],
        optimizer=Adam(),
        learning_rate=rate,
    )


def row(network: Network, steps: int, rate: float) -> str:
    """A line of the table: medians over draws, with the lowest and the highest."""
    cells, scores = [], []
    for way in WAYS.values():
        for length in LENGTHS:
            episodes = [episode_of(network, steps, rate, seed) for seed in range(DRAWS)]
            found = [reduction_ratio(way, episode, length=length) for episode in episodes]
            cells.append(f"{statistics.median(found):.2f} ({min(found):.1f} to {max(found):.1f})")
    for seed in range(DRAWS):
        scores.append(WAYS["first order"](episode_of(network, steps, rate, seed)).scores[steps])
    return f"| {steps} | {rate:g} | {statistics.mean(scores):.3f} | {' | '.join(cells)} |"


def main(page: str) -> None:
    """Measure and write the page."""
    torch.set_num_threads(1)
    (network,) = base(DIGITS, [0])
    network.trunk.double()
    names = [f"{way}, {length:g}" for way in WAYS for length in LENGTHS]
    lines = [row(network, steps, rate) for steps in STEPS for rate in RATES]
    Path(page).write_text(
        "# Actual and predicted reduction of the blocking loss\n\n"
        f"Pairs of digits; {DRAWS} adversaries fine-tune the base for K steps of Adam with batches of {BATCH}. The "
        "actual over the predicted reduction of the blocking loss, for a step against the meta-gradient of 0.0001 or "
        "0.01 of the weights' norm: the median of adversaries, the lowest and the highest. 1: the loss falls as "
        "predicted; below 0: it grows. The accuracy is the adversaries', on held-out rows.\n\n"
        f"| K | inner rate | accuracy | {' | '.join(names)} |\n|---|---|---|{'---|' * len(names)}\n"
        + "\n".join(lines)
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(sys.argv[1])
