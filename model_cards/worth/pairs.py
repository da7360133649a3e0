"""Rows of candidate tasks whose rows are pairs of sentences, which words alone cannot solve."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from rows import ENTITY, SENTENCE, articles, biographies

LEAST, MOST = 50, 220  # characters of a sentence
# Words that any two sentences may share.
COMMON = {
    *re.findall(
        r"\w+",
        """a the an of in on at to for from by with and or but as is are was were be been being it its they them their
        he she his her this that these those which who whom whose when where while after before during until
        since into between over under about also not no one two first many most some other such than then
        there has have had can could would may will more only all""",
    )
}


def sentences(text: str) -> list[str]:
    """Sentences of usual length."""
    return [s for s in SENTENCE.split(text) if LEAST <= len(s) <= MOST]


def content(text: str) -> set[str]:
    """What a sentence says in words: its stems of four letters, without common words; numbers and short words too."""
    return {word[:4] for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in COMMON}


def apart(first: str, second: str) -> bool:
    """Whether two sentences share no word but common ones."""
    return not content(first) & content(second)


def same_document(rows: pd.DataFrame, *, strict: bool) -> pd.DataFrame:
    """Two sentences of one document, or of two; with ``strict`` no pair shares a word but common ones."""
    found = []
    for split, part in rows.groupby("split"):
        generator = np.random.default_rng(0)
        texts = zip(part["document"], part["text"].map(sentences), strict=True)
        spoken = [(document, said) for document, said in texts if len(said) > 1]
        order = generator.permutation(len(spoken))
        for i, j in zip(order, np.roll(order, 1), strict=True):
            (own, said), (_, others) = spoken[i], spoken[j]
            same = _pair([(a, b) for k, a in enumerate(said) for b in said[k + 1 :]], generator, strict)
            # The sentence that both pairs begin with says nothing of the label.
            different = _pair([(same[0], b) for b in others], generator, strict) if same else None
            if same and different:
                found += [(*same, "same", own, split), (*different, "other", own, split)]
    return pd.DataFrame(found, columns=["text", "other", "label", "document", "split"])


def _pair(pairs: list[tuple[str, str]], generator: np.random.Generator, strict: bool) -> tuple[str, str] | None:
    fitting = [pair for pair in pairs if apart(*pair)] if strict else pairs
    return fitting[generator.integers(len(fitting))] if fitting else None


def same_article(data: Path, *, strict: bool) -> pd.DataFrame:
    """Whether two sentences are of one article."""
    return same_document(articles(data), strict=strict)


def same_person(data: Path, *, strict: bool) -> pd.DataFrame:
    """Whether two sentences are of one biography, whose names are removed."""
    return same_document(biographies(data), strict=strict)


def same_label(data: Path, column: str) -> pd.DataFrame:
    """Whether the people of two biographies, a sentence of each, have the same profession or gender."""
    rows = biographies(data)
    rows = rows[rows["balanced"]]
    found: list[tuple[str, ...]] = []
    for split, part in rows.groupby("split"):
        found += _alike(part, column, str(split))
    return pd.DataFrame(found, columns=["text", "other", "label", "document", "split"])


def _alike(part: pd.DataFrame, column: str, split: str) -> Iterator[tuple[str, ...]]:
    """Pairs of people, each person once: of an evenly drawn label, and of the same or another one."""
    generator = np.random.default_rng(0)
    waiting = {
        label: [
            (document, said[0])
            for document, text in zip(of["document"], of["text"], strict=True)
            if (said := sentences(text))
        ]
        for label, of in part.sample(frac=1, random_state=0).groupby(column)
    }
    while sum(len(of) > 3 for of in waiting.values()) > 1:
        rich = [label for label, of in waiting.items() if len(of) > 3]
        one, two = (str(label) for label in generator.choice(rich, size=2, replace=False))
        for label, (a, b) in (("same", (one, one)), ("other", (one, two))):
            (document, text), (_, other) = waiting[a].pop(), waiting[b].pop()
            yield text, other, label, document, split


def order(data: Path) -> pd.DataFrame:
    """Which of two neighbouring sentences comes first."""
    rows = articles(data)
    found = []
    for document, text, split in zip(rows["document"], rows["text"], rows["split"], strict=True):
        said = SENTENCE.split(text)
        for i in range(1, len(said) - 1, 3):
            pair = said[i], said[i + 1]
            if all(LEAST <= len(s) <= MOST for s in pair):
                forward = (i // 3) % 2 == 0
                found.append(
                    (*(pair if forward else pair[::-1]), "forward" if forward else "backward", document, split)
                )
    return pd.DataFrame(found, columns=["text", "other", "label", "document", "split"])


def domain(data: Path) -> pd.DataFrame:
    """Which of two books or an encyclopedia a sentence is of; names are removed."""
    found = []
    for name in ("war_and_peace", "shakespeare", "simplewiki_general"):
        splits = {"train": "attack", "test": "test", "validation": "test"}
        for file, split in splits.items():
            for number, text in enumerate(pd.read_parquet(data / "lm_texts" / name / f"{file}.parquet")["text"]):
                said = [s for s in re.split(r"(?<=[.!?;:])\s+", text) if LEAST <= len(s) <= 150]
                found += [
                    (re.sub(r"(?<=\w )[A-Z]\w+", ENTITY, s).replace("\n", " "), name, f"{name}/{file}/{number}", split)
                    for s in said[:1]
                ]
    return pd.DataFrame(found, columns=["text", "label", "document", "split"])
