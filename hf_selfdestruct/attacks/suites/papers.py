"""The shipped suites that follow a paper's own protocol: settings and looks are selected on the test split."""

from __future__ import annotations

from typing import Any

from ..attack import AnyOf
from ..methods.fine_tuning import FullFineTuning, Tuning
from .attack_list import Entry
from .suite import AttackSuite

CONSTANT: dict[str, Any] = {"looks": 10, "warmup": 0.0, "schedule": "constant"}  # the rate, in both papers
TRIALS: dict[str, Any] = {
    "optimizers": ("adam",),
    "learning_rates": (1e-5, 1e-2),
    "steps": (100, 1000),
    "trials": 25,
    **CONSTANT,
}
MLAC = AttackSuite(
    "mlac",
    3,
    (
        Entry(FullFineTuning("full fine-tuning, 25 random trials", **TRIALS), (20, 50, 100, 200)),
        Entry(Tuning("frozen trunk, 25 random trials", trainable="head", **TRIALS), (20, 50, 100, 200)),
    ),
    seeds=15,
    few_seeds=15,
    select_on_test=True,
)
# SOPHON (2404.12699) fine-tunes in three ways by five optimizers, each with five rates and several batch sizes. Its
# first way keeps the published head; a blocked task has other classes, so that here all weights get a new head.
WAYS = {"full fine-tuning": "all", "last layer": "last_1", "head": "head"}
RATES_OF = {
    "sgd": (1e-4, 1e-3, 1e-2, 3e-2, 1e-1),
    "nesterov": (1e-4, 1e-3, 1e-2, 3e-2, 1e-1),
    "adam": (1e-5, 1e-4, 1e-3, 3e-3, 1e-2),
    "adagrad": (1e-4, 1e-3, 3e-3, 1e-2, 1e-1),
    "adadelta": (1e-2, 1e-1, 3e-1, 1.0, 3.0),
}
BATCHES = (64, 256)


def _by(way: str, optimizer: str) -> AnyOf:
    """One way of fine-tuning by one optimizer, with every rate and batch size.

    No setting is given up early: a model that was hardened may start to learn only after many steps.
    """
    return AnyOf(
        f"{way} by {optimizer}",
        tuple(
            Tuning(
                f"batches of {size}",
                optimizers=(optimizer,),
                learning_rates=RATES_OF[optimizer],
                steps=(500,),
                trainable=WAYS[way],
                batch_size=size,
                **CONSTANT,
            )
            for size in BATCHES
        ),
    )


SOPHON = AttackSuite(
    "sophon",
    4,
    tuple(Entry(_by(way, optimizer), (None,)) for way in WAYS for optimizer in RATES_OF),
    select_on_test=True,
)
