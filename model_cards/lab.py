"""The lab book: harden variants of a configuration, glance at each, keep one line per variant, draw the table.

    python model_cards/lab.py model_cards/lab/variants.yaml --data.path DIR --data.keep_path DIR --model MODEL

Each variant changes some arguments of a configuration; ``base`` and ``scratch`` are what every table needs. Killed
half-way, the same command goes on: what is in ``ledger.jsonl`` is not run again.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from datasets import DatasetDict
from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_selfdestruct.attacks import Target, named_suite
from hf_selfdestruct.config import HardenConfig, load_config
from hf_selfdestruct.corpus import load_data, load_kept
from hf_selfdestruct.recipe import blocked_tasks, trainer_of
from hf_selfdestruct.similarity import NAME, to_base

SUITE = "glance"
REFERENCES = {"base": False, "scratch": True}
RUNS = Path("lab-runs")


def main(variants: str, *overrides: str) -> None:
    """Run what is not in the ledger yet, then write the table."""
    source = Path(variants)
    ledger = source.with_name("ledger.jsonl")
    RUNS.mkdir(exist_ok=True)
    done = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []
    known = {(line["setting"], line["variant"]) for line in done}
    for variant in yaml.safe_load(source.read_text()):
        setting, name, training = Path(variant["config"]).stem, variant["name"], variant.get("training", {})
        if (setting, name) not in known:
            folder = RUNS / f"{setting}-{name.replace(' ', '-')}"
            words = [word for key, value in training.items() for word in (f"--{key}", str(value))]
            config = load_config(variant["config"], [*overrides, *words, "--output_dir", str(folder)])
            line = {"setting": setting, "variant": name, "training": training, **_run(config, name, folder)}
            with ledger.open("a") as file:
                file.write(json.dumps(line) + "\n")
            done.append(line)
        source.with_name("TABLE.md").write_text(_table(done))


def _run(config: HardenConfig, name: str, folder: Path) -> dict[str, Any]:
    """What a glance tells about a reference, or about a model hardened now."""
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    data = load_data(config, tokenizer)
    if name in REFERENCES:
        found, target = {}, Target(name, config.model, random=REFERENCES[name])
    else:
        found, target = _hardened(config, data, tokenizer, folder), Target("hardened", str(folder))
    report = named_suite(SUITE).run(
        [target],
        blocked_tasks(config, data),
        columns=tokenizer.model_input_names,
        collate=DataCollatorWithPadding(tokenizer),
        storage=f"sqlite:///{RUNS / 'attacks.db'}",
    )
    scores: dict[str, list[float]] = {}
    for run in report.runs:
        if run.chosen and run.test and run.role == target.role:
            scores.setdefault(run.attack, []).append(run.test.accuracy)
    return {**found, "attacks": {attack: round(statistics.fmean(values), 4) for attack, values in scores.items()}}


def _hardened(
    config: HardenConfig, data: DatasetDict, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> dict[str, float]:
    """Harden into a folder; what it cost and what is left of the desired task and of general use."""
    kept = load_kept(config.data, tokenizer)
    trainer, started = trainer_of(config, data, tokenizer, kept=kept), time.perf_counter()
    trainer.train()
    found: dict[str, float] = {"seconds": round(time.perf_counter() - started)}
    trainer.save_model()
    found["desired"] = round(trainer.evaluate(data["test"])["eval_accuracy"], 4)
    if kept:
        columns, collate = trainer.input_columns, trainer.blocked_collator
        found |= to_base(trainer.model, folder / "_base", kept["test"], columns=columns, collate=collate)
    return found


def _table(lines: list[dict[str, Any]]) -> str:
    names = sorted({attack for line in lines for attack in line["attacks"]})
    head = ["setting", "variant", "what differs", "desired", "similarity", *names, "seconds"]
    rows = [head, ["---"] * len(head)]
    for line in sorted(lines, key=lambda line: line["setting"]):
        differs = ", ".join(f"{name} {value}" for name, value in line["training"].items())
        numbers = [line.get("desired"), line.get(NAME), *(line["attacks"].get(name) for name in names)]
        shown = ["" if number is None else f"{number:.3f}" for number in numbers]
        rows.append([line["setting"], line["variant"], differs, *shown, str(line.get("seconds", ""))])
    text = (
        f"# Lab book\n\nOne hardening seed each, suite `{SUITE}`: to choose by. Accuracy on test, mean over attack "
        "seeds.\n\n"
    )
    return text + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
