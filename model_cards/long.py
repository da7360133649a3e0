"""Fine-tune a hardened model and scratch for longer than the suites do, and keep the report.

    python model_cards/long.py examples/wikibios.yaml DIR,scratch 1600 OUT.json --data.path DATA --model MODEL

One seed, one rate (2e-4, or as after an @: ``600@3e-3``), a look at the selection rows every 100 steps. Models and what
is on record as in ``entries.py``.
"""

import sys

from entries import attack

from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning
from hf_selfdestruct.jobs.config import load_config

RATE = 2e-4


def main(config_file: str, models: str, steps: str, out: str, *overrides: str) -> None:
    """Attack and save what was found."""
    count, _, rate = steps.partition("@")
    many = int(count)
    longer = FullFineTuning(
        "long fine-tuning", learning_rates=(float(rate or RATE),), steps=(many,), looks=many // 100, schedule="cosine"
    )
    suite = AttackSuite("long", 1, (Entry(longer, (None,)),), seeds=1, more=None, null=False)
    attack(load_config(config_file, overrides), models, suite).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
