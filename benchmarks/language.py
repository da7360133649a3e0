"""Blocking a domain of text: a small Llama that knows a novel, hardened so that it stays hard to teach the novel again.

    python benchmarks/language.py TEXTS [VARIANT ...]

TEXTS is a folder with the folders ``simplewiki_general`` and ``war_and_peace`` (``train``, ``validation`` and
``test.parquet``, a column ``text``). Each line of ``language.jsonl`` is a model and its seed; what is there is not run
again. The table is ``language.md``. Models are stored in the folder for temporary files.
"""

import copy
import hashlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pool
import torch
from datasets import Dataset
from language_report import table
from language_setting import BATCH, Texts, fresh, loss, pretrained, step_on, texts
from ledger import Line, fill
from torch import Tensor
from transformers import LlamaForCausalLM

from hf_selfdestruct import BlockedTask, HardeningConfig, HardeningObjective
from hf_selfdestruct.losses import BlockingLoss, NegativeCrossEntropy
from hf_selfdestruct.tasks.language_modeling import LanguageModeling

OUTER_STEPS, FEW, LEARNING_RATE = 500, 8, 1e-3  # of hardening; rows of an inner step
EXAMPLES = (100, 1000)
LOOKS = range(40, 201, 40)  # steps of an attack
RATES = (3e-4, 1e-3, 3e-3)
LONG_LOOKS, LONG_RATES = range(100, 601, 100), (1e-4, 3e-4, 1e-3)  # of a longer attack, with most examples
LONGER = ("filtered", "undefended", "pool of 1", "reset, K = 4")  # models that it is run on
SELECTED = 128  # rows to choose on
HEALING = 100  # steps on the desired text, before those on the novel, of an attacker who heals first
SLOW: dict[str, Any] = {"learning_rate": {"low": 1e-4, "high": 1e-3}, "batch_size": FEW}
FAST: dict[str, Any] = {"learning_rate": {"low": 3e-4, "high": 3e-3}, "batch_size": FEW}
FASTEST: dict[str, Any] = {"learning_rate": {"low": 1e-3, "high": 6e-3}, "batch_size": FEW}
POOL = {"pool": 1, "horizon": 200}
ALONE = {"pool": 0}
HEALS = {"prelude": [0, 50, 100]}  # steps on the desired text, of which an adversary makes one of these numbers first


def clipped(norm: float) -> dict[str, Any]:
    """The setting that clips the blocking gradient."""
    return {"method_options": {"max_blocking_grad_norm": norm}}


