"""Make the data of the source shift: harden on Simple English Wikipedia, be attacked with English Wikipedia.

    python model_cards/source_shift.py WIKIBIOS OUT
    hf-selfdestruct harden examples/wikibios.yaml --data.path OUT --model MINILM

Genders are even within each profession and source, which ``balanced`` rows are only over all sources.
"""

import sys
from pathlib import Path

import pandas as pd

SOURCES = {"train": "simplewiki", "validation": "enwiki", "test": "enwiki"}


def main(folder: str, out: str) -> None:
    """Write ``train``, ``validation`` and ``test`` as parquet, with the professions that all of them have."""
    splits = {}
    for split, source in SOURCES.items():
        rows = pd.read_parquet(Path(folder, f"{split}.parquet"))
        splits[split] = even(rows[rows["source"].str.startswith(source)])
    shared = set.intersection(*(set(rows["profession"]) for rows in splits.values()))
    Path(out).mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        kept = rows[rows["profession"].isin(shared)].assign(balanced=True)
        kept.to_parquet(Path(out, f"{split}.parquet"), index=False)
        sys.stdout.write(f"{split}: {len(kept)} rows, {kept['profession'].nunique()} professions\n")


def even(rows: pd.DataFrame) -> pd.DataFrame:
    """As many rows of each gender as of the other within each profession and source, drawn by chance."""
    shuffled = rows.sample(frac=1, random_state=0)
    number = shuffled.groupby(["profession", "source", "gender"]).cumcount()
    counts = rows.groupby(["profession", "source"])["gender"].value_counts().unstack(fill_value=0).min(axis=1)
    least = shuffled.set_index(["profession", "source"]).index.map(counts)
    return shuffled[number.to_numpy() < least.to_numpy()]


if __name__ == "__main__":
    main(*sys.argv[1:])
