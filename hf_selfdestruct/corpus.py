"""Labelled texts or images: loaded, checked, filtered and made into a model's inputs as a configuration says."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    ReadInstruction,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from transformers import BaseImageProcessor

from .config import HardenConfig
from .files import reason
from .images import check_image_column, read_image_folder, with_pixels
from .processors import Processor
from .sections import SPLITS, DataConfig, TaskConfig
from .tasks import check_columns

logger = logging.getLogger(__name__)

SAVED = "dataset_dict.json"  # in a folder that DatasetDict.save_to_disk wrote
PRONOUNS = {
    "he": "they",
    "she": "they",
    "him": "their",
    "her": "their",
    "his": "their",
    "hers": "their",
    "himself": "themselves",
    "herself": "themselves",
}


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


def _check_folder(path: str, key: str, names: list[str], *, images: bool = False) -> None:
    folder = Path(path)
    if folder.is_dir() and not (folder / SAVED).is_file():
        for name in names:
            _file(folder, name, images=images)
    elif not folder.is_dir() and (folder.is_absolute() or path.startswith(".") or path.count("/") > 1):
        raise ValueError(f"data: {key}: no folder {path!r}.")


def load_data(config: HardenConfig, processor: Processor) -> DatasetDict:
    """Load, check and filter the examples and make them the model's inputs; label columns become integers.

    Args:
        config: Where they are.
        processor: The model's tokenizer, or for images its image processor.

    Returns:
        ``train``, ``validation`` and ``test`` with the model's inputs, ``label`` and the blocked columns. Texts are
        stored as tokens; images become pixels when they are read.

    Raises:
        ValueError: A missing folder, split, column, text or image, an unreadable file, an empty split, or a label
            seen in only some splits.
    """
    data = config.data
    check_source(data)
    found = _read(data.path, _parts(data), data)
    blocked = [task.label_column for task in (*config.blocked_tasks, *config.control_tasks) if task.path is None]
    inputs = [column for column in (data.text_column, data.text_pair_column, data.image_column) if column]
    for split in SPLITS:
        for column in (*inputs, data.label_column, *blocked, *([data.only] if data.only else [])):
            check_columns(found[split].column_names, column, f"{data.path}, split {split!r}")
    if data.only:
        # Text such as "false" is true to Python: it would silently keep every row.
        _check_values(found, data.only, data.path, lambda value: value in (0, 1), "true or false")
        found = found.filter(lambda row: bool(row[data.only]))
    if data.max_rows:
        found = DatasetDict({s: d.shuffle(seed=0).select(range(min(len(d), data.max_rows))) for s, d in found.items()})
    for split, rows in found.items():
        if len(rows) == 0:
            raise ValueError(f"{data.path}, split {split!r}: no rows{f' where {data.only}' if data.only else ''}.")
    found = found.select_columns(list(dict.fromkeys([*inputs, data.label_column, *blocked])))
    _check_inputs(found, inputs, data)
    for column in dict.fromkeys([data.label_column, *blocked]):
        found = _encode(found, column, data.path)
    found = found.rename_column(data.label_column, "label") if data.label_column != "label" else found
    if isinstance(processor, BaseImageProcessor):
        return with_pixels(found, processor, inputs[0], data.path)
    return _tokenised(found, inputs, data, processor)


def _check_inputs(found: DatasetDict, columns: Sequence[str], data: DataConfig) -> None:
    """Refuse columns that hold no texts, or no images where these are wanted."""
    for column in columns:
        if data.image_column is None:
            _check_values(found, column, data.path, lambda value: isinstance(value, str), "text")
        else:
            for split, rows in found.items():
                check_image_column(rows, column, f"{data.path}, split {split!r}")


def _tokenised(found: DatasetDict, columns: Sequence[str], data: DataConfig, tokenizer: Any) -> DatasetDict:
    """Tokens in the place of texts, no more than the configuration and the model's positions allow."""
    most = min(data.max_length, tokenizer.model_max_length)
    if most < data.max_length:
        logger.warning(
            "max_length is %d, and the model reads %d tokens at most: texts are cut there.", data.max_length, most
        )

    def tokenise(rows: dict[str, list[Any]]) -> Any:
        given = [[neutral(text) for text in rows[c]] if data.replace_pronouns else rows[c] for c in columns]
        return tokenizer(*given, truncation=True, max_length=most)

    return found.map(tokenise, batched=True, remove_columns=[*columns], desc="tokenising")


