"""The data and task sections of a configuration; light imports, so ``--help`` can list their keys quickly."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..tasks.development import READINGS, check_development
from ..untrusted_json import check_names

SPLITS = ("train", "validation", "test")
OWN = (  # keys that require `path`
    *("subset", "revision", "text_column", "text_pair_column", "image_column", "splits", "prompt_column"),
)
OF_LABELS = ("text_pair_column", "image_column", "replace_pronouns", "only", "keep_path")
OF_TEXTS = ("text_column", "text_pair_column", "replace_pronouns", "keep_path")
IN_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "keys and values"}


@dataclass(frozen=True)
class DataConfig:
    """The data set and how to preprocess it.

    Args:
        path: Hub id, or a folder with ``train.parquet``, ``validation.parquet`` and ``test.parquet`` (also ``.json``,
            ``.jsonl``, ``.csv``). For images also a folder with the subfolders ``train``, ``validation`` and ``test``;
            each contains one folder of images per class (the column ``label``), or images and a ``metadata.csv`` with
            ``file_name`` and label columns.
        text_column: Column with the text; by default ``text``, unless ``image_column`` is given.
        label_column: Column with the desired task's label, text or integer.
        max_length: Most tokens of a text, up to the model's own; longer texts are truncated.
        only: Boolean column; rows where it is false are dropped.
        replace_pronouns: Replace he, she, his and the like by neutral pronouns, as MLAC does.
        splits: Names or slices of the splits, such as ``validation: "train[80%:]"``.
        max_rows: Maximum rows per split, taken after a fixed shuffle; by default all.
        keep_path: Hub id or folder of unlabelled texts that preserve the model's general use (``train``) and measure
            it (``test``).
        keep_text_column: Column with the text in ``keep_path``.
        name: Subset (configuration) of a data set on the Hub.
        revision: Branch, tag or commit of a data set on the Hub.
        text_pair_column: Column with the second text, if an example is a pair of texts.
        image_column: Column with the image of an image classifier; in folders ``image``.
        kind: ``text`` for a language model: texts without labels, packed to rows of ``max_length`` tokens that are all
            predicted, also from ``train.txt`` or a folder ``train`` of ``.txt`` files; ``labels`` otherwise.
        prompt_column: Column with what precedes the text and is not predicted, for ``kind: text``; each text is then
            a row of its own.

    Raises:
        ValueError: A value has the wrong type or is out of range, or a key for texts is set for images.
    """

    path: str
    text_column: str | None = None
    label_column: str = "label"
    max_length: int = 128
    only: str | None = None
    replace_pronouns: bool = False
    splits: dict[str, str] = field(default_factory=dict)
    max_rows: int | None = None
    keep_path: str | None = None
    keep_text_column: str = "text"
    name: str | None = None
    revision: str | None = None
    text_pair_column: str | None = None
    image_column: str | None = None
    kind: str = "labels"
    prompt_column: str | None = None

    def __post_init__(self) -> None:
        """Check every value and set the default of ``text_column``."""
        check_kinds(self)
        if self.kind not in ("labels", "text"):
            raise ValueError(f"kind must be labels or text; got {self.kind!r}.")
        if self.of_texts and (other := [name for name in OF_LABELS if getattr(self, name)]):
            raise ValueError(f"kind: text is for texts without labels, and not for {other[0]}: remove one of them.")
        if self.prompt_column and not self.of_texts:
            raise ValueError("prompt_column is for language models: set kind: text, or remove prompt_column.")
        if self.image_column is None:
            object.__setattr__(self, "text_column", self.text_column or "text")
        elif of_texts := [name for name in OF_TEXTS if getattr(self, name)]:
            raise ValueError(f"image_column is for images, and {of_texts[0]} is for texts: remove one of them.")
        for name in ("max_length", "max_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        check_splits(self.splits)

    @property
    def of_texts(self) -> bool:
        """Whether next tokens are predicted, and not labels."""
        return self.kind == "text"


@dataclass(frozen=True)
class TaskConfig:
    """A blocked (or control) task.

    Args:
        name: Name of the task, for the report: letters, digits, ``_`` and ``-``.
        label_column: Column with the task's label; none with ``data.kind: text``.
        weight: Relative probability of drawing this task in a training step.
        path: Hub id or folder of its own data set; by default, that of ``data``.
        subset: Subset (configuration) of ``path``, as ``data.name``.
        revision: Branch, tag or commit of ``path``.
        text_column: Column of ``path`` with the text; by default as in ``data``.
        text_pair_column: Column of ``path`` with the second text.
        image_column: Column of ``path`` with the image; by default as in ``data``.
        splits: Splits of ``path``, as ``data.splits``.
        development: Share of test rows for comparing recipes, which only ``glance`` scores on.
        document_column: Column with the source document of a row; no document is in both parts.
        readings: File to commit (JSON Lines) that records which suite read which rows.
        prompt_column: Column of ``path`` with the prompt of a text (``kind: text``).

    Raises:
        ValueError: A value has the wrong type or is out of range, or a key that requires ``path`` is set without it.
    """

    name: str
    label_column: str = ""
    weight: float = 1.0
    path: str | None = None
    subset: str | None = None
    revision: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    image_column: str | None = None
    splits: dict[str, str] = field(default_factory=dict)
    development: float = 0.0
    document_column: str | None = None
    readings: str = READINGS
    prompt_column: str | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        check_kinds(self)
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be positive and finite; got {short(self.weight)}.")
        check_development(self.development, self.document_column)
        check_splits(self.splits)
        own = [n for n in OWN if getattr(self, n)]
        if own and self.path is None:
            raise ValueError(
                f"{own[0]} describes the task's own data set: set path to that data set, or remove {own[0]}."
            )

    def own_data(self, data: DataConfig) -> DataConfig | None:
        """Return the section of the task's own data set, if any; unset keys are as in ``data``."""
        if self.path is None:
            return None
        return dataclasses.replace(
            data,
            path=self.path,
            name=self.subset,
            revision=self.revision,
            splits=self.splits,
            only=None,
            label_column=self.label_column,
            prompt_column=self.prompt_column,
            text_column=self.text_column or data.text_column,
            text_pair_column=self.text_pair_column,
            image_column=self.image_column or data.image_column,
            keep_path=None,
        )


