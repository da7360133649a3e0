"""The lab book: harden variants of a configuration, glance at each, keep one line per variant, draw the table.

    python model_cards/lab.py model_cards/lab/variants.yaml --data.path DIR --data.keep_path DIR --model MODEL

Each variant changes some arguments of a configuration; ``base`` and ``scratch`` are what every table needs. Killed
half-way, the same command goes on: what is in ``ledger.jsonl`` is not run again.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoTokenizer, DataCollatorWithPadding

from hf_selfdestruct.attacks import Target, named_suite
from hf_selfdestruct.config import HardenConfig, load_config, training_arguments
from hf_selfdestruct.corpus import load_data, load_kept
from hf_selfdestruct.recipe import accuracy, blocked_tasks, trainer_of
from hf_selfdestruct.similarity import NAME, rank_correlation

SUITE = "glance"
REFERENCES = {"base": False, "scratch": True}


def main(variants: str, *overrides: str) -> None:
    """Run what is not in the ledger yet, then write the table."""
    source = Path(variants)
    ledger, runs = source.with_name("ledger.jsonl"), Path("lab-runs")
    done = _read(ledger)
    for variant in yaml.safe_load(source.read_text()):
        known = {(line["variant"], line["setting"]) for line in done}
        config = _config(variant, overrides, runs)
        if (variant["name"], variant["config"]) not in known:
            line = {"variant": variant["name"], "setting": variant["config"], **_run(config, variant, runs)}
            with ledger.open("a") as file:
                file.write(json.dumps(line) + "\n")
            done.append(line)
        source.with_name("TABLE.md").write_text(_table(done))


def _config(variant: dict[str, Any], overrides: tuple[str, ...], runs: Path) -> HardenConfig:
    folder = runs / f"{Path(variant['config']).stem}-{variant['name'].replace(' ', '-')}"
    words = [word for name, value in variant.get("training", {}).items() for word in (f"--{name}", str(value))]
    return load_config(variant["config"], [*overrides, *words, "--output_dir", str(folder)])


def _run(config: HardenConfig, variant: dict[str, Any], runs: Path) -> dict[str, Any]:
    """Harden (or, for a reference, take) a model, and what a glance tells about it."""
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    data, kept = load_data(config, tokenizer), load_kept(config.data, tokenizer)
    found: dict[str, Any] = {"training": variant.get("training", {})}
    target = Target("base", config.model)
    if variant["name"] in REFERENCES:
        target = Target(variant["name"], config.model, random=REFERENCES[variant["name"]])
    else:
        trainer, started = trainer_of(config, data, tokenizer, kept=kept), time.perf_counter()
        base = type(trainer.model).from_pretrained(config.model, num_labels=trainer.model.config.num_labels)
        trainer.train()
        found["seconds"] = round(time.perf_counter() - started)
        trainer.save_model()
        trainer.compute_metrics = accuracy
        found["desired"] = trainer.evaluate(data["test"])["eval_accuracy"]
        if kept:
            collate = DataCollatorWithPadding(tokenizer)
            alike = {"columns": tokenizer.model_input_names, "collate": collate}
            found[NAME] = rank_correlation(trainer.model, base, kept["test"], **alike)
        target = Target("hardened", str(training_arguments(config).output_dir))
    report = named_suite(SUITE).run(
        [target],
        blocked_tasks(config, data),
        columns=tokenizer.model_input_names,
        collate=DataCollatorWithPadding(tokenizer),
        storage=f"sqlite:///{runs / 'attacks.db'}",
    )
    found["attacks"] = {r.attack: r.test.accuracy for r in report.runs if r.chosen and r.test and r.role != "raw"}
    return found


def _table(lines: list[dict[str, Any]]) -> str:
    names = sorted({attack for line in lines for attack in line["attacks"]})
    head = ["setting", "variant", "what differs", "desired", "similarity", *names, "seconds"]
    rows = [head, ["---"] * len(head)]
    for line in sorted(lines, key=lambda line: line["setting"]):
        differs = ", ".join(f"{name} {value}" for name, value in line["training"].items())
        numbers = [line.get("desired"), line.get(NAME), *(line["attacks"].get(name) for name in names)]
        shown = ["" if number is None else f"{number:.3f}" for number in numbers]
        setting = Path(line["setting"]).stem
        rows.append([setting, line["variant"], differs, *shown, str(line.get("seconds", ""))])
    text = "# Lab book\n\nOne hardening seed and one attack seed each: a glance, to choose by. Accuracy on test.\n\n"
    return text + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _read(ledger: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []


if __name__ == "__main__":
    main(*sys.argv[1:])
