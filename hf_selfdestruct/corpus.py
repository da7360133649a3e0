"""Labelled texts: loaded, checked, filtered, neutralised and tokenised as a configuration says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, ReadInstruction, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from .config import HardenConfig
from .files import reason
from .sections import SPLITS, DataConfig, TaskConfig
from .tasks import check_columns

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
    _check_folder(data.path, "path", [file for part in _parts(data).values() for file in _sources(part)])
    if data.keep_path is not None:
        _check_folder(data.keep_path, "keep_path", ["train", "test"])


def check_sources(config: HardenConfig) -> None:
    """As :func:`check_source`, for the examples and for every task's own data set."""
    owned = (task.own_data(config.data) for task in (*config.blocked_tasks, *config.control_tasks))
    for data in (config.data, *filter(None, owned)):
        check_source(data)


def _check_folder(path: str, key: str, names: list[str]) -> None:
    folder = Path(path)
    if folder.is_dir():
        for name in names:
            _file(folder, name)
    elif folder.is_absolute() or path.startswith(".") or path.count("/") > 1:
        raise ValueError(f"data: {key}: no folder {path!r}.")


def load_data(config: HardenConfig, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    """Load, check, filter and tokenise the examples; label columns become integers.

    Returns:
        ``train``, ``validation`` and ``test`` with the model's inputs, ``label`` and the blocked columns.

    Raises:
        ValueError: A missing folder, split, column or text, an unreadable file, an empty split, or a label
            seen in only some splits.
    """
    data = config.data
    check_source(data)
    found = _read(data.path, _parts(data), data)
    blocked = [task.label_column for task in (*config.blocked_tasks, *config.control_tasks) if task.path is None]
    texts = [data.text_column, *([data.text_pair_column] if data.text_pair_column else [])]
    for split in SPLITS:
        for column in (*texts, data.label_column, *blocked, *([data.only] if data.only else [])):
            check_columns(found[split].column_names, column, f"{data.path}, split {split!r}")
    if data.only:
        # Text such as "false" is true to Python: it would silently keep every row.
        _check_values(found, data.only, data.path, lambda value: value in (0, 1), "true or false")
        found = found.filter(lambda row: bool(row[data.only]))
    for column in texts:
        _check_values(found, column, data.path, lambda value: isinstance(value, str), "text")
    if data.max_rows:
        found = DatasetDict({s: d.shuffle(seed=0).select(range(min(len(d), data.max_rows))) for s, d in found.items()})
    for split, rows in found.items():
        if len(rows) == 0:
            raise ValueError(f"{data.path}, split {split!r}: no rows{f' where {data.only}' if data.only else ''}.")
    found = found.select_columns(list(dict.fromkeys([*texts, data.label_column, *blocked])))
    for column in dict.fromkeys([data.label_column, *blocked]):
        found = _encode(found, column, data.path)

    def tokenise(rows: dict[str, list[Any]]) -> Any:
        given = [[neutral(text) for text in rows[c]] if data.replace_pronouns else rows[c] for c in texts]
        return tokenizer(*given, truncation=True, max_length=data.max_length)

    found = found.map(tokenise, batched=True, remove_columns=texts, desc="tokenising")
    return found.rename_column(data.label_column, "label") if data.label_column != "label" else found


def load_own(task: TaskConfig, config: HardenConfig, tokenizer: PreTrainedTokenizerBase) -> DatasetDict | None:
    """Load and tokenise the data set of a task that has its own, with the task's label column.

    Raises:
        ValueError: As for :func:`load_data`.
    """
    if (own := task.own_data(config.data)) is None:
        return None
    found = load_data(replace(config, data=own, blocked_tasks=(), control_tasks=()), tokenizer)
    return found.rename_column("label", task.label_column) if task.label_column != "label" else found


def load_kept(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> DatasetDict | None:
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
    return found.map(
        lambda rows: tokenizer(rows[data.keep_text_column], truncation=True, max_length=data.max_length),
        batched=True,
        remove_columns=[data.keep_text_column],
        desc="tokenising",
    )


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
        files = {name: _load(_file(folder, name)) for name in names}
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


def _file(folder: Path, name: str) -> Path:
    for kind in ("parquet", "jsonl", "json", "csv"):
        if (folder / f"{name}.{kind}").is_file():
            return folder / f"{name}.{kind}"
    raise ValueError(f"data: {folder} holds no {name}.parquet, {name}.jsonl, {name}.json or {name}.csv.")


def _load(file: Path) -> Dataset:
    kind = {".jsonl": "json"}.get(file.suffix, file.suffix[1:])
    try:
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
