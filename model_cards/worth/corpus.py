"""What an attacker without weights gets who also has unlabelled texts of the same source: latent semantic analysis.

    python model_cards/worth/corpus.py SHARED_DATA [CANDIDATE ...]

The texts are the biographies or articles of no test row. Rows, draws and choice on selection rows are those of
``worth/measure.py``; the result is ``model_cards/lab/worth_corpus.json``, a column of its table.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from candidates import CANDIDATES
from measure import EXAMPLES, LEDGER, SEEDS, SELECTION, lines
from raw import RawProbe
from rows import articles, biographies, drawn
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from table import CORPUS, table

from hf_selfdestruct.attacks.metrics import scores
from hf_selfdestruct.tasks.blocked_task import seed_of

MOST, DIMENSIONS = 9000, 150
OF_ARTICLES = ("same-article-apart",)


def features(texts: list[str], parts: dict[str, pd.DataFrame]) -> dict[str, dict[str, np.ndarray]]:
    """By name and split: a text in latent dimensions, or how two texts differ there."""
    words = TfidfVectorizer(sublinear_tf=True, min_df=3, stop_words="english")
    latent = TruncatedSVD(DIMENSIONS, random_state=0, n_iter=3).fit(words.fit_transform(texts))

    def placed(part: pd.DataFrame, column: str) -> np.ndarray:
        values = latent.transform(words.transform(part[column]))
        return np.asarray(values / (np.linalg.norm(values, axis=1, keepdims=True) + 1e-9))

    if "other" not in parts["test"]:
        return {"latent": {s: placed(part, "text") for s, part in parts.items()}}
    both = {s: (placed(part, "text"), placed(part, "other")) for s, part in parts.items()}
    cosine = {s: (a * b).sum(axis=1, keepdims=True) for s, (a, b) in both.items()}
    return {
        "cosine": cosine,
        "latent": {s: np.hstack([cosine[s], np.abs(a - b), a * b]) for s, (a, b) in both.items()},
    }


def reached(name: str, data: Path) -> dict[int, list[float]]:
    """Test accuracies by number of examples."""
    documents = articles(data) if name in OF_ARTICLES else biographies(data)
    rows = drawn(CANDIDATES[name].make(data), even=CANDIDATES[name].even)
    attack = rows[rows["split"] == "attack"]
    parts = {"train": attack[SELECTION:], "selection": attack[:SELECTION], "test": rows[rows["split"] == "test"]}
    names = sorted({*rows["label"]})
    labels = {s: part["label"].map(names.index).to_numpy() for s, part in parts.items()}
    made = features(documents[documents["split"] != "test"]["text"].tolist()[:MOST], parts)
    probes = [
        RawProbe(of, made[of], make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)))
        for of in made
        for c in (0.01, 0.1)
    ]
    found = {}
    for examples in sorted({min(n, len(labels["train"])) for n in EXAMPLES}):
        few = [_few(name, examples, seed, len(labels["train"])) for seed in SEEDS]
        tried = [probe.answers(labels["train"], few[0], len(names))["selection"] for probe in probes]
        best = probes[max(range(len(probes)), key=lambda i: scores(labels["selection"], tried[i]).merit)]
        answers = [best.answers(labels["train"], rows, len(names))["test"] for rows in few]
        found[examples] = [round(float((one.argmax(axis=1) == labels["test"]).mean()), 4) for one in answers]
    return found


def _few(name: str, examples: int, seed: int, rows: int) -> list[int]:
    """The rows that :meth:`AttackData.few` draws."""
    found = np.random.default_rng(seed_of(name, "few-shot", seed)).permutation(rows)[:examples]
    return [int(row) for row in found]


def main(data: str, *names: str) -> None:
    """Measure candidates that are in the ledger and not measured yet (or those named), and draw the table again."""
    found = json.loads(CORPUS.read_text(encoding="utf-8")) if CORPUS.is_file() else {}
    for name in names or dict.fromkeys(line["task"] for line in lines()):
        if name not in found:
            found[name] = reached(name, Path(data))
            CORPUS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    LEDGER.with_suffix(".md").write_text(table(lines()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
