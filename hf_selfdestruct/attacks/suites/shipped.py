"""The shipped suites: frozen and versioned, so that reports of the same suite compare."""

from __future__ import annotations

from collections.abc import Iterable

from ...tasks.kind import TaskKind
from ..methods.fine_tuning import FullFineTuning, Tuning
from ..methods.forensics import TiedWords
from ..methods.joined_fine_tuning import JoinedProbedFirst
from ..methods.pair_fine_tuning import PairProbedFirst
from ..methods.pair_probe import PairProbe
from ..methods.probed_first import ProbedFirst
from ..methods.probes import HeadOnly
from ..methods.sibling import Distillation, Merging
from .attack_list import Entry
from .diffusion import DIFFUSION
from .images import IMAGES
from .language import OF_TEXTS
from .papers import MLAC, SOPHON
from .suite import AttackSuite
from .variants import (
    FASTER_EMBEDDINGS,
    FLOORS,
    JOINED,
    LAYERS,
    OTHER_PROBES,
    fresh_embeddings,
    optimizers,
    pair_probed_first,
    parts,
    patient,
    probed_first,
    tampered,
)

ALL = (20, 50, 100, 200, 400, None)
MOST = (None,)
PAIRS = PairProbe(whitened=FLOORS)
PROBES = (
    Entry(HeadOnly(whitened=FLOORS), ALL, refit=True),
    Entry(LAYERS, ALL, refit=True),
    Entry(JOINED, ALL, refit=True),
    Entry(PAIRS, ALL, refit=True),
    Entry(TiedWords(), ALL, refit=True),
    Entry(OTHER_PROBES, MOST, refit=True),
)
RATES = (2e-5, 6e-5, 2e-4, 6e-4, 2e-3)


