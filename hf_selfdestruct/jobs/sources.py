"""Load examples from files, image folders and saved data sets, or from the Hub."""

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

SAVED = "dataset_dict.json"  # marks a folder written by DatasetDict.save_to_disk


def check_source(data: DataConfig) -> None:
    """Check that a local folder exists and is complete, before any slower step.

    Raises:
        ValueError: A folder or file is missing; the message names both.
    """
    if Path(data.path).is_dir() and (data.name or data.revision):
        raise ValueError(
            f"data: {data.path} is a local folder, but subset and revision apply only to the Hub; remove them."
        )
    names = [file for part in _parts(data).values() for file in _sources(part)]
    _check_folder(data.path, "path", names, folders=_folders(data))
    if data.keep_path is not None:
        _check_folder(data.keep_path, "keep_path", ["train", "test"])


def check_sources(config: HardenConfig) -> None:
    """Call :func:`check_source` for the data and for every task's own data set."""
    owned = (task.own_data(config.data) for task in (*config.blocked_tasks, *config.control_tasks))
    for data in (config.data, *filter(None, owned)):
        check_source(data)


def read(data: DataConfig) -> DatasetDict:
    """Read the splits without preprocessing.

    Raises:
        ValueError: A folder or split is missing, or a file is unreadable.
    """
    return _read(data.path, _parts(data), data)


def read_kept(path: str) -> DatasetDict:
    """Read the splits of the unlabelled texts, as :func:`read`."""
    return _read(path, {split: split for split in ("train", "test")})


def _folders(data: DataConfig) -> str:
    """What a folder may contain as a folder for each split, beside files of rows."""
    return "image" if data.image_column is not None else "text" if data.of_texts else ""


def _check_folder(path: str, key: str, names: list[str], *, folders: str = "") -> None:
    folder = Path(path)
    if folder.is_dir() and not (folder / SAVED).is_file():
        for name in names:
            _file(folder, name, folders=folders)
    elif not folder.is_dir() and (folder.is_absolute() or path.startswith(".") or path.count("/") > 1):
        raise ValueError(f"data: {key}: no folder {path!r}; check the path.")


def _parts(data: DataConfig) -> dict[str, str]:
    return {split: data.splits.get(split, split) for split in SPLITS}


def _sources(part: str) -> list[str]:
    """Return the splits in a split expression such as ``train[:80%]+extra``."""
    return [re.sub(r"\[.*\]$", "", one.strip()) for one in part.split("+")]


def _cut(found: Mapping[str, Dataset], part: str) -> Dataset:
    """Return the rows of a split expression."""
    if part in found:
        return found[part]
    try:
        pieces = ReadInstruction.from_spec(part).to_absolute({name: len(rows) for name, rows in found.items()})
    except (AssertionError, ValueError) as error:
        raise ValueError(f"data: splits: {part!r} is not a split or a slice of one ({reason(error)}).") from None
    return concatenate_datasets([found[p.splitname].select(range(p.from_, p.to)) for p in pieces])


def _read(path: str, parts: Mapping[str, str], data: DataConfig | None = None) -> DatasetDict:
    folder, names = Path(path), {name for part in parts.values() for name in _sources(part)}
    if folder.is_dir():
        folders = "" if data is None else _folders(data)
        files = _saved(folder) or {name: _load(_file(folder, name, folders=folders), folders) for name in names}
        for name in names:
            check_columns(list(files), name, f"{path}: splits")
        return DatasetDict({split: _cut(files, part) for split, part in parts.items()})
    try:
        found = load_dataset(path, data and data.name, revision=data and data.revision)
    except DatasetGenerationError as error:
        raise ValueError(f"data: cannot read {path!r} on the Hub ({reason(error.__cause__ or error)}).") from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"data: {path!r} is neither a local folder nor a data set on the Hub ({reason(error)})."
        ) from None
    for split, part in parts.items():
        for name in _sources(part):
            check_columns(list(found), name, f"{path}: {split} split")
    return DatasetDict({split: _cut(found, part) for split, part in parts.items()})


def _saved(folder: Path) -> DatasetDict | None:
    """Load a folder of ``DatasetDict.save_to_disk``; return ``None`` for any other folder."""
    if not (folder / SAVED).is_file():
        return None
    try:
        return load_from_disk(str(folder))
    except (OSError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(f"data: cannot read {folder} ({reason(error)}).") from None


def _file(folder: Path, name: str, *, folders: str = "") -> Path:
    for kind in ("parquet", "jsonl", "json", "csv", *(["txt"] if folders == "text" else [])):
        if (folder / f"{name}.{kind}").is_file():
            return folder / f"{name}.{kind}"
    if folders and (folder / name).is_dir():
        return folder / name
    more = f", and no {folders} folder {name}" if folders else ""
    raise ValueError(f"data: {folder} contains no {name}.parquet, {name}.jsonl, {name}.json or {name}.csv{more}.")


def _load(file: Path, folders: str = "") -> Dataset:
    kind = {".jsonl": "json"}.get(file.suffix, file.suffix[1:])
    try:
        if file.suffix == ".txt" or (file.is_dir() and folders == "text"):
            files = sorted(map(str, file.rglob("*.txt"))) if file.is_dir() else [str(file)]
            return load_dataset("text", data_files=files, split="train", sample_by="document")
        if file.is_dir():
            return read_image_folder(file)
        return load_dataset(kind, data_files=str(file), split="train")
    except (DatasetGenerationError, OSError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(f"data: cannot read {file} ({reason(error.__cause__ or error)}).") from None
