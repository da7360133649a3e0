"""The shipped suite for classifiers of pictures that fit one core: convolutions, their statistics, moved pictures."""

from __future__ import annotations

from typing import Any

from ..attack import AnyOf
from ..methods.fine_tuning import FullFineTuning, Tuning
from ..methods.joined_fine_tuning import JoinedProbedFirst
from ..methods.probed_first import ProbedFirst
from ..methods.shot import Shot
from ..methods.tamper import Chain, Recalibrate, ReinitialiseLast, Rescale, Tamper
from .attack_list import Entry
from .suite import AttackSuite
from .variants import JOINED, LAYERS

MOST = (None,)
CROPS = 4  # pixels
# Settings compete after 67 steps: earlier, stored statistics of batch normalisation still lag behind the weights.
COMMON: dict[str, Any] = {"steps": (200,), "looks": 3, "prune": True}
SEARCHED = AnyOf(
    "full fine-tuning, searched",
    (
        Tuning("plain", learning_rates=(3e-4, 1e-3, 3e-3), **COMMON),
        Tuning("momentum", optimizers=("sgd",), learning_rates=(3e-2,), **COMMON),
        Tuning("stored statistics", batch_norm="stored", learning_rates=(3e-4, 1e-3), **COMMON),
        Tuning("moved pictures", crops=CROPS, learning_rates=(3e-4, 1e-3), **COMMON),
        Tuning(
            "stored statistics, moved pictures, averaged",
            batch_norm="stored",
            crops=CROPS,
            average=0.95,
            learning_rates=(1e-3,),
            **COMMON,
        ),
    ),
)


def _after(name: str, *changes: Tamper, **fields: Any) -> Tuning:
    return Tuning(name, learning_rates=(1e-3,), tamper=Chain(changes) if changes else None, **COMMON, **fields)


# Layers with fresh weights have no statistics yet: those of the attacker's pictures take the place of published ones.
TAMPERED = AnyOf(
    "tampered fine-tuning",
    (
        _after("last layer re-initialised", ReinitialiseLast(1), Recalibrate()),
        _after("two layers re-initialised", ReinitialiseLast(2), Recalibrate()),
        _after("statistics estimated afresh", Recalibrate(), batch_norm="stored"),
        _after("rescaled", Recalibrate(), Rescale()),
        _after("healed first", prelude=40),
    ),
)
LONGER = FullFineTuning(
    "longer fine-tuning", learning_rates=(1e-3, 3e-3), steps=(360,), looks=5, schedule="cosine", crops=CROPS
)
PROBED_FIRST = AnyOf(
    "probe, then fine-tuning",
    (
        ProbedFirst("last layer", learning_rates=(1e-4, 1e-3), **COMMON),
        JoinedProbedFirst("all layers", learning_rates=(1e-4, 3e-4, 1e-3), **COMMON),
        JoinedProbedFirst("all layers, stored statistics", batch_norm="stored", learning_rates=(3e-4,), **COMMON),
        JoinedProbedFirst("all layers, moved pictures", crops=CROPS, learning_rates=(3e-4,), **COMMON),
    ),
)
# A step that adapts reads two batches; at 100 examples some rows without labels are left.
ADAPTED = Shot(learning_rates=(3e-4, 1e-3), steps=(120,), looks=4, batch_size=32)
IMAGES = AttackSuite(
    "images",
    2,
    (
        Entry(LAYERS, (20, 100, None), refit=True),
        Entry(JOINED, (20, 100, None), refit=True),
        Entry(SEARCHED, (100, None)),
        Entry(PROBED_FIRST, (100, None), refit=True),
        Entry(ADAPTED, (100,)),
        Entry(TAMPERED, MOST),
        Entry(LONGER, MOST),
    ),
    limit=1000,
    more=None,
)
