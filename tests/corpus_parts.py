"""Labelled sentences in files of every kind, and their configuration."""

from datasets import Dataset
from toy_project import sentences, write_jsonl

from hf_selfdestruct.jobs.config import HardenConfig
from hf_selfdestruct.jobs.sections import SPLITS, DataConfig, TaskConfig


def toy(**changes):
    """Rows of each split; ``changes`` replace some."""
    rows = {split: sentences(count, i) for i, (split, count) in enumerate(zip(SPLITS, (30, 20, 10), strict=True))}
    return {**rows, **changes}


def save(folder, splits, kind="jsonl"):
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        path = folder / f"{split}.{kind}"
        if kind in ("jsonl", "json"):
            write_jsonl(path, rows)
        elif kind == "csv":
            Dataset.from_list(rows).to_csv(str(path))
        else:
            Dataset.from_list(rows).to_parquet(str(path))
    return folder


def config_of(folder, *, blocked="origin", **fields):
    data = DataConfig(str(folder), **{"label_column": "job", "max_length": 16, **fields})
    return HardenConfig("model", data, (TaskConfig("origin", blocked),))


def without(rows, column):
    return [{k: v for k, v in row.items() if k != column} for row in rows]
