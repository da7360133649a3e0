"""Attacks of which each is one of many variants, searched as one."""

from __future__ import annotations

from typing import Any

from ..attack import AnyOf
from ..methods.fine_tuning import Tuning
from ..methods.pair_fine_tuning import PairProbedFirst
from ..methods.probed_first import POOLINGS, ProbedFirst
from ..methods.probes import HeadOnly
from ..methods.tamper import (
    Chain,
    Prune,
    Quantize,
    Recalibrate,
    ReinitialiseEmbeddings,
    ReinitialiseLast,
    Rescale,
    ShrinkAndPerturb,
    SpectralReset,
)

FLOORS = (0.1, 1e-3, 1e-6)
LAYERS = HeadOnly(every_layer=True, whitened=FLOORS)
JOINED = HeadOnly(joined=True, whitened=FLOORS)
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


def probed_first(steps: int, rates: tuple[float, ...], *, further: bool = False) -> AnyOf:
    """Fine-tuning from a probe of the best pooling: plain, slower in lower layers, averaged, with fewer words.

    Args:
        steps: Steps of each.
        rates: Rates of the plain one; the others use the last two.
        further: Whether each option is also tried alone, and half precision too.
    """
    return AnyOf("probe, then fine-tuning with options", _options(ProbedFirst, steps, rates, further=further))


def pair_probed_first(steps: int, rates: tuple[float, ...], *, further: bool = False) -> AnyOf:
    """As :func:`probed_first`, from a pair probe."""
    return AnyOf("pair probe, then fine-tuning with options", _options(PairProbedFirst, steps, rates, further=further))


def _options(of: type[ProbedFirst], steps: int, rates: tuple[float, ...], *, further: bool) -> tuple[ProbedFirst, ...]:
    common: dict[str, Any] = {"poolings": POOLINGS, "steps": (steps,), "looks": steps // 80, "prune": True}
    low, high = ({**common, "learning_rates": (rate,)} for rate in rates[-2:])
    alone = (
        of("slower below", layer_decay=0.7, **high),
        of("averaged", average=0.98, **high),
        of("fewer words", word_dropout=0.15, **low),
        of("bf16", precision="bf16", **low),
    )
    return (
        of("plain", **{**common, "learning_rates": rates}),
        of("slower below, averaged", layer_decay=0.8, average=0.98, **high),
        of("from the top down, averaged", unfreezing=0.25, average=0.98, **high),
        of("fewer words, averaged", word_dropout=0.15, average=0.98, **low),
        *(alone if further else ()),
    )


def patient(steps: int) -> ProbedFirst:
    """Fine-tuning that no early look can end: weights may start to learn only after some hundred steps.

    Args:
        steps: The most; it ends earlier where nothing rises any more, but not before 320.
    """
    return ProbedFirst(
        "probe, then patient fine-tuning",
        poolings=POOLINGS,
        learning_rates=(3e-4,),
        steps=(steps,),
        looks=steps // 40,
        schedule="constant_with_warmup",
        patience=320,
    )


def fresh_embeddings(steps: int) -> AnyOf:
    """Fine-tuning after words got new rows in the embedding table."""
    common: dict[str, Any] = {"steps": (steps,), "looks": 3, "learning_rates": (3e-4, 1e-3), "prune": True}
    return AnyOf(
        "fresh embeddings",
        (
            Tuning("tied words apart", tamper=ReinitialiseEmbeddings(tied=True), embedding_factor=10.0, **common),
            Tuning("all words new", tamper=ReinitialiseEmbeddings(), embedding_factor=10.0, **common),
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
