"""Fine-tune a hardened model, or scratch, for longer than the suites do, and keep the report.

    python model_cards/long.py examples/wikibios.yaml hardened-wikibios 1600 OUT.json --data.path DIR --model MODEL
    python model_cards/long.py examples/wikibios.yaml scratch 800 OUT.json --data.path DIR --model MODEL

One seed, one rate, a look at the selection rows every 100 steps.
"""

import sys

from transformers import AutoTokenizer, DataCollatorWithPadding

from hf_selfdestruct.attacks import Target
from hf_selfdestruct.attacks.suite import AttackSuite, Entry
from hf_selfdestruct.attacks.tuning import FullFineTuning
from hf_selfdestruct.config import load_config
from hf_selfdestruct.corpus import load_data
from hf_selfdestruct.recipe import blocked_tasks

RATE = 2e-4


def main(config_file: str, folder: str, steps: str, out: str, *overrides: str) -> None:
    """Attack one model and save what was found."""
    config = load_config(config_file, overrides)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    many = int(steps)
    attack = FullFineTuning(
        "long fine-tuning", learning_rates=(RATE,), steps=(many,), looks=many // 100, schedule="cosine"
    )
    target = Target("scratch", config.model, random=True) if folder == "scratch" else Target("hardened", folder)
    report = AttackSuite("long", 1, (Entry(attack, (None,)),), seeds=1, more=None).run(
        [target],
        blocked_tasks(config, load_data(config, tokenizer)),
        columns=tokenizer.model_input_names,
        collate=DataCollatorWithPadding(tokenizer),
        storage="sqlite:///long.db",
    )
    report.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
