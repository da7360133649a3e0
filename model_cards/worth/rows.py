"""Rows of candidate tasks from the biographies and the general texts: text (and its pair), label, document.

Documents are split once and for all by a hash of their name, so that no two splits of any task share one.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from words import COUNTRIES, FIELDS, PERFORMERS, TOPICS, UNSEEN_COUNTRIES

ATTACK, TEST = 1200, 400  # rows of a task: 1,000 to train on and 200 to select on, and those to test on
SPLITS = ("train", "train", "train", "train", "attack", "attack", "attack", "attack", "test", "test")
ENTITY = "_"  # stands for a removed word, as for removed names in the biographies
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"_])")


@dataclass(frozen=True)
class Candidate:
    """A task that could be blocked.

    Attributes:
        make: Makes its labelled rows from the folder of shared data.
        about: What is read from what.
        max_length: Tokens.
        even: Whether to draw as many rows of each label.
    """

    make: Callable[[Path], pd.DataFrame]
    about: str
    max_length: int = 64
    even: bool = True


def split_of(document: str) -> str:
    """The split of a document: four in ten for hardening, as many for the attacker, two for the test."""
    return SPLITS[hashlib.sha256(document.encode()).digest()[0] * len(SPLITS) // 256]


def drawn(rows: pd.DataFrame, *, even: bool = True) -> pd.DataFrame:
    """At most :data:`ATTACK` and :data:`TEST` rows of these two splits, as many of each label unless told otherwise.

    Args:
        rows: With ``split`` and ``label``.
        even: Whether to draw as many of each label.
    """
    rows = rows.sample(frac=1, random_state=0)
    parts = []
    for split, most in (("attack", ATTACK), ("test", TEST)):
        part = rows[rows["split"] == split]
        if even:
            count = min(part["label"].value_counts().min(), -(-most // part["label"].nunique()))
            part = part.groupby("label").head(count)
        parts.append(part.sample(frac=1, random_state=0).head(most))
    return pd.concat(parts, ignore_index=True)


def biographies(data: Path) -> pd.DataFrame:
    """All biographies; text neutralised."""
    rows = pd.concat([pd.read_parquet(data / "wikibios" / f"{s}.parquet") for s in ("train", "validation", "test")])
    document = rows["source"] + "/" + rows["page_id"].astype(str)
    rows = rows.assign(text=rows["text_neutral"], document=document)
    return rows.assign(split=document.map(split_of)).reset_index(drop=True)


def articles(data: Path) -> pd.DataFrame:
    """Articles of the general texts, without those that are talk pages."""
    found = [
        pd.read_parquet(data / "lm_texts/simplewiki_general" / f"{s}.parquet") for s in ("train", "validation", "test")
    ]
    rows = pd.concat(found, ignore_index=True)
    rows = rows[~rows["text"].str.contains(r"\(UTC\)|\(talk\)")].drop_duplicates("text")
    document = rows["text"].map(lambda text: hashlib.sha256(text.encode()).hexdigest()[:16])
    return rows.assign(document=document, split=document.map(split_of)).reset_index(drop=True)


def labelled(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """With a column as the label."""
    return rows.assign(label=rows[column])


def professions(data: Path) -> pd.DataFrame:
    """18 professions as they are distributed."""
    rows = biographies(data)
    return labelled(rows[rows["balanced"]], "profession")


def eight_professions(data: Path) -> pd.DataFrame:
    """The eight commonest professions, as many of each."""
    rows = labelled(biographies(data), "profession")
    return rows[rows["label"].isin(rows["label"].value_counts().index[:8])]


def gender(data: Path) -> pd.DataFrame:
    """Gender, independent of the profession."""
    rows = biographies(data)
    return labelled(rows[rows["balanced"]], "gender")


def performer(data: Path) -> pd.DataFrame:
    """Performers or not."""
    rows = biographies(data)
    return rows.assign(label=rows["profession"].isin(PERFORMERS).map({True: "performer", False: "other"}))


def source(data: Path) -> pd.DataFrame:
    """Which encyclopedia."""
    rows = biographies(data)
    return rows.assign(label=rows["source"].str.rstrip("_ab"))


def fields(data: Path, *, unseen: bool) -> pd.DataFrame:
    """Field of a profession; with ``unseen`` test rows are of professions that the attacker has no rows of."""
    rows = biographies(data)
    sides = {job: (field, side) for field, both in FIELDS.items() for side, jobs in enumerate(both) for job in jobs}
    rows = rows[rows["profession"].isin(sides)]
    placed = rows["profession"].map(sides)
    rows = rows.assign(label=placed.str[0], side=placed.str[1].map({0: "attack", 1: "test"}))
    return rows[(rows["side"] == "test") == (rows["split"] == "test")] if unseen else rows


def regions(data: Path, *, unseen: bool) -> pd.DataFrame:
    """Region of the world; the words that name countries are removed, cities and people's names remain."""
    names = {country: words for of in COUNTRIES.values() for country, words in of.items()}
    region_of = {country: region for region, of in COUNTRIES.items() for country in of}
    patterns = {c: re.compile(rf"\b(?:{w.replace('.', '[.]')})(?!\w)") for c, w in names.items()}
    everything = re.compile("|".join(f"(?:{pattern.pattern})" for pattern in patterns.values()))
    rows = biographies(data)
    found = rows["text"].map(lambda text: [c for c, pattern in patterns.items() if pattern.search(text)])
    rows, found = rows[found.str.len() > 0], found[found.str.len() > 0]
    placed = found.map(lambda countries: {region_of[c] for c in countries})
    only = placed.str.len() == 1
    rows, found, placed = rows[only], found[only], placed[only]
    rows = rows.assign(
        label=placed.map(lambda regions: next(iter(regions))),
        text=rows["text"].map(lambda text: everything.sub(ENTITY, text)),
        others=found.map(lambda countries: len(set(countries) & UNSEEN_COUNTRIES) / len(countries)),
    )
    if unseen:
        rows = rows[rows["others"] == (rows["split"] == "test")]
    return rows


