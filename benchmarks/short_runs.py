"""Which learning rate is kept by a first look, by a short run, and by a whole one?

    python benchmarks/short_runs.py examples/images.yaml \
        "hardened=hardened-cifar10;undefended=hardened-cifar10/_undefended" 300 50,100 560,100 3e-4,1e-3,3e-3,1e-2

A configuration, names and folders of models (``NAME=DIR;NAME=DIR``), steps, lengths of short runs, numbers of examples,
rates. Full fine-tuning by each rate at one seed, scores on the task's development rows, which the configuration cuts.
What is in ``short_runs.jsonl`` is not run again; ``short_runs.md`` is made from it.
"""

import itertools
import json
import math
import sys
from typing import Any

import torch
from ledger import HERE, Line, lines

from hf_selfdestruct.attacks import FullFineTuning, Target
from hf_selfdestruct.attacks.attack import Trial
from hf_selfdestruct.attacks.data import AttackData
from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.job import attacker_collate, blocked_tasks
from hf_selfdestruct.jobs.processors import processor_of
from hf_selfdestruct.jobs.text_data import load_data
from hf_selfdestruct.tasks.development import DEVELOPMENT

STUDY = "short_runs"
SAME = ("model", "task", "examples", "steps")


def main(config_file: str, models: str, steps: str, rungs: str, examples: str, rates: str, *overrides: str) -> None:
    """Measure what the ledger lacks, and write the page."""
    torch.set_num_threads(1)
    config = load_config(config_file, [*overrides, "--output_dir", "unused"])
    processor = processor_of(config.model, config.data)
    columns, collate = processor.model_input_names, attacker_collate(config, processor)
    (task,) = blocked_tasks(config, load_data(config, processor), processor)
    data = AttackData.of(task, columns, collate, scored_on=DEVELOPMENT)
    places = dict(place.split("=") for place in models.split(";"))
    for name, count, rate in itertools.product(places, map(int, examples.split(",")), map(float, rates.split(","))):
        line = {"model": name, "task": task.name, "examples": count, "steps": int(steps), "rate": rate}
        if not any(line.items() <= known.items() for known in lines(STUDY)):
            found = measured(Target("hardened", places[name]), data, line, [int(rung) for rung in rungs.split(",")])
            with (HERE / f"{STUDY}.jsonl").open("a") as file:
                file.write(json.dumps({**line, **found}) + "\n")
            (HERE / f"{STUDY}.md").write_text(page(), encoding="utf-8")


def measured(target: Target, data: AttackData, line: Line, rungs: list[int]) -> Line:
    """Scores on the selection rows: of looks of the whole run, of short runs, and the best look's on both splits."""
    count, steps = line["examples"], line["steps"]
    attack = FullFineTuning(learning_rates=(line["rate"],), steps=(steps,), looks=steps // math.gcd(*rungs, steps))
    (settings,) = attack.space()

    def run(until: int | None) -> Any:
        return attack.run(Trial(target, data, count, 0, settings, until))

    try:
        whole, short = run(None), {rung: run(rung).selection.value for rung in rungs}
    except FloatingPointError as failure:
        return {"failed": str(failure)}
    looks = {int(step): score for step, score in whole.curve}
    return {
        "looks": {rung: looks[rung] for rung in rungs},
        "short": short,
        "selection": whole.selection.value,
        "scored": whole.test.value,
    }


def page() -> str:
    """For each model, the rate that each rule ends at, and how far it gets on the development rows."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines(STUDY):
        groups.setdefault(tuple(line[name] for name in SAME), []).append(line)
    rows = [row for key, group in groups.items() for row in compared(key, [one for one in group if "short" in one])]
    by = "by the look: one | two | by a short run: one | two"
    titles = f"| model | task | examples | all run as wholes | given up after | {by} |"
    return f"""# Short runs

Full fine-tuning at one seed. "All run as wholes": the rate that does best on the selection rows, and its score on the
development rows. Then the same where only the best of them, or the best two, are run as wholes: by the score of a
look at the whole run after so many steps, or by that of a run of so many steps whose rate falls to 0 at its end. Of
equal scores the lower rate's counts; a suite takes the AUC then. Rates of which a run diverged are left out.
`python benchmarks/short_runs.py` (the ledger `short_runs.jsonl` names each model and rate).

{titles}
|{"---|" * titles.count(" | ")}---|
{chr(10).join(rows)}
"""


def compared(key: tuple[Any, ...], group: list[Line]) -> list[str]:
    """Rows of one model's table, one for each length."""
    model, task, examples, steps = key
    best, rows = max(group, key=lambda one: one["selection"], default={}), []
    for rung in best.get("short", ()):
        by = [_shown(_chosen(group, kind, rung, most)) for kind in ("looks", "short") for most in (1, 2)]
        rows.append(f"| {model} | {task} | {examples} | {_shown(best)} | {rung} of {steps} | {' | '.join(by)} |")
    return rows


def _chosen(group: list[Line], kind: str, rung: str, most: int) -> Line:
    order = sorted(group, key=lambda one: one[kind][rung], reverse=True)
    return max(order[:most], key=lambda one: one["selection"])


def _shown(one: Line) -> str:
    return f"{one['scored']:.3f} ({one['rate']:g})"


if __name__ == "__main__":
    main(*sys.argv[1:])