def check_splits(splits: Mapping[str, Any]) -> None:
    """Check the names of splits and their values."""
    check_names(splits, SPLITS, "splits")
    for split, name in splits.items():
        if not isinstance(name, str):
            raise ValueError(f"splits: {split} must be text; got {short(name)}.")


def words_of(kind: Any) -> dict[str, str]:
    """Extract the documentation of each field from a dataclass's docstring, on one line.

    Example:
        >>> words_of(TaskConfig)["label_column"]
        "Column with the task's label; none with `data.kind: text`."
    """
    said = re.split(r"^    (\w+): ", (inspect.getdoc(kind) or "").partition("Args:\n")[2], flags=re.MULTILINE)
    found = dict(zip(said[1::2], said[2::2], strict=True))
    whole = {name: " ".join(text.split("\n\n")[0].replace("``", "`").split()) for name, text in found.items()}
    return {f.name: whole.get(f.name, "") for f in dataclasses.fields(kind)}


def kinds_of(hint: Any) -> list[type]:
    """Return the types that an annotation such as ``dict[str, str] | None`` allows."""
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [get_origin(one) or one for one in hints]


def words_in(file: str, kind: str) -> dict[str, str]:
    """What the code of a dataclass says of each field made by ``option``; read, since importing it takes seconds.

    Example:
        >>> words_in("hardening/adversary_settings.py", "AdversarySettings")["batch_size"]
        'Blocked examples in one inner step.'
    """
    tree = ast.parse((Path(__file__).parents[1] / file).read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind]
    return {
        node.target.id: ast.literal_eval(node.value.args[1])
        for node in found.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call)
    }


def check_kinds(config: Any) -> None:
    """Check every value against the type of its field; a boolean is not a number, but an integer is a float."""
    for name, hint in get_type_hints(type(config)).items():
        value, kinds = getattr(config, name), kinds_of(hint)
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            wanted = " or ".join(IN_WORDS.get(kind, kind.__name__) for kind in kinds if kind is not type(None))
            raise ValueError(f"{name} must be {wanted}; got {short(value)}.")
