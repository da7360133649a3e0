"""The sections of a configuration that say where examples come from; light, so that ``--help`` can list them."""

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

from ..untrusted_json import check_names

SPLITS = ("train", "validation", "test")
OWN = ("subset", "revision", "text_column", "text_pair_column", "image_column", "splits")  # of a task's own data set
OF_TEXTS = ("text_column", "text_pair_column", "replace_pronouns", "keep_path")
IN_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "keys and values"}


@dataclass(frozen=True)
class DataConfig:
    """Where the examples come from and how they become a model's inputs.

    Args:
        path: Hub id, or a folder with ``train.parquet``, ``validation.parquet`` and ``test.parquet``
            (also ``.json``, ``.jsonl``, ``.csv``); of images also a folder with ``train``, ``validation`` and ``test``,
            each holding a folder of images for every class (the column ``label``), or images and a ``metadata.csv``
            with ``file_name`` and columns of labels.
        text_column: Column with the text; by default ``text``, where no ``image_column`` is given.
        label_column: Column with the desired task's label, text or integer.
        max_length: Most tokens of an example, as far as the model has positions for them; the rest of a text is cut.
        only: A true/false column; rows where it is false are left out.
        replace_pronouns: Replace he/she/him/her/his/hers/himself/herself by neutral ones, as the MLAC
            paper does with its biographies.
        splits: Names of the splits, where they are not ``train``, ``validation`` and ``test``, or parts of them, such
            as ``validation: "train[80%:]"``.
        max_rows: Most rows of each split, the first ones of a fixed shuffle; all by default.
        keep_path: Hub id or folder of unlabelled texts on which the model's general use is kept (``train``), and
            measured (``test``).
        keep_text_column: Column with those texts.
        name: Subset of a data set on the Hub that has several.
        revision: Branch, tag or commit of a data set on the Hub.
        text_pair_column: Column with a second text, where an example is a pair of texts.
        image_column: Column with the image, where examples are images and the model is a classifier of images; in
            folders of images the column is ``image``.

    Raises:
        ValueError: A value is of another kind or out of range, or images have what is of texts.
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

    def __post_init__(self) -> None:
        """Check every value; without an image column the examples are texts."""
        check_kinds(self)
        if self.image_column is None:
            object.__setattr__(self, "text_column", self.text_column or "text")
        elif of_texts := [name for name in OF_TEXTS if getattr(self, name)]:
            raise ValueError(
                f"image_column says that the examples are images, and {of_texts[0]} is of texts: leave one of them out."
            )
        for name in ("max_length", "max_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        check_splits(self.splits)


@dataclass(frozen=True)
class TaskConfig:
    """A blocked (or control) task.

    Args:
        name: Name of the task, for the report: letters, digits, ``_`` and ``-``.
        label_column: Column with the task's label, text or integer.
        weight: Chance of being drawn in a step, beside those of other tasks.
        path: Hub id or folder of the task's own data set; by default the rows of ``data`` have its labels too.
        subset: Subset of ``path``, as ``data.name``.
        revision: Branch, tag or commit of ``path``.
        text_column: Column with the text, in ``path``; by default as in ``data``.
        text_pair_column: Column with a second text, in ``path``.
        image_column: Column with the image, in ``path``; by default as in ``data``.
        splits: Splits of ``path``, as ``data.splits``.

    Raises:
        ValueError: A value is of another kind or out of range, or says more of a data set that is not named.
    """

    name: str
    label_column: str
    weight: float = 1.0
    path: str | None = None
    subset: str | None = None
    revision: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    image_column: str | None = None
    splits: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value."""
        check_kinds(self)
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be positive and finite; got {short(self.weight)}.")
        check_splits(self.splits)
        own = [n for n in OWN if getattr(self, n)]
        if own and self.path is None:
            raise ValueError(
                f"{own[0]} is of the task's own data set; name the data set by path, or leave {own[0]} out."
            )

    def own_data(self, data: DataConfig) -> DataConfig | None:
        """The task's own data set, if it has one: what is not said of it is as in ``data``."""
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
            text_column=self.text_column or data.text_column,
            text_pair_column=self.text_pair_column,
            image_column=self.image_column or data.image_column,
            keep_path=None,
        )


def check_splits(splits: Mapping[str, Any]) -> None:
    """Refuse names of splits that are none."""
    check_names(splits, SPLITS, "splits")
    for split, name in splits.items():
        if not isinstance(name, str):
            raise ValueError(f"splits: {split} must be text; got {short(name)}.")


def words_of(kind: Any) -> dict[str, str]:
    """What the docstring of a dataclass says of each of its fields, on one line.

    Example:
        >>> words_of(DataConfig)["text_column"]
        'Column with the text; by default text, where no image_column is given.'
    """
    said = re.split(r"^    (\w+): ", (inspect.getdoc(kind) or "").partition("Args:\n")[2], flags=re.MULTILINE)
    found = dict(zip(said[1::2], said[2::2], strict=True))
    whole = {name: " ".join(text.split("\n\n")[0].replace("``", "`").split()) for name, text in found.items()}
    return {f.name: whole.get(f.name, "") for f in dataclasses.fields(kind)}


def kinds_of(hint: Any) -> list[type]:
    """The types that an annotation such as ``dict[str, str] | None`` admits."""
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
    """Refuse a value of another type than its field's; true is no number, but a whole number is a number."""
    for name, hint in get_type_hints(type(config)).items():
        value, kinds = getattr(config, name), kinds_of(hint)
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            wanted = " or ".join(IN_WORDS.get(kind, kind.__name__) for kind in kinds if kind is not type(None))
            raise ValueError(f"{name} must be {wanted}; got {short(value)}.")
