"""A resistant general encoder: block gender in all-MiniLM-L6-v2, preserve professions and general use.

The example uses real biographies and also attacks the base, an undefended model and random weights:

    python examples/03_resists.py --data.path WIKIBIOS --data.keep_path SIMPLEWIKI --model MINILM

It takes two hours on two CPU cores, half an hour of it for hardening. If interrupted, run it again to resume. Options
override any key of wikibios_general.yaml, such as ``--seed 1`` or ``--suite default``.
"""

import sys
from pathlib import Path

from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.job import harden

# 1. Harden as configured, then attack; save card, report, plots and manifest beside the weights.
config = load_config(Path(__file__).with_name("wikibios_general.yaml"), sys.argv[1:])
report = harden(config)

# 2. Print the result: strongest attacks first, then every attack.
sys.stdout.write(report.table() + "\n")
