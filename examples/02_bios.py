"""The whole job on real biographies, from a configuration file.

As it stands it needs the Hub (LabHC/bias_in_bios). For a local folder with train, validation and test
files (parquet, jsonl or csv) that hold text, profession and gender, load wikibios.yaml instead and name
the folder: load_config(here / "wikibios.yaml", ["--data.path", "my-folder"]).
"""

from pathlib import Path

from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.job import harden

here = Path(__file__).parent

# 1. Read and check every key; nothing is trained yet.
config = load_config(here / "bios.yaml")

# 2. Harden, attack, write the folder. Killed half-way, the same call goes on where it stopped.
report = harden(config)

# 3. The same evidence as on the card.
report.save("bios-report.json")
