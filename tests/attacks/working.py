"""A worker as a process of its own: attacks a saved model and writes the report.

``python working.py MODEL STORAGE REPORT [WORKERS]``
"""

import dataclasses
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch  # noqa: E402
from conftest import COLUMNS, collate, task_of  # noqa: E402

from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning, HeadOnly, Target  # noqa: E402

SUITE = AttackSuite(
    "shared",
    1,
    (
        Entry(HeadOnly(every_layer=True), (10, None)),
        Entry(FullFineTuning(learning_rates=(1e-3, 3e-3, 1e-2), steps=(16,), looks=4, prune=True), (30,)),
    ),
    seeds=2,
    few_seeds=0,
    more=None,
)


def main(model: str, storage: str, report: str, workers: str = "1") -> None:
    """Attack."""
    torch.set_num_threads(1)
    targets = [Target("base", model), Target("hardened", model), Target("scratch", model, random=True)]
    found = SUITE.run(
        targets,
        [task_of(rows=120)],
        columns=COLUMNS,
        collate=collate,
        storage=storage,
        workers=int(workers),
        progress=False,
    )
    runs = tuple(dataclasses.replace(run, seconds=0.0) for run in found.runs)
    dataclasses.replace(found, runs=runs).save(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
