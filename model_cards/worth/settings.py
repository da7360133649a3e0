r"""Write the rows of the settings in which weights matter, for ``hf-selfdestruct harden``.

    python model_cards/worth/settings.py SHARED_DATA lab-runs
    hf-selfdestruct harden examples/wikibios_same_article.yaml --model MINILM
    hf-selfdestruct harden examples/wikibios_same_person.yaml --model MINILM

Each folder has ``train`` (for hardening), ``validation`` (the attacker's) and ``test`` as parquet, with a column
``document``; no document is in two of them, in any of the folders.
"""

import sys
from pathlib import Path

import pandas as pd
from pairs import same_article, same_person
from rows import biographies, fields

FILES = {"train": "train", "attack": "validation", "test": "test"}
COLUMNS = ["text", "profession", "gender", "source", "document"]
MOST = {"train": 6000, "attack": 1430, "test": 1200}  # rows of pairs; 1,001 and 429 for the attacker


def professions(data: Path) -> pd.DataFrame:
    """The desired task of the first setting: professions of biographies, genders even within each."""
    rows = biographies(data)
    return rows[rows["balanced"]][[*COLUMNS, "split"]]


def person_pairs(data: Path) -> pd.DataFrame:
    """Two sentences without a common word, of one biography or of two: as many of each."""
    return _cut(same_person(data, strict=True)).rename(columns={"label": "person"})


def article_pairs(data: Path) -> pd.DataFrame:
    """As :func:`person_pairs`, of the articles of the general texts."""
    return _cut(same_article(data, strict=True)).rename(columns={"label": "article"})


def _cut(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(rows[rows["split"] == split].groupby("label").head(most // 2) for split, most in MOST.items())


def unseen_fields(data: Path) -> pd.DataFrame:
    """Fields of professions, as many rows of each; test rows are of professions that no other rows have.

    Genders are even within each profession, so that the field of a row says nothing of them.
    """
    rows = fields(data, unseen=True).rename(columns={"label": "field"}).sample(frac=1, random_state=0)
    number = rows.groupby(["split", "profession", "gender"]).cumcount()
    sizes = rows.groupby(["split", "profession", "gender"]).size().unstack(fill_value=0).min(axis=1)
    least = pd.MultiIndex.from_frame(rows[["split", "profession"]]).map(sizes)
    rows = rows[number.to_numpy() < least.to_numpy()].sort_values(["split", "field"], kind="stable")
    # Pairs of a woman and a man of one profession stay together when fields are cut to one size.
    pair = rows.groupby(["split", "profession", "gender"]).cumcount().astype(str) + rows["profession"]
    rank = pair.groupby([rows["split"], rows["field"]]).transform(lambda of: pd.factorize(of)[0])
    most = rank.groupby([rows["split"], rows["field"]]).max().groupby("split").min()
    return rows[rank <= rows["split"].map(most)][[*COLUMNS, "field", "split"]]


SETTINGS = {
    "professions": professions,
    "same-person": person_pairs,
    "same-article": article_pairs,
    "unseen-fields": unseen_fields,
}


def main(data: str, out: str) -> None:
    """Write every setting's folder, and check that its splits share no document."""
    seen: dict[str, str] = {}
    for name, make in SETTINGS.items():
        rows, folder = make(Path(data)), Path(out, name)
        folder.mkdir(parents=True, exist_ok=True)
        for split, file in FILES.items():
            part = rows[rows["split"] == split].drop(columns="split")
            for document in {*part["document"]}:
                if seen.setdefault(document, split) != split:
                    raise ValueError(f"{name}: document {document} is in {split!r} and in {seen[document]!r}.")
            part.sample(frac=1, random_state=0).to_parquet(folder / f"{file}.parquet", index=False)
            sys.stdout.write(f"{name}/{file}: {len(part)} rows\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