def load_own(task: TaskConfig, config: HardenConfig, processor: Processor) -> DatasetDict | None:
    """As :func:`load_data`, the data set of a task that has its own, with the task's label column.

    Raises:
        ValueError: As for :func:`load_data`.
    """
    if (own := task.own_data(config.data)) is None:
        return None
    found = load_data(dataclasses.replace(config, data=own, blocked_tasks=(), control_tasks=()), processor)
    return found.rename_column("label", task.label_column) if task.label_column != "label" else found


def load_kept(data: DataConfig, tokenizer: Processor) -> DatasetDict | None:
    """Tokenised texts without labels: ``train`` to keep a model's general use on, ``test`` to measure it.

    Raises:
        ValueError: As for :func:`load_data`.
    """
    if data.keep_path is None:
        return None
    found = _read(data.keep_path, {split: split for split in ("train", "test")})
    for split, rows in found.items():
        check_columns(rows.column_names, data.keep_text_column, f"{data.keep_path}, split {split!r}")
    found = found.select_columns([data.keep_text_column])
    _check_values(found, data.keep_text_column, data.keep_path, lambda value: isinstance(value, str), "text")
    return _tokenised(found, [data.keep_text_column], dataclasses.replace(data, replace_pronouns=False), tokenizer)


def neutral(text: str) -> str:
    """The text with gendered pronouns replaced, capitals kept.

    Example:
        >>> neutral("She sold her boat; His was new.")
        'They sold their boat; Their was new.'
    """

    def swap(match: re.Match[str]) -> str:
        word = PRONOUNS[match[0].lower()]
        return word.capitalize() if match[0][0].isupper() else word

    return re.sub(rf"\b(?:{'|'.join(PRONOUNS)})\b", swap, text, flags=re.IGNORECASE)


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


def _check_values(found: DatasetDict, column: str, where: str, fits: Callable[[Any], bool], wanted: str) -> None:
    for split, rows in found.items():
        for row, value in enumerate(rows[column][:]):
            if not fits(value):
                raise ValueError(
                    f"{where}, split {split!r}, column {column!r}, row {row}: must be {wanted}, got {value!r}."
                )


def _encode(found: DatasetDict, column: str, where: str) -> DatasetDict:
    """Labels as integers, numbered by their sorted names in ``train``."""
    known = found["train"].features[column]
    if isinstance(known, ClassLabel):
        for split, rows in found.items():
            if rows.features[column] != known:
                raise ValueError(f"{where}, split {split!r}, column {column!r}: other label names than in train.")
            for row, label in enumerate(rows[column][:]):
                if label is None or label < 0:
                    raise ValueError(
                        f"{where}, split {split!r}, column {column!r}, row {row}: the label is missing ({label})."
                    )
        return found
    values = {split: set(rows[column][:]) for split, rows in found.items()}
    names = [str(value) for value in sorted(values["train"] - {None})]
    for split, seen in values.items():
        if None in seen:
            row = found[split][column][:].index(None)
            raise ValueError(f"{where}, split {split!r}, column {column!r}, row {row}: the label is missing.")
        # As text, for a label that is a number in one file may be text in another.
        if unknown := sorted({*map(str, seen)} - {*names}):
            raise ValueError(
                f"{where}, split {split!r}, column {column!r}: label {unknown[0]!r} does not occur in train."
            )
    label = ClassLabel(names=names)
    return found.map(
        lambda rows: {column: [label.str2int(str(value)) for value in rows[column]]},
        batched=True,
        desc=f"encoding {column}",
    ).cast_column(column, label)