def eras(data: Path) -> pd.DataFrame:
    """When a person lived, from texts without any digit."""
    rows = biographies(data)
    year = rows["text"].str.extract(r"\b(1[4-9]\d\d|20[01]\d)\b")[0].astype(float)
    rows = rows.assign(label=pd.cut(year, [1400, 1880, 1930, 1960, 1985, 2020], labels=False)).dropna(subset="label")
    era = rows["label"].astype(int).map(dict(enumerate(["to 1880", "to 1930", "to 1960", "to 1985", "later"])))
    return rows.assign(label=era, text=rows["text"].str.replace(r"\d+", ENTITY, regex=True))


def topics(data: Path, *, unseen: bool) -> pd.DataFrame:
    """Topic of an article, from what follows its first sentence."""
    rows = articles(data)
    kinds = [(topic, kind, i) for topic, of in TOPICS.items() for i, kind in enumerate(of.values())]
    patterns = [
        re.compile(rf"\b(?:is|are|was|were) (?:an?|the|one of the)\b(?:[^.]*?)\b(?:{kind})\b") for _, kind, _ in kinds
    ]
    first = rows["text"].map(lambda text: SENTENCE.split(text)[0])
    starts = first.map(lambda s: [m.end() if (m := pattern.search(s)) else len(s) + 1 for pattern in patterns])
    best = starts.map(lambda ends: int(np.argmin(ends)))
    known = [min(ends) <= len(sentence) for ends, sentence in zip(starts, first, strict=True)]
    rest = [text[len(sentence) :].strip() for text, sentence in zip(rows["text"], first, strict=True)]
    rows = rows.assign(text=rest, label=best.map(lambda i: kinds[i][0]), kind=best.map(lambda i: kinds[i][2]))
    rows = rows[np.array(known) & (rows["text"].str.len() > 120)]
    # There are few: this task has no rows for hardening.
    split = np.where(rows["kind"] < 2, "attack", "test") if unseen else rows["split"].replace("train", "attack")
    return rows.assign(split=split)
