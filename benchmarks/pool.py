"""What a pool of adversaries adds: small networks, hardened with and without it, then fine-tuned.

    python benchmarks/pool.py [VARIANT ...]

Each line of ``pool.jsonl`` is a variant and a seed of it; what is there is not run again. The tables are ``pool.md``.
Bases are stored in the folder for temporary files.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from digits import DIGITS, HARMLESS, TRANSFORMER
from every_layer import read
from fine_tuned import attacked, base
from ledger import Line, fill
from pool_report import tables
from pool_variants import VARIANTS, Variant, plan
from setting import Setting
from signs import SIGNS
from torch import Tensor
from torch.nn.functional import kl_div

from hf_selfdestruct import BlockedTask, HardeningConfig, HardeningObjective

SETTINGS = {setting.name: setting for setting in (SIGNS, DIGITS, TRANSFORMER)}
BATCH, RECOVERY = 64, 500  # rows of an outer step; steps of distillation after noise
LONG_RATES = ((1e-3, 0.0), (3e-3, 0.3), (1e-2, 0.0))  # and weight decays: fewer, for attacks of many steps


def main(only: Sequence[str]) -> None:
    """Run what is not in the ledger yet, of some variants or of all, and write the tables after each line."""
    torch.set_num_threads(1)

    def line(name: str, seed: int) -> Line:
        return {"variant": name, "seeds": [seed], **measured(VARIANTS[name], seed)}

    fill("pool", [(name, seed) for name, seed in plan() if not only or name in only], line, tables)


def measured(variant: Variant, seed: int) -> dict[str, Any]:
    """What a line of the ledger contains: CPU seconds of hardening, desired accuracy, and what attacks reach."""
    setting = SETTINGS[variant.setting]
    origin = started(setting, variant.start, seed)
    start = time.process_time()
    model = hardened(setting, origin, variant, seed)
    seconds = time.process_time() - start
    inputs, desired, _ = setting.rows(4000, 1, "test")
    kept = (model(inputs).logits.argmax(1) == desired).float().mean().item()
    found: dict[str, Any] = {"seconds": round(seconds, 1), "desired": [round(kept, 4)]}
    if variant.harmless:
        scores = {
            task: attacked(other, [model], n)[0][-1] for task, other in HARMLESS.items() for n in variant.examples
        }
        return found | {"harmless": {task: [round(score, 4)] for task, score in scores.items()}}
    if variant.every_layer:
        both = {str(n): [round(score, 4) for score in read(setting, model, n)] for n in variant.examples}
        return found | {
            "probed": {n: [one[0]] for n, one in both.items()},
            "blocked": {n: [one[1]] for n, one in both.items()},
        }
    if variant.looks is None:
        found["blocked"] = {str(n): [round(attacked(setting, [model], n)[0][-1], 4)] for n in variant.examples}
    else:
        curves = {n: attacked(setting, [model], n, looks=variant.looks, rates=LONG_RATES)[0] for n in variant.examples}
        found["by_step"] = {str(n): [[round(value, 4) for value in curve]] for n, curve in curves.items()}
    return found


def based(setting: Setting, seed: int) -> Any:
    """A base; the last two of five were trained apart from the first three."""
    seeds = (0, 1, 2) if seed < 3 else (3, 4)
    file = Path(tempfile.gettempdir(), f"{setting.name}-{seeds[0]}.pt")
    if not file.is_file():
        torch.save([model.state_dict() for model in base(setting, seeds)], file)
    model = setting.fresh(0)
    model.load_state_dict(torch.load(file, weights_only=True)[seeds.index(seed)])
    return model


def started(setting: Setting, kind: str | float, seed: int) -> Any:
    """The model that hardening starts from: the base, random weights, or a recovered mixture of both."""
    if kind == "base":
        return based(setting, seed)
    random = setting.fresh((100 if kind == "scratch" else 200) + seed)
    return random if isinstance(kind, str) else recovered(setting, based(setting, seed), random, kind, seed)


def recovered(setting: Setting, teacher: Any, random: Any, share: float, seed: int) -> Any:
    """A model with a share of random weights, distilled from the model that it was (as UNDO does, 2506.06278)."""
    model = setting.fresh(0)
    known, noise = teacher.state_dict(), random.state_dict()
    model.load_state_dict({n: (1 - share) * known[n] + share * noise[n] for n in known})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(RECOVERY):
        inputs, *_ = setting.rows(BATCH, 1_000_000 * (seed + 51) + step, "train")
        with torch.no_grad():
            wanted = teacher(inputs).logits.log_softmax(-1)
        optimizer.zero_grad()
        kl_div(model(inputs).logits.log_softmax(-1), wanted, reduction="batchmean", log_target=True).backward()
        optimizer.step()
    return model


def hardened(setting: Setting, start: Any, variant: Variant, seed: int) -> Any:
    """A copy of a model, trained on the desired task while the blocked one is blocked, if the variant says so."""
    if variant.adversary is None:
        return start
    torch.manual_seed(seed)
    model = setting.fresh(0)
    model.load_state_dict(start.state_dict())
    name = model.main_input_name
    inputs, _, labels = setting.rows(8000, 10 + seed, "train")
    data = Dataset.from_dict({name: list(range(len(labels))), "label": labels.tolist()})
    objective = HardeningObjective(
        model,
        HardeningConfig(**variant.config(), seed=seed),
        [InMemory("blocked", train=data, name_of_inputs=name, inputs=inputs)],
        collate=collate,
        batch_size=BATCH,
    )
    objective.prepare(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=setting.learning_rate)
    for step in range(variant.steps):
        few, labels, _ = setting.rows(BATCH, 1_000_000 * (seed + 1) + step, "train")
        batch = {name: few, "labels": labels}
        outer_step(objective, model, batch, optimizer, step)
    return model


def outer_step(
    objective: HardeningObjective, model: Any, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """One step of the desired task on a batch, with what hardens beside it; gradients are clipped to 1."""
    total, _ = objective(model, batch, model(**batch).loss, step)
    total.backward()
    objective.before_optimizer_step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    objective.after_optimizer_step()
    optimizer.zero_grad()


@dataclass(frozen=True, eq=False)
class InMemory(BlockedTask):
    """A blocked task that reads rows from a tensor: from datasets they would take as long as all gradients of a step.

    Args:
        name_of_inputs: As the model takes them.
        inputs: Those of ``train``.
    """

    name_of_inputs: str = ""
    inputs: Tensor | None = None

    def features(self, split: str, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Rows as the collator takes them."""
        assert self.inputs is not None
        name, labels = self.name_of_inputs, self.labels(split)[list(rows)].tolist()
        return [{name: one, "labels": label} for one, label in zip(self.inputs[list(rows)], labels, strict=True)]


def collate(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of rows."""
    return {name: torch.stack([torch.as_tensor(one[name]) for one in features]) for name in features[0]}


if __name__ == "__main__":
    main(sys.argv[1:])
