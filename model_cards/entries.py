r"""Attack models by some of a suite's attacks, with all examples, and keep the report.

    python model_cards/entries.py examples/wikibios.yaml hardened-wikibios adaptive "longer fine-tuning" OUT.json \
        --data.path DIR --model MODEL

The folder is a hardened model's; ``base`` and ``scratch`` are attacked by their names. What is on record in
``entries.db`` is not run again, so the same command goes on after it was killed.
"""

import sys

from transformers import AutoTokenizer, DataCollatorWithPadding

from hf_selfdestruct.attacks import AttackSuite, Entry, Target, named_suite
from hf_selfdestruct.config import load_config
from hf_selfdestruct.corpus import load_data
from hf_selfdestruct.recipe import blocked_tasks

REFERENCES = ("base", "scratch")


def main(config_file: str, models: str, suite: str, attacks: str, out: str, *overrides: str) -> None:
    """Attack and save what was found; several models or attacks are told apart by commas."""
    config = load_config(config_file, overrides)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    entries = {entry.attack.name: Entry(entry.attack, (None,)) for entry in named_suite(suite).entries}
    targets = [
        Target(name, config.model, random=name == "scratch") if name in REFERENCES else Target("hardened", name)
        for name in models.split(",")
    ]
    report = AttackSuite(f"part of {suite}", 1, tuple(entries[name] for name in attacks.split(",")), more=None).run(
        targets,
        blocked_tasks(config, load_data(config, tokenizer)),
        columns=tokenizer.model_input_names,
        collate=DataCollatorWithPadding(tokenizer),
        storage="sqlite:///entries.db",
    )
    report.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
