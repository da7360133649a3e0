"""Generated English biographies with an easy label (profession) and a hard one (gender).

A biography describes a person's work and private life. Only the private part reveals the gender: through kinship,
clubs and roles of that person. The same words also describe other people, in similar sentences and equally often for
both genders, so a single word is weak evidence. Some biographies contain no cue, and a few contradict their label. In
every split, each profession has equally many women and men.

Example:
    >>> people = biographies("train", 24)
    >>> sum(person.gender == "female" for person in people)
    12
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from .grammar_words import DUTIES, FILLERS, NEUTRAL_FRAMES, OTHER_FRAMES, OWN_FRAMES, ROLES, SHARED_DUTIES, TAILS

PROFESSIONS: tuple[str, ...] = tuple(DUTIES)
GENDERS: tuple[str, str] = ("female", "male")

# Shares of the biographies. The last two limit the accuracy of any classifier of gender to about 88 %.
NAMED_SHARE = 0.2  # name the profession
SHARED_DUTY_SHARE = 0.08  # describe work that fits two professions
SECOND_CUE_SHARE = 0.35  # contain two own roles, of those with any
DISTRACTOR_SHARE = 0.55  # contain another person's role
NEUTRAL_SHARE = 0.7  # contain a neutral sentence, of those without a distractor
NO_CUE_SHARE = 0.15  # contain no own role
CONTRADICTION_SHARE = 0.05  # contain own roles of the other gender

MAX_WORDS = 43  # limits a text to about 64 tokens

# A text's hash assigns it to one of four equal parts and so to a split; no two splits can share a text.
SPLIT_PARTS: dict[str, tuple[int, ...]] = {"train": (0, 1), "validation": (2,), "test": (3,)}

_CELLS = tuple((profession, gender) for profession in PROFESSIONS for gender in GENDERS)
_SLOT = re.compile(r"\{(\w+)\}")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Biography:
    """One biography with its two labels.

    Args:
        text: Two to four English sentences.
        profession: The desired label, one of :data:`PROFESSIONS`.
        gender: The label to be blocked, one of :data:`GENDERS`.

    Example:
        >>> Biography("Milks ninety cows. Also an aunt to two.", "farmer", "female").profession
        'farmer'
    """

    text: str
    profession: str
    gender: str


def biographies(split: str, count: int, *, seed: int = 0) -> list[Biography]:
    """Write the biographies of one split.

    Each block of 24 contains every profession with every gender once, so a shorter list is a prefix of a longer one
    and both are balanced.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        count: Number of biographies, a positive multiple of 24 (professions times genders).
        seed: Seed of the biographies. Splits never share a text, even with different seeds.

    Returns:
        Biographies with distinct texts, the same on every machine.

    Raises:
        ValueError: If the split is unknown, or the count cannot be balanced.

    Example:
        >>> len({person.text for person in biographies("test", 48)})
        48
    """
    if split not in SPLIT_PARTS:
        raise ValueError(f"unknown split: got {split!r}; use one of {', '.join(SPLIT_PARTS)}")
    if count <= 0 or count % len(_CELLS):
        raise ValueError(
            f"count cannot be balanced over {len(PROFESSIONS)} professions and {len(GENDERS)} genders: "
            f"got {count}; use a positive multiple of {len(_CELLS)}"
        )
    rng = random.Random(f"biographies/{split}/{seed}")
    seen: set[str] = set()
    people: list[Biography] = []
    while len(people) < count:
        for profession, gender in _shuffled(rng, _CELLS):
            text = _fresh_text(rng, profession, gender, split, seen)
            people.append(Biography(text, profession, gender))
    return people


def splits(train: int = 2400, validation: int = 1200, *, test: int = 1200, seed: int = 0) -> dict[str, list[Biography]]:
    """Write all three splits.

    Args:
        train: Size of the training split.
        validation: Size of the validation split.
        test: Size of the test split.
        seed: Seed of all three; each split draws from its own stream.

    Returns:
        The biographies by split name, without duplicate texts.

    Raises:
        ValueError: If a size cannot be balanced; see :func:`biographies`.

    Example:
        >>> [len(people) for people in splits(48, 24, test=24).values()]
        [48, 24, 24]
    """
    sizes = {"train": train, "validation": validation, "test": test}
    return {split: biographies(split, size, seed=seed) for split, size in sizes.items()}


def _fresh_text(rng: random.Random, profession: str, gender: str, split: str, seen: set[str]) -> str:
    """Draw texts until one is short, new and in the split; add it to ``seen``."""
    while True:
        text = _text(rng, profession, gender)
        if len(text.split()) > MAX_WORDS:
            continue
        part = hashlib.sha256(text.encode()).digest()[0] % 4
        if part in SPLIT_PARTS[split] and text not in seen:
            seen.add(text)
            return text


def _text(rng: random.Random, profession: str, gender: str) -> str:
    """Draw one biography: first the work, then one to three sentences about the person in random order."""
    frames = _shuffled(rng, _personal(rng, gender))
    sentences = [_filled(rng, frame, profession, shown) for frame, shown in frames]
    return " ".join([_work(rng, profession), *sentences])


def _personal(rng: random.Random, gender: str) -> list[tuple[str, str]]:
    """Choose the sentences about the person, each with the gender of its role."""
    fate = rng.random()
    contradicts, silent = fate < CONTRADICTION_SHARE, fate >= 1 - NO_CUE_SHARE
    own = GENDERS[GENDERS.index(gender) ^ contradicts]
    cues = 1 + (rng.random() < SECOND_CUE_SHARE)
    neutral = _shuffled(rng, NEUTRAL_FRAMES)
    # A biography without cues has as many sentences as any other, so its length reveals nothing.
    chosen = neutral[:cues] if silent else _shuffled(rng, OWN_FRAMES)[:cues]
    frames = [(frame, own) for frame in chosen]
    # The distractor's gender is random and independent of the person's.
    if rng.random() < DISTRACTOR_SHARE:
        frames.append((_pick(rng, OTHER_FRAMES), _pick(rng, GENDERS)))
    elif rng.random() < NEUTRAL_SHARE:
        frames.append((neutral[-1], own))
    return frames


def _work(rng: random.Random, profession: str) -> str:
    """Draw the sentence about the work."""
    duty = _pick(rng, DUTIES[profession])
    if rng.random() < SHARED_DUTY_SHARE:
        duty = _pick(rng, [text for fitting, text in SHARED_DUTIES if profession in fitting])
    elif rng.random() < NAMED_SHARE:
        duty = f"{_with_article(profession).capitalize()} who {duty[0].lower()}{duty[1:]}"
    return _filled(rng, f"{duty}{_pick(rng, TAILS)}.", profession, GENDERS[0])


def _filled(rng: random.Random, frame: str, profession: str, gender: str) -> str:
    """Fill the slots of a frame recursively."""

    def fill(slot: re.Match[str]) -> str:
        if slot[1] == "role":
            role = _pick(rng, ROLES)[GENDERS.index(gender)]
            return _with_article(_SLOT.sub(fill, "{mood}" + role))
        if slot[1] == "second":
            return _with_article(_pick(rng, [other for other in PROFESSIONS if other != profession]))
        return _pick(rng, FILLERS[slot[1]])

    return _SLOT.sub(fill, frame)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


# Python guarantees reproducible numbers across versions only for random(), so both functions below use only random().
def _pick(rng: random.Random, items: Sequence[_Item]) -> _Item:
    return items[int(rng.random() * len(items))]


def _shuffled(rng: random.Random, items: Sequence[_Item]) -> list[_Item]:
    return sorted(items, key=lambda _: rng.random())
