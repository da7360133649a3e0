"""Attacks of which each is one of many variants, searched as one."""

from __future__ import annotations

from typing import Any

from ..attack import AnyOf
from ..methods.fine_tuning import Tuning
from ..methods.probes import HeadOnly
from ..methods.tamper import (
    Chain,
    Prune,
    Quantize,
    Recalibrate,
    ReinitialiseLast,
    Rescale,
    ShrinkAndPerturb,
    SpectralReset,
)

OTHER_PROBES = AnyOf(
    "other probes",
    (
        HeadOnly("closed form", (0.0,), every_layer=True, title="closed form"),
        HeadOnly("linear", (10.0, 100.0), every_layer=True, title="hardly regularised"),
        HeadOnly("kernel", (1.0, 10.0), every_layer=True, title="kernel"),
        HeadOnly("neighbours", (5, 25), every_layer=True, title="neighbours"),
        HeadOnly(
            "linear",
            (0.1, 1.0),
            every_layer=True,
            tamper=Chain((Recalibrate(), Rescale())),
            title="rescaled first",
        ),
        HeadOnly("boosted trees", (60,), every_layer=True, title="boosted trees"),
    ),
)
FASTER_EMBEDDINGS = AnyOf(
    "faster embeddings",
    tuple(
        Tuning(
            f"embeddings {factor:.0f} times as fast",
            learning_rates=(1e-4, 3e-4),
            steps=(150,),
            looks=3,
            prune=True,
            embedding_factor=factor,
        )
        for factor in (10.0, 100.0)
    ),
)


def optimizers(steps: int) -> AnyOf:
    """Every optimizer at rates that suit it."""
    common: dict[str, Any] = {"steps": (steps,), "looks": 3, "prune": True}
    rates = {
        "sgd": (3e-2,),
        "nesterov": (1e-2,),
        "adam": (2e-4,),
        "rmsprop": (1e-4,),
        "adagrad": (1e-3,),
        "adadelta": (1.0,),
        "adafactor": (3e-4,),
        "sign": (3e-5, 3e-6),
    }
    tried = tuple(Tuning(name, optimizers=(name,), learning_rates=of, **common) for name, of in rates.items())
    normalised = (
        Tuning("normalised gradient", optimizers=("sgd",), learning_rates=(3e-2,), gradient="normalise", **common),
    )
    return AnyOf("optimizer sweep", (*tried, *normalised))


def tampered(steps: int) -> AnyOf:
    """Fine-tuning after the weights were shaken."""
    common: dict[str, Any] = {"steps": (steps,), "looks": 3, "learning_rates": (3e-4,), "prune": True}
    return AnyOf(
        "tampered fine-tuning",
        (
            Tuning("last layer re-initialised", tamper=ReinitialiseLast(1), **common),
            Tuning("two layers re-initialised", tamper=ReinitialiseLast(2), **common),
            Tuning("rescaled", tamper=Chain((Recalibrate(), Rescale())), **common),
            Tuning("spectral reset", tamper=SpectralReset(), **common),
            Tuning("shrunk and perturbed", tamper=ShrinkAndPerturb(), **common),
            Tuning("pruned", tamper=Prune(0.3), **common),
            Tuning("int8", tamper=Quantize(8), **common),
            Tuning("int4", tamper=Quantize(4), **common),
            Tuning("healed first", prelude=40, **common),
            Tuning("poisoned mixture", poison=0.5, **common),
        ),
    )


def parts(steps: int, *ranks: int) -> AnyOf:
    """Some of the weights, or adapters; further ranks of adapters where they are named."""
    common: dict[str, Any] = {"steps": (steps,), "looks": 3, "prune": True}
    return AnyOf(
        "partial fine-tuning",
        (
            Tuning("LoRA", trainable="lora", rank=8, learning_rates=(1e-3, 5e-3), **common),
            *(
                Tuning(f"LoRA, rank {rank}", trainable="lora", rank=rank, learning_rates=(1e-3,), **common)
                for rank in ranks
            ),
            Tuning("last layer", trainable="last_1", learning_rates=(5e-4,), **common),
            Tuning("last two layers", trainable="last_2", learning_rates=(3e-4,), **common),
        ),
    )
