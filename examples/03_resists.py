"""A general encoder that resists: gender is blocked in all-MiniLM-L6-v2, professions and general use are kept.

Real biographies, attacked beside the base, an undefended sibling and random weights:

    python examples/03_resists.py --data.path WIKIBIOS --data.keep_path SIMPLEWIKI --model MINILM

Two hours on two CPU cores, of them half an hour of hardening; killed, it goes on when called again. Any argument of
wikibios_general.yaml can be given another value, such as ``--seed 1`` or ``--suite default``.
"""

import sys
from pathlib import Path

from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.job import harden

# 1. Harden as the configuration says, then attack: card, report, plots and manifest land beside the weights.
config = load_config(Path(__file__).with_name("wikibios_general.yaml"), sys.argv[1:])
report = harden(config)

# 2. Best attack against best attack, then every single one.
sys.stdout.write(report.table() + "\n")