SMOKE = AttackSuite(
    "smoke",
    5,
    (
        Entry(HeadOnly(), (20, 100, None)),
        Entry(HeadOnly(every_layer=True), MOST),
        Entry(ProbedFirst(learning_rates=(5e-5,), steps=(20,), looks=2), MOST),
    ),
    few_seeds=3,
    limit=300,
    more=None,
    null=False,
)
GLANCE = AttackSuite(
    "glance",
    7,
    (
        Entry(LAYERS, MOST),
        Entry(PAIRS, MOST),
        Entry(FullFineTuning(learning_rates=RATES[1:3], steps=(160,), looks=2), MOST),
        Entry(PairProbedFirst(learning_rates=RATES[1:3], steps=(160,), looks=2), MOST),
    ),
    more=None,
    choosing=True,
)
# For small models, which take higher rates than large ones. No setting is given up: a whole run is short.
SMALL_RATES = (3e-4, 1e-3, 3e-3)
SMALL = AttackSuite(
    "small",
    3,
    (
        Entry(LAYERS, (100, None)),
        Entry(JOINED, (100, None)),
        Entry(FullFineTuning(learning_rates=SMALL_RATES, steps=(300,), looks=3), (100, None)),
        Entry(JoinedProbedFirst(learning_rates=SMALL_RATES[:2], steps=(300,), looks=3), MOST),
    ),
    more=None,
    null=False,
)
SEARCHED = FullFineTuning("full fine-tuning, searched", learning_rates=RATES[1:4], steps=(160,), looks=4, prune=True)
PROBED_FIRST = ProbedFirst(learning_rates=(5e-5, 2e-4, 6e-4), steps=(320,), looks=4, prune=True)
PAIR_PROBED_FIRST = PairProbedFirst(learning_rates=(5e-5, 2e-4, 6e-4), steps=(320,), looks=4, prune=True)
SHORTER = ProbedFirst("probe, then shorter fine-tuning", learning_rates=RATES[2:4], steps=(160,), looks=4, prune=True)
QUICK = AttackSuite(
    "quick", 8, (*PROBES, Entry(PROBED_FIRST, MOST, refit=True), Entry(PAIR_PROBED_FIRST, MOST, refit=True))
)
DEFAULT = AttackSuite(
    "default",
    10,
    (
        *PROBES,
        Entry(SHORTER, (400,)),
        Entry(probed_first(320, RATES[2:4]), MOST, refit=True),
        Entry(pair_probed_first(320, RATES[2:4]), MOST, refit=True),
        Entry(patient(400), MOST),
        Entry(SEARCHED, MOST),
        Entry(parts(90), MOST),
        Entry(optimizers(48), MOST),
        Entry(tampered(48), MOST),
    ),
)
DURABILITY = AttackSuite(
    "durability",
    5,
    tuple(
        Entry(
            Tuning(
                f"{part}, {schedule}{kind}",
                learning_rates=rates,
                steps=(300,),
                looks=5,
                schedule=schedule,
                trainable=trainable,
                prune=True,
                **mixture,
            ),
            (100, None),
        )
        for part, trainable, rates in (
            ("full fine-tuning", "all", (2e-5, 1e-4, 5e-4)),
            ("LoRA", "lora", (2e-4, 1e-3, 5e-3)),
        )
        for schedule in ("constant_with_warmup", "cosine")
        for kind, mixture in (("", {}), (", healed first", {"prelude": 100}), (", poisoned mixture", {"poison": 0.25}))
    ),
    seeds=5,
)
LONGER = FullFineTuning(
    "longer fine-tuning", learning_rates=(3e-5, 1e-4, 3e-4, 1e-3), steps=(640,), looks=4, prune=True, schedule="cosine"
)
ADAPTIVE = AttackSuite(
    "adaptive",
    11,
    (
        Entry(LAYERS, MOST, refit=True),
        Entry(JOINED, MOST, refit=True),
        Entry(PAIRS, MOST, refit=True),
        Entry(TiedWords(), MOST, refit=True),
        Entry(OTHER_PROBES, MOST, refit=True),
        Entry(LONGER, MOST),
        Entry(probed_first(640, RATES[1:4], further=True), MOST, refit=True),
        Entry(pair_probed_first(640, RATES[1:4], further=True), MOST, refit=True),
        Entry(patient(1000), MOST, refit=True),
        Entry(FASTER_EMBEDDINGS, MOST),
        Entry(fresh_embeddings(150), MOST),
        Entry(tampered(150), (100, None)),
        Entry(optimizers(150), (100, None)),
        Entry(
            Tuning(
                "benign fine-tuning, then a head", trainable="head", prelude=200, learning_rates=(3e-4,), steps=(100,)
            ),
            MOST,
        ),
        Entry(Merging(), MOST),
        Entry(Distillation(), MOST),
    ),
)
FULL = AttackSuite(
    "full",
    9,
    (
        *PROBES,
        Entry(
            ProbedFirst(learning_rates=RATES, steps=(320,), looks=4, prune=True),
            ALL,
        ),
        Entry(PairProbedFirst(learning_rates=RATES, steps=(320,), looks=4, prune=True), ALL),
        Entry(probed_first(640, RATES[1:4], further=True), MOST, refit=True),
        Entry(pair_probed_first(640, RATES[1:4], further=True), MOST, refit=True),
        Entry(patient(1000), MOST, refit=True),
        Entry(OTHER_PROBES, (100, 400)),
        Entry(FullFineTuning(learning_rates=RATES, steps=(100, 300), looks=4, prune=True), ALL),
        Entry(
            FullFineTuning(
                "long fine-tuning", learning_rates=RATES, steps=(2000,), looks=10, prune=True, schedule="cosine"
            ),
            MOST,
        ),
        Entry(parts(300, 2, 32), (100, 400, None)),
        Entry(optimizers(300), (100, None)),
        Entry(tampered(300), (100, None)),
        Entry(FASTER_EMBEDDINGS, (100, None)),
        Entry(fresh_embeddings(300), MOST),
        Entry(Merging(amounts=(0.25, 0.5, 0.75, 1.0, 1.5), steps=150), MOST),
        Entry(Distillation(distil_steps=300, steps=150), MOST),
    ),
    seeds=5,
)
SUITES = {
    suite.name: suite
    for suite in (
        *(SMOKE, SMALL, GLANCE, IMAGES, DIFFUSION, QUICK, DEFAULT, MLAC, SOPHON, DURABILITY, ADAPTIVE, FULL),
        *OF_TEXTS.values(),
    )
}


def named_suite(name: str, kinds: Iterable[TaskKind] = ()) -> AttackSuite:
    """The shipped suite of this name; some names mean one for each kind of task.

    Args:
        name: Its name.
        kinds: Of the tasks to be attacked; without any, the suite that has the name.

    Raises:
        ValueError: There is none, or one that would be chosen by the kind of task is wanted for several kinds.
    """
    if name not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}; got {name!r}.")
    if name not in OF_TEXTS or not (found := dict.fromkeys(kind.name for kind in kinds)):
        return SUITES[name]
    if len(found) > 1:
        raise ValueError(
            f"suite {name!r} is chosen by the kind of task, and these tasks are of several: {', '.join(found)}. Attack "
            "the tasks of each kind apart from the others."
        )
    return OF_TEXTS[name] if [*found] == [OF_TEXTS[name].kind] else SUITES[name]