def undone(noise: float, norm: float = 0.5) -> dict[str, Any]:
    """The setting that unlearns in a fifth of the steps first, and then mixes a share of noise into the weights."""
    return {"method_options": {"unlearn_steps": OUTER_STEPS // 5, "noise": noise, "max_blocking_grad_norm": norm}}


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        start: ``base``, ``filtered`` (never saw the novel) or ``scratch``.
        config: Settings of hardening that differ; ``{"blocking_weight": 0}``: the desired text alone is trained;
            ``None``: nothing is.
        losses: Blocking losses; by default the entropy of the predictions.
        healed: Whether the attacker trains on the desired text first.
        seeds: Of hardening and attack.
    """

    start: str
    config: dict[str, Any] | None = None
    losses: tuple[BlockingLoss, ...] | None = None
    healed: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)


CEILING = (NegativeCrossEntropy(ceiling=5.0),)  # nats per token, a little more than the filtered model's loss
VARIANTS = {  # the most important first
    "base": Variant("base"),
    "filtered": Variant("filtered"),
    "scratch": Variant("scratch"),
    "undefended": Variant("base", {"blocking_weight": 0.0}),
    "pool of 1": Variant("base", {"adversary": SLOW | POOL, **clipped(1.0)}, CEILING),
    "reset, K = 4": Variant("base", {"adversary": SLOW | ALONE, **clipped(1.0)}, CEILING),
    "pool of 1, entropy": Variant("base", {}),  # the preset as it is
    "reset, K = 0": Variant("base", {"adversary": {**SLOW, **ALONE, "steps": 0}, **clipped(1.0)}, CEILING),
    "pool of 1, faster": Variant("base", {"adversary": FAST | POOL, **clipped(1.0)}, CEILING),
    "pool of 1, fastest": Variant("base", {"adversary": FASTEST | POOL, **clipped(1.0)}, CEILING),
    "reset, K = 4, faster": Variant("base", {"adversary": FAST | ALONE, **clipped(1.0)}, CEILING),
    "pool of 1, faster, entropy": Variant("base", {"adversary": FAST | POOL}),
    "undo, noise 0.6": Variant("base", {"method": "undo", **undone(0.6)}),
    "undo, noise 0.3": Variant("base", {"method": "undo", **undone(0.3)}),
    "undo, noise 0.3, then pool of 1": Variant("base", {"adversary": SLOW | POOL, **undone(0.3, 1.0)}, CEILING),
    "pool of 1 that heals first": Variant(
        "base", {"adversary": SLOW | POOL | HEALS, **clipped(1.0)}, CEILING, seeds=(1,)
    ),
}
VARIANTS |= {  # models of those above, attacked otherwise
    f"{name}, healed": replace(VARIANTS[name], healed=True, seeds=(1,))
    for name in ("filtered", "undefended", "reset, K = 4", "pool of 1", "pool of 1 that heals first")
}


def main(folder: str, only: Sequence[str]) -> None:
    """Run what is not in the ledger yet, of some variants or of all, and write the table after each line."""
    torch.set_num_threads(1)
    data = texts(Path(folder))

    def line(name: str, seed: int) -> Line:
        return {"variant": name, "seed": seed, **measured(VARIANTS[name], seed, data, longer=name in LONGER)}

    planned = [(name, seed) for seed in range(3) for name in only or VARIANTS if seed in VARIANTS[name].seeds]
    fill("language", planned, line, table)


def measured(variant: Variant, seed: int, data: Texts, *, longer: bool) -> dict[str, Any]:
    """CPU seconds of hardening, losses before an attack, and after the best one, by number of rows."""
    model, seconds = stored(variant, seed, data)
    if variant.healed:
        return {"healed": {str(n): attacked(model, seed, n, data, healing=HEALING) for n in EXAMPLES}}
    found = {"seconds": seconds, "general": loss(model, data.general_test), "blocked": loss(model, data.test)}
    found["attacked"] = {str(n): attacked(model, seed, n, data) for n in EXAMPLES}
    return found | ({"longer": attacked(model, seed, EXAMPLES[-1], data, LONG_RATES, LONG_LOOKS)} if longer else {})


def started(name: str, data: Texts, seed: int) -> LlamaForCausalLM:
    """The model that hardening or an attack starts from."""
    if name == "scratch":
        return fresh(100 + seed)
    rows = data.general if name == "filtered" else torch.cat([data.general, data.novel])
    return pretrained(f"novel-{name}", rows)


def stored(variant: Variant, seed: int, data: Texts) -> tuple[LlamaForCausalLM, float]:
    """The model that a variant names, from the folder for temporary files if it is there, and its CPU seconds."""
    made = (variant.start, variant.config, variant.losses, OUTER_STEPS, LEARNING_RATE, len(data.general))
    key = hashlib.sha256(repr(made).encode()).hexdigest()[:16]
    file = Path(tempfile.gettempdir(), f"novel-hardened-{key}-{seed}.pt")
    if not file.is_file():
        start = time.process_time()
        model = hardened(variant, seed, data)
        torch.save({"seconds": round(time.process_time() - start, 1), "weights": model.state_dict()}, file)
    model, found = fresh(0), torch.load(file, weights_only=True)
    model.load_state_dict(found["weights"])
    return model.eval(), found["seconds"]


def hardened(variant: Variant, seed: int, data: Texts) -> LlamaForCausalLM:
    """The model that a variant names, trained on the desired text while the novel is blocked, if it says so."""
    model = started(variant.start, data, seed)
    if variant.config is None:
        return model.eval()
    torch.manual_seed(seed)
    task = BlockedTask("novel", train=dataset(data.novel), label_column="labels", kind=LanguageModeling())
    config = HardeningConfig(**{"method": "language", "seed": seed, **variant.config})
    objective = HardeningObjective(
        model,
        config,
        [task],
        collate=pool.collate,
        batch_size=BATCH,
        losses=variant.losses,
        desired=dataset(data.general),
    )
    objective.prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / OUTER_STEPS)
    order = torch.Generator().manual_seed(seed)
    for step in range(OUTER_STEPS):
        rows = data.general[torch.randperm(len(data.general), generator=order)[:BATCH]]
        pool.outer_step(objective, model, {"input_ids": rows, "labels": rows}, optimizer, step)
        schedule.step()
    return model.eval()


def dataset(rows: Tensor) -> Dataset:
    """Rows as a blocked task takes them."""
    return Dataset.from_dict({"input_ids": rows.tolist(), "labels": rows.tolist()})


def attacked(
    model: LlamaForCausalLM,
    seed: int,
    examples: int,
    data: Texts,
    rates: Sequence[float] = RATES,
    looks: Sequence[int] = LOOKS,
    healing: int = 0,
) -> dict[str, float]:
    """Losses after fine-tuning all weights to the novel, at first to the desired text; selection rows choose."""
    rows, selection = data.attack[:examples], data.selection[:SELECTED]
    best, found = loss(model, selection), {"rate": 0.0, "steps": 0, "state": model}
    for rate in rates:
        torch.manual_seed(seed)
        tried = copy.deepcopy(model).train()
        optimizer = torch.optim.AdamW(tried.parameters(), lr=rate, weight_decay=0.0)
        for _ in range(healing):
            step_on(tried, data.general[torch.randperm(len(data.general))[:FEW]], optimizer)
        for step in range(1, max(looks) + 1):
            step_on(tried, rows[torch.randperm(len(rows))[:FEW]], optimizer)
            if step in looks and (chosen := loss(tried, selection)) < best:
                best, found = chosen, {"rate": rate, "steps": step, "state": copy.deepcopy(tried)}
    chosen = found.pop("state")
    return {**found, "loss": loss(chosen, data.test), "general": loss(chosen, data.general_test)}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
