"""Harden and attack on real biographies, from a configuration file.

This example downloads LabHC/bias_in_bios from the Hub. For a local folder with train, validation and test files
(parquet, jsonl or csv) and columns for text, profession and gender, load wikibios.yaml instead and pass the folder:
load_config(here / "wikibios.yaml", ["--data.path", "my-folder"]).
"""

from pathlib import Path

from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.job import harden

here = Path(__file__).parent

# 1. Read the configuration and check every key.
config = load_config(here / "bios.yaml")

# 2. Harden, attack and write the folder. If interrupted, run the script again to resume.
report = harden(config)

# 3. Save a copy of the report.
report.save("bios-report.json")
