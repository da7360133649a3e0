"""What a pool of adversaries adds: parities of hidden signs, hardened with and without it, then fine-tuned.

    python benchmarks/pool.py

Each line of ``pool.jsonl`` is a variant; what is there is not run again. The table is ``pool.md``.
"""

import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from signs import Signs, attacked, base, fresh, rows

from hf_selfdestruct import BlockedTask, HardeningConfig, HardeningObjective

HERE = Path(__file__).parent
SEEDS, STEPS, BATCH, EXAMPLES = (0, 1, 2), 1000, 64, (50, 200, 500)
SLOW, USUAL, FAST = {"low": 1e-4, "high": 1e-3}, {"low": 3e-4, "high": 3e-3}, {"low": 1e-3, "high": 1e-2}
RESET: dict[str, Any] = {"learning_rate": USUAL, "batch_size": BATCH, "head_learning_rate": 1e-2}
POOL: dict[str, Any] = {**RESET, "pool": 8, "horizon": 200}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "base": None,
    "scratch": None,
    "undefended": {"blocking_weight": 0.0},
    "reset, K = 0": {"adversary": {**RESET, "steps": 0}},
    "reset, K = 4": {"adversary": RESET},
    "pool of 1": {"adversary": {**POOL, "pool": 1}},
    "pool of 8": {"adversary": POOL},
    "pool of 8, T = 40": {"adversary": {**POOL, "horizon": 40}},
    "pool of 8, T = 800": {"adversary": {**POOL, "horizon": 800}},
    "pool of 8, rates 1e-4 to 1e-3": {"adversary": {**POOL, "learning_rate": SLOW}},
    "pool of 8, rates 1e-3 to 1e-2": {"adversary": {**POOL, "learning_rate": FAST}},
}
COMMON: dict[str, Any] = {
    "method": "mlac_fast",  # first order, K = 4
    "blocking_loss": "uniform_kl",
    "blocking_batch_size": 128,
    "method_options": {"max_blocking_grad_norm": 0.5},
}


def main() -> None:
    """Run what is not in the ledger yet, then write the table."""
    torch.set_num_threads(1)
    ledger = HERE / "pool.jsonl"
    done = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []
    bases = base(SEEDS)
    inputs, desired, _ = rows(4000, 1)
    for name, settings in VARIANTS.items():
        if name in {line["variant"] for line in done}:
            continue
        start = time.process_time()
        models = [fresh(100 + seed) for seed in SEEDS] if name == "scratch" else bases
        if settings is not None:
            models = [hardened(model, settings, seed) for seed, model in zip(SEEDS, models, strict=True)]
        seconds = (time.process_time() - start) / len(SEEDS)
        kept = [(model(inputs).logits.argmax(1) == desired).float().mean().item() for model in models]
        reached = {n: attacked(models, n) for n in EXAMPLES}
        line = {"variant": name, "seconds": round(seconds, 1), "desired": rounded(kept)}
        done.append({**line, "blocked": {str(n): rounded(values) for n, values in reached.items()}})
        with ledger.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        (HERE / "pool.md").write_text(table(done), encoding="utf-8")


def hardened(start: Signs, settings: dict[str, Any], seed: int) -> Signs:
    """A copy of a model, trained on the desired parity while the blocked one is blocked."""
    torch.manual_seed(seed)
    model = fresh(0)
    model.load_state_dict(start.state_dict())
    inputs, _, labels = rows(8000, 10 + seed)
    data = Dataset.from_dict({"signs": inputs.tolist(), "label": labels.tolist()})
    objective = HardeningObjective(
        model,
        HardeningConfig(**COMMON, **settings, seed=seed),
        [BlockedTask("parity", train=data)],
        collate=collate,
        batch_size=BATCH,
    )
    objective.prepare(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(STEPS):
        signs, labels, _ = rows(BATCH, 1_000_000 * (seed + 1) + step)
        loss = model(signs, labels).loss
        total, _ = objective(model, {"signs": signs, "labels": labels}, loss, step)
        total.backward()
        objective.before_optimizer_step()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        objective.after_optimizer_step()
        optimizer.zero_grad()
    return model


def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of rows."""
    return {
        "signs": torch.tensor([one["signs"] for one in features]),
        "labels": torch.tensor([one["labels"] for one in features]),
    }


def table(lines: Iterable[dict[str, Any]]) -> str:
    """All variants, mean ± standard deviation over hardening seeds."""
    head = " | ".join(f"blocked, n = {n}" for n in EXAMPLES)
    found = [
        "# What a pool of adversaries adds",
        "",
        "Parities of hidden signs, which no linear probe reads (`signs.py`): the product of two signs is desired, that "
        f"of three others blocked. {STEPS} outer steps, first order, K = 4 where nothing else is said; an adversary's "
        "rate is drawn from 3e-4 to 3e-3. *Blocked* is the test accuracy after fine-tuning of all weights with n "
        "examples for up to 500 steps, four rates searched on selection rows. Mean ± standard deviation over "
        f"{len(SEEDS)} seeds of base and hardening; CPU seconds of each hardening.",
        "",
        f"| hardened by | seconds | desired | {head} |",
        "|---|---|---|" + "---|" * len(EXAMPLES),
    ]
    for line in lines:
        cells = [spread(line["desired"]), *(spread(line["blocked"][str(n)]) for n in EXAMPLES)]
        seconds = f"{line['seconds']:.0f}" if VARIANTS[line["variant"]] is not None else ""
        found.append(f"| {line['variant']} | {seconds} | {' | '.join(cells)} |")
    return "\n".join(found) + "\n"


def rounded(values: list[float]) -> list[float]:
    """To four decimals, as they are on file."""
    return [round(value, 4) for value in values]


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
