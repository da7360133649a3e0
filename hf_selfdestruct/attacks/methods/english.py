"""What any reader of English knows of a text without a model: its topics, tense, persons, and how it begins."""

from __future__ import annotations

import functools
import re
from importlib import resources

import numpy as np

ENDINGS = ("ings", "ing", "ers", "ies", "ed", "es", "er", "s")
LEAST = 3  # letters that an ending must leave
IS = r"(?:is|are|was|were)"
# Kinds of words that the sentences of one text tend to share, or of which one excludes the other.
KINDS = {
    "he": r"\b(?:he|him|his|himself)\b",
    "she": r"\b(?:she|her|hers|herself)\b",
    "it": r"\b(?:it|its|itself)\b",
    "they": r"\b(?:they|them|their|themselves)\b",
    "you": r"\b(?:you|your|we|our|i|my)\b",
    "past": r"\b(?:was|were|had|did|became|began|made|took|went|\w{3,}ed)\b",
    "present": r"\b(?:is|are|has|have|do|does|becomes?|makes?)\b",
    "possible": r"\b(?:can|could|may|might|will|would|should|must)\b",
    "year": r"\b(?:1\d\d\d|20\d\d)\b",
    "number": r"\d",
    "quoted": r"[\"“”]",
    "name": r"(?<=[a-z,] )[A-Z]\w+",  # nothing where the tokenizer folds capitals
}
CONTINUES = re.compile(r"^\W*(?:he|she|it|they|his|her|its|their|this|these|those|such|however|also|then)\b", re.I)
DEFINES = re.compile(rf"^(?:\W*\w+\W+){{1,10}}?{IS} (?:an?|the|one of)\b", re.I)


@functools.cache
def topics() -> dict[str, frozenset[int]]:
    """The topics of a word without its ending, as numbers.

    Example:
        >>> topics()["planet"] == topics()["galaxy"]
        True
    """
    text = resources.files(__package__).joinpath("topics.txt").read_text(encoding="utf-8")
    lists = re.sub(r"\n +", " ", text).splitlines()[1:]
    found: dict[str, set[int]] = {}
    for number, line in enumerate(lists):
        for word in line.partition(":")[2].split():
            found.setdefault(stem(word), set()).add(number)
    return {word: frozenset(of) for word, of in found.items()}


def stem(word: str) -> str:
    """A word in small letters without its ending.

    Example:
        >>> [stem(word) for word in ("Planets", "orbiting", "sea")]
        ['planet', 'orbit', 'sea']
    """
    word = word.lower()
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= LEAST:
            return word[: -len(ending)]
    return word


def about(text: str) -> np.ndarray:
    """How much a text is about each topic; a word of several topics counts less for each.

    Args:
        text: A sentence or more.

    Returns:
        Array ``(topics,)``.
    """
    known = topics()
    found = np.zeros(1 + max(max(of) for of in known.values()))
    for of in (known.get(word, frozenset()) for word in {stem(word) for word in re.findall(r"[A-Za-z]+", text)}):
        found[list(of)] += 1 / max(1, len(of)) ** 0.5
    return found


def kinds(text: str) -> np.ndarray:
    """Whether a text has words of each of :data:`KINDS`.

    Args:
        text: A sentence or more.

    Returns:
        Array ``(kinds,)`` of 0 and 1.
    """
    flags = {"name": 0}
    return np.array([bool(re.search(of, text, flags.get(name, re.I))) for name, of in KINDS.items()], dtype=float)


def continues(text: str) -> np.ndarray:
    """Signs that a text continues another: a pronoun first, no definition, no end, few letters.

    Args:
        text: A sentence or more.

    Returns:
        Array ``(4,)``, each larger where it rather continues one.
    """
    cut = not re.search(r"[.!?][\"')\]]?\s*$", text)
    signs = (bool(CONTINUES.search(text)), not DEFINES.search(text), cut, -np.log1p(len(text)))
    return np.array(signs, dtype=float)
