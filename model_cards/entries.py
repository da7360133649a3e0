r"""Attack models by some of a suite's attacks, with all examples or as many as follow an @, and keep the report.

    python model_cards/entries.py examples/wikibios.yaml hardened-wikibios,scratch adaptive "longer fine-tuning" \
        OUT.json --data.path DIR --model MODEL

A folder is a hardened model's; ``base`` and ``scratch`` are attacked by their names. "full fine-tuning@100" is full
fine-tuning with 100 examples. What is on record in ``lab/entries.db`` is not run again: the same command goes on after
it was killed, also where the model was hardened again to the same weights. Scores are on the development rows of the
blocked tasks, which the configuration must cut (``development``): the test rows are for what is published.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_selfdestruct.attacks import AttackSuite, Entry, Target, named_suite
from hf_selfdestruct.jobs.config import HardenConfig, load_config
from hf_selfdestruct.jobs.job import attacker_collate, blocked_tasks
from hf_selfdestruct.jobs.processors import processor_of
from hf_selfdestruct.jobs.text_data import load_data
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.tasks.blocked_task import BlockedTask

REFERENCES = ("base", "scratch")
LEDGER = Path(__file__).parent / "lab" / "entries.db"


def main(config_file: str, models: str, suite: str, attacks: str, out: str, *overrides: str) -> None:
    """Attack and save what was found; models are told apart by commas, attacks by semicolons."""
    known = {entry.attack.name: entry.attack for entry in named_suite(suite).entries}
    asked = [text.partition("@") for text in attacks.split(";")]
    if unknown := [name for name, _, _ in asked if name not in known]:
        sys.exit(f"suite {suite} has no attack {unknown[0]!r}; it has: {'; '.join(known)}.")
    if wrong := [count for _, at, count in asked if at and not count.isdecimal()]:
        sys.exit(f"after @ stands a number of examples; got {wrong[0]!r}.")
    entries = tuple(Entry(known[name], (int(count) if count else None,)) for name, _, count in asked)
    part = AttackSuite(f"part of {suite}", 1, entries, more=None, null=False)
    attack(load_config(config_file, overrides), models, part).save(out)


def attack(config: HardenConfig, models: str, suite: AttackSuite) -> AttackReport:
    """Attack each of the models, a hardened model's folder or a reference's name."""
    processor = processor_of(config.model, config.data)
    targets = [
        Target(name, config.model, random=name == "scratch") if name in REFERENCES else Target("hardened", name)
        for name in models.split(",")
    ]
    return dataclasses.replace(suite, choosing=True).run(
        targets,
        to_compare_on(blocked_tasks(config, load_data(config, processor), processor)),
        columns=processor.model_input_names,
        collate=attacker_collate(config, processor),
        storage=f"sqlite:///{LEDGER}",
    )


def to_compare_on(tasks: Sequence[BlockedTask]) -> Sequence[BlockedTask]:
    """The tasks, all of which have development rows: comparing on test rows would flatter what is chosen by them."""
    if missing := [task.name for task in tasks if not task.development]:
        sys.exit(f"blocked task {missing[0]!r} has no development rows to compare on: set its key development to 0.33.")
    return tasks


if __name__ == "__main__":
    main(*sys.argv[1:])
