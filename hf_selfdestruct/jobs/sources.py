"""Where examples come from: files, folders of images and saved data sets here, or data sets on the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, DatasetDict, ReadInstruction, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..files import reason
from ..tasks.blocked_task import check_columns
from .config import HardenConfig
from .images import read_image_folder
from .sections import SPLITS, DataConfig

SAVED = "dataset_dict.json"  # in a folder that DatasetDict.save_to_disk wrote


def check_source(data: DataConfig) -> None:
    """Refuse a local folder that is missing or lacks a file, before anything slower is tried.

    Raises:
        ValueError: What is missing, and where it was looked for.
    """
    if Path(data.path).is_dir() and (data.name or data.revision):
        raise ValueError(f"data: {data.path} is a folder here; subset and revision are of data sets on the Hub.")
    names = [file for part in _parts(data).values() for file in _sources(part)]
    _check_folder(data.path, "path", names, images=data.image_column is not None)
    if data.keep_path is not None:
        _check_folder(data.keep_path, "keep_path", ["train", "test"])


def check_sources(config: HardenConfig) -> None:
    """As :func:`check_source`, for the examples and for every task's own data set."""
    owned = (task.own_data(config.data) for task in (*config.blocked_tasks, *config.control_tasks))
    for data in (config.data, *filter(None, owned)):
        check_source(data)


def read(data: DataConfig) -> DatasetDict:
    """The examples' splits, as they are stored.

    Raises:
        ValueError: A missing folder or split, or an unreadable file.
    """
    return _read(data.path, _parts(data), data)


def read_kept(path: str) -> DatasetDict:
    """As :func:`read`, the splits of unlabelled texts."""
    return _read(path, {split: split for split in ("train", "test")})


def _check_folder(path: str, key: str, names: list[str], *, images: bool = False) -> None:
    folder = Path(path)
    if folder.is_dir() and not (folder / SAVED).is_file():
        for name in names:
            _file(folder, name, images=images)
    elif not folder.is_dir() and (folder.is_absolute() or path.startswith(".") or path.count("/") > 1):
        raise ValueError(f"data: {key}: no folder {path!r}.")


def _parts(data: DataConfig) -> dict[str, str]:
    return {split: data.splits.get(split, split) for split in SPLITS}


def _sources(part: str) -> list[str]:
    """The splits that a split expression, such as ``train[:80%]+extra``, takes rows from."""
    return [re.sub(r"\[.*\]$", "", one.strip()) for one in part.split("+")]


def _cut(found: Mapping[str, Dataset], part: str) -> Dataset:
    """The rows that a split expression names."""
    if part in found:
        return found[part]
    try:
        pieces = ReadInstruction.from_spec(part).to_absolute({name: len(rows) for name, rows in found.items()})
    except (AssertionError, ValueError) as error:
        raise ValueError(f"data: splits: {part!r} is no split or part of one ({reason(error)}).") from None
    return concatenate_datasets([found[p.splitname].select(range(p.from_, p.to)) for p in pieces])


def _read(path: str, parts: Mapping[str, str], data: DataConfig | None = None) -> DatasetDict:
    folder, names = Path(path), {name for part in parts.values() for name in _sources(part)}
    if folder.is_dir():
        images = data is not None and data.image_column is not None
        files = _saved(folder) or {name: _load(_file(folder, name, images=images)) for name in names}
        for name in names:
            check_columns(list(files), name, f"{path}: splits")
        return DatasetDict({split: _cut(files, part) for split, part in parts.items()})
    try:
        found = load_dataset(path, data and data.name, revision=data and data.revision)
    except DatasetGenerationError as error:
        raise ValueError(f"data: {path!r} on the Hub cannot be read ({reason(error.__cause__ or error)}).") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"data: {path!r} is neither a folder here nor on the Hub ({reason(error)}).") from None
    for split, part in parts.items():
        for name in _sources(part):
            check_columns(list(found), name, f"{path}: {split} split")
    return DatasetDict({split: _cut(found, part) for split, part in parts.items()})


def _saved(folder: Path) -> DatasetDict | None:
    """What ``DatasetDict.save_to_disk`` wrote; ``None`` where the folder holds something else."""
    if not (folder / SAVED).is_file():
        return None
    try:
        return load_from_disk(str(folder))
    except (OSError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(f"data: {folder} cannot be read ({reason(error)}).") from None


def _file(folder: Path, name: str, *, images: bool = False) -> Path:
    for kind in ("parquet", "jsonl", "json", "csv"):
        if (folder / f"{name}.{kind}").is_file():
            return folder / f"{name}.{kind}"
    if images and (folder / name).is_dir():
        return folder / name
    more = f", and no folder {name} of images" if images else ""
    raise ValueError(f"data: {folder} holds no {name}.parquet, {name}.jsonl, {name}.json or {name}.csv{more}.")


def _load(file: Path) -> Dataset:
    kind = {".jsonl": "json"}.get(file.suffix, file.suffix[1:])
    try:
        if file.is_dir():
            return read_image_folder(file)
        return load_dataset(kind, data_files=str(file), split="train")
    except (DatasetGenerationError, OSError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(f"data: {file} cannot be read ({reason(error.__cause__ or error)}).") from None
