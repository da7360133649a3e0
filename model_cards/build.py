"""Build a card of this folder: harden and attack as a configuration says, then keep all but the weights.

    python model_cards/build.py examples/wikibios.yaml model_cards/wikibios-gender --data.path DIR --model MODEL

Killed half-way, the same command goes on; with a hardened folder in place it copies the evidence again.
"""

import shutil
import sys
from pathlib import Path

from hf_selfdestruct.jobs.config import HardenConfig, load_config, training_arguments
from hf_selfdestruct.jobs.job import harden
from hf_selfdestruct.publish.manifest import published_files


def main(config_file: str, card: str, *overrides: str) -> None:
    """Harden, attack, and copy card, report and plots."""
    publish(load_config(config_file, overrides), card)


def publish(config: HardenConfig, card: str) -> None:
    """Harden and attack as configured; copy card, report and plots to a folder."""
    harden(config)
    folder = Path(training_arguments(config).output_dir or ".")
    for name in published_files(folder):
        if name == "README.md" or name.startswith("selfdestruct/"):
            Path(card, name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, Path(card, name))


if __name__ == "__main__":
    main(*sys.argv[1:])
