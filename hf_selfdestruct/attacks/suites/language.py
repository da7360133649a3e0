"""The shipped suites for language models: each next token of a text, by the published head."""

from __future__ import annotations

from typing import Any

from ...tasks.language_modeling import LANGUAGE_MODELING
from ..attack import AnyOf
from ..methods.directions import AblateDirections
from ..methods.fine_tuning import FullFineTuning, Tuning
from ..methods.sibling import Distillation, Merging, StripDelta
from ..methods.soft_prompts import SoftPrompt
from ..methods.tamper import Chain, Prune, Quantize, ReinitialiseLast, ShrinkAndPerturb, SpectralReset, Tamper
from .attack_list import Entry
from .suite import AttackSuite
from .variants import optimizers

MOST = (None,)
RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 1e-2)
USUAL, TWO = RATES[3:7], (1e-4, 1e-3)
LONG: dict[str, Any] = {"steps": (500,), "looks": 10, "prune": True}
QUICK: dict[str, Any] = {"steps": (300,), "looks": 5, "prune": True}
LONGER: dict[str, Any] = {"steps": (2000,), "looks": 20, "prune": True}
SHORT: dict[str, Any] = {"steps": (60,), "looks": 3, "prune": True}
HELD: dict[str, Any] = {"learning_rates": TWO, "steps": 200, "looks": 4}
COMMON: dict[str, Any] = {"limit": 400, "more": None, "kind": LANGUAGE_MODELING.name}
CONSTANT = "constant_with_warmup"
SHAKEN: dict[str, Tamper] = {
    "int8": Quantize(8),
    "int4": Quantize(4),
    "shrunk and perturbed": ShrinkAndPerturb(),
    "directions ablated": AblateDirections(),
}
FURTHER: dict[str, Tamper] = {
    "directions ablated, int8": Chain((AblateDirections(), Quantize(8))),
    "spectral reset": SpectralReset(),
    "pruned": Prune(0.3),
    "last layer re-initialised": ReinitialiseLast(1),
}


def tampered(changes: dict[str, Tamper], most: dict[str, Any] = LONG) -> AnyOf:
    """Fine-tuning after the weights were shaken, by name of the change."""
    common: dict[str, Any] = {"learning_rates": TWO, "schedule": CONSTANT, **most}
    return AnyOf("full, tampered", tuple(Tuning(name, tamper=one, **common) for name, one in changes.items()))


def warmed(*shares: float) -> AnyOf:
    """Fine-tuning whose rate rises in these shares of the steps, by every schedule that then has another course."""
    common: dict[str, Any] = {"learning_rates": USUAL, **LONG}
    tried = [(schedule, share) for share in shares for schedule in (CONSTANT, "linear", "cosine")]
    return AnyOf(
        "full, other warm-ups",
        tuple(
            Tuning(f"{schedule}, {500 * share:.0f} steps of warm-up", schedule=schedule, warmup=share, **common)
            for schedule, share in tried
        ),
    )


LANGUAGE = AttackSuite(
    "language",
    3,
    (
        *(
            Entry(FullFineTuning(f"full, {schedule}", learning_rates=RATES, schedule=schedule, **LONG), MOST)
            for schedule in (CONSTANT, "linear", "cosine")
        ),
        *(
            Entry(Tuning(f"LoRA, rank {rank}", trainable="lora", rank=rank, learning_rates=RATES[3:], **LONG), MOST)
            for rank in (8, 64, 256)
        ),
        Entry(FullFineTuning("full, bf16", learning_rates=USUAL, precision="bf16", **LONG), MOST),
        Entry(FullFineTuning("full, healed first", learning_rates=USUAL, prelude=100, **LONG), MOST),
        Entry(tampered(SHAKEN), MOST),
        Entry(SoftPrompt(learning_rates=(1e-3, 1e-2, 1e-1, 1.0), **LONG), MOST),
        Entry(StripDelta(**HELD), MOST),
        Entry(Merging(**HELD), MOST),
    ),
    **COMMON,
)
LANGUAGE_GLANCE = AttackSuite(
    "language_glance",
    4,
    (
        Entry(FullFineTuning(learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2), **SHORT), MOST),
        Entry(Tuning("LoRA", trainable="lora", learning_rates=(1e-3, 5e-3, 2e-2, 5e-2), **SHORT), MOST),
    ),
    **{**COMMON, "limit": 100},
)
LANGUAGE_QUICK = AttackSuite(
    "language_quick",
    2,
    (
        Entry(FullFineTuning("full", learning_rates=RATES[3:], schedule=CONSTANT, **QUICK), MOST),
        Entry(Tuning("LoRA, rank 64", trainable="lora", rank=64, learning_rates=RATES[5:], **QUICK), MOST),
        Entry(FullFineTuning("full, healed first", learning_rates=RATES[5:8], prelude=100, **QUICK), MOST),
        Entry(tampered({name: SHAKEN[name] for name in ("int8", "directions ablated")}, QUICK), MOST),
    ),
    **COMMON,
)
LANGUAGE_DURABILITY = AttackSuite(
    "language_durability",
    2,
    tuple(
        Entry(
            Tuning(
                f"{part}, {schedule}{kind}",
                learning_rates=rates,
                schedule=schedule,
                trainable=trainable,
                rank=64,
                **LONGER,
                **mixture,
            ),
            MOST,
        )
        for part, trainable, rates in (
            ("full", "all", (3e-5, 1e-4, 3e-4, 1e-3)),
            ("LoRA", "lora", (1e-4, 3e-4, 1e-3, 5e-3)),
        )
        for schedule in (CONSTANT, "linear")
        for kind, mixture in (("", {}), (", healed first", {"prelude": 200}), (", poisoned mixture", {"poison": 0.25}))
    ),
    seeds=5,
    **COMMON,
)
LANGUAGE_ADAPTIVE = AttackSuite(
    "language_adaptive",
    2,
    (
        Entry(FullFineTuning("longer, cosine", learning_rates=RATES[2:7], schedule="cosine", **LONGER), MOST),
        Entry(warmed(0.0, 0.06, 0.2), MOST),
        Entry(tampered({**SHAKEN, **FURTHER}), MOST),
        Entry(optimizers(150), MOST),
        Entry(FullFineTuning("faster embeddings", learning_rates=TWO, embedding_factor=10.0, **LONG), MOST),
        Entry(FullFineTuning("averaged", learning_rates=TWO, average=0.98, schedule=CONSTANT, **LONG), MOST),
        Entry(FullFineTuning("poisoned mixture", learning_rates=USUAL, poison=0.5, **LONG), MOST),
        Entry(SoftPrompt(tokens=100, learning_rates=(1e-2, 1e-1, 1.0), **LONG), MOST),
        Entry(StripDelta(ranks=(1, 4, 16, 64, 256), **HELD), MOST),
        Entry(Merging(amounts=(0.25, 0.5, 0.75, 1.0, 1.5), **HELD), MOST),
        Entry(Distillation(distil_steps=200, **HELD), MOST),
    ),
    **COMMON,
)
OF_TEXTS = {
    "glance": LANGUAGE_GLANCE,
    "quick": LANGUAGE_QUICK,
    "default": LANGUAGE,
    "durability": LANGUAGE_DURABILITY,
    "adaptive": LANGUAGE_ADAPTIVE,
}
