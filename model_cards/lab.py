"""The lab book: harden variants of a configuration, glance at each, keep one line per model, draw the table.

    python model_cards/lab.py model_cards/lab/recipes.yaml --data.path DIR --data.keep_path DIR --model MODEL

Each variant changes some arguments of a configuration, for each of its ``seeds`` (of hardening, 0 unless told);
``base`` and ``scratch`` are what every table needs. Killed half-way, the same command goes on, from the last
checkpoint; what is in ``recipes.jsonl`` is not run again. The table is ``recipes.md``. Scores are on the development
rows of the blocked tasks, which a configuration must cut (``development``), and desired quality is on the validation
rows; a line that names no rows was made before, on test rows, and flatters what was chosen by it.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import DatasetDict
from entries import to_compare_on
from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_selfdestruct.attacks import Target, named_suite
from hf_selfdestruct.jobs.config import HardenConfig, load_config, training_arguments
from hf_selfdestruct.jobs.job import blocked_tasks, trained
from hf_selfdestruct.jobs.text_data import load_data, load_kept
from hf_selfdestruct.report.attack_run import Summary
from hf_selfdestruct.trainer.intact import begun
from hf_selfdestruct.trainer.similarity import NAME, to_base

SUITE = "glance"
REFERENCES = {"base": False, "scratch": True}
RUNS = Path("lab-runs")


def main(variants: str, *overrides: str) -> None:
    """Run what is not in the ledger yet, then write the table."""
    source = Path(variants)
    ledger = source.with_suffix(".jsonl")
    RUNS.mkdir(exist_ok=True)
    done = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []
    known = {(line["setting"], line["variant"], line["seed"]) for line in done}
    for variant in yaml.safe_load(source.read_text()):
        setting, name, training = Path(variant["config"]).stem, variant["name"], _flat(variant.get("training", {}))
        for seed in variant.get("seeds", [0]):
            if (setting, name, seed) in known:
                continue
            folder = RUNS / f"{source.stem}-{setting}-{name.replace(' ', '-')}-{seed}"
            words = [word for key, value in training.items() for word in (f"--{key}", str(value))]
            config = load_config(
                variant["config"], [*overrides, *words, "--output_dir", str(folder), "--seed", str(seed)]
            )
            line = {"setting": setting, "variant": name, "seed": seed, "training": training}
            done.append(line | _run(config, name, folder))
            with ledger.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
        source.with_suffix(".md").write_text(_table(done))


def _flat(training: dict[str, Any]) -> dict[str, Any]:
    """Arguments as the command line names them: ``method_options.merge_words`` is a key within a key."""
    found = {}
    for name, value in training.items():
        inner = _flat(value) if isinstance(value, dict) else {}
        found |= {f"{name}.{key}": one for key, one in inner.items()} or {name: value}
    return found


def _run(config: HardenConfig, name: str, folder: Path) -> dict[str, Any]:
    """What a glance tells about a reference, or about a model hardened now."""
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    data = load_data(config, tokenizer)
    tasks = to_compare_on(blocked_tasks(config, data, tokenizer))
    if name in REFERENCES:
        found, target = {}, Target(name, config.model, random=REFERENCES[name])
    else:
        found, target = _hardened(config, data, tokenizer, folder), Target("hardened", str(folder))
    report = named_suite(SUITE).run(
        [target],
        tasks,
        columns=tokenizer.model_input_names,
        collate=DataCollatorWithPadding(tokenizer),
        storage=f"sqlite:///{RUNS / 'attacks.db'}",
    )
    lines = [s for task in report.tasks for s in report.summaries(task) if s.role == target.role]
    return {
        **found,
        "scored on": report.scored_on(),
        "attacks": _by_attack(lines, lambda line: line.mean),
        "selection": _by_attack(lines, lambda line: line.selection),
    }


def _by_attack(lines: Sequence[Summary], score: Callable[[Summary], float]) -> dict[str, float]:
    """Each attack's mean over the blocked tasks."""
    names = sorted({line.attack for line in lines})
    return {name: round(statistics.fmean(score(line) for line in lines if line.attack == name), 6) for name in names}


def _hardened(
    config: HardenConfig, data: DatasetDict, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> dict[str, float]:
    """Harden into a folder; what it cost and what is left of the desired task and of general use."""
    args = training_arguments(config).filled()
    kept = load_kept(config.data, tokenizer) if args.keeping_losses else None
    trainer = trained(config, data, tokenizer, kept=kept, goes_on=begun(folder))
    trainer.save_model()
    found: dict[str, float] = {"seconds": round(trainer.seconds())}
    found["desired"] = round(trainer.evaluate()["eval_accuracy"], 6)
    if kept:
        columns, collate = trainer.input_columns, trainer.blocked_collator
        found |= to_base(trainer.model, folder / "_base", kept["test"], columns=columns, collate=collate)
    return found


def _table(lines: list[dict[str, Any]]) -> str:
    names = sorted({attack for line in lines for attack in line["attacks"]})
    choosing = names if any("selection" in line for line in lines) else []
    split = [f"{name}, selection" for name in choosing]
    first = ["setting", "variant", "what differs", "scored on", "seeds", "desired", "similarity"]
    head = [*first, *names, *split, "seconds"]
    rows = [head, ["---"] * len(head)]
    variants: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        variants.setdefault((line["setting"], line["variant"], line.get("scored on", "test")), []).append(line)
    for (setting, variant, scored_on), same in sorted(variants.items(), key=lambda one: one[0][0]):
        differs = ", ".join(f"{name} {value}" for name, value in same[0]["training"].items())
        measured = [_over_seeds([line.get(name) for line in same]) for name in ("desired", NAME)]
        reached = [_over_seeds([line["attacks"].get(name) for line in same]) for name in names]
        reached += [_over_seeds([line.get("selection", {}).get(name) for line in same]) for name in choosing]
        seconds = _over_seeds([line.get("seconds") for line in same], "{:.0f}")
        rows.append([setting, variant, differs, scored_on, str(len(same)), *measured, *reached, seconds])
    text = (
        f"# Lab book\n\nSuite `{SUITE}`. Accuracy on the rows named, or on selection rows where a column says so, mean "
        "over attack seeds; with several hardening seeds mean ± standard deviation over them.\n\n"
    )
    return text + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _over_seeds(values: list[float | None], form: str = "{:.3f}") -> str:
    numbers = [value for value in values if value is not None]
    if len(numbers) < 2:
        return "".join(map(form.format, numbers))
    return f"{form.format(statistics.fmean(numbers))} ± {form.format(statistics.stdev(numbers))}"


if __name__ == "__main__":
    main(*sys.argv[1:])
