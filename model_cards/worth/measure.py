r"""Which tasks are worth blocking: raw input, scratch and base for every candidate, at 50 to 1,000 examples.

    python model_cards/worth/measure.py SHARED_DATA MODEL CACHE [CANDIDATE ...]

Appends a line per candidate and number of examples to ``model_cards/lab/worth.jsonl`` and draws ``worth.md``.
Interrupted, the same command resumes; features of rows are kept in the folder CACHE.
"""

import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from candidates import CANDIDATES
from features import Encoder, attack_data, pair_cells, prepared, with_cells
from raw import Matrices, raw_features, raw_probes
from rows import Candidate, drawn
from table import WORTH, table
from transformers import AutoTokenizer

from hf_selfdestruct.attacks import Attack, AttackData, HeadOnly, Split, Target
from hf_selfdestruct.attacks.methods.references import RawInput
from hf_selfdestruct.attacks.metrics import scores
from hf_selfdestruct.attacks.suites.ledger import Ledger
from hf_selfdestruct.attacks.suites.search import Search
from hf_selfdestruct.report.packing import unpacked

LEDGER = Path(__file__).parents[1] / "lab" / "worth.jsonl"
EXAMPLES = (50, 100, 200, 400, 1000)
SEEDS = (0, 1, 2)
COLUMNS = ("text", "other")
SELECTION = 200
STRENGTHS = (0.001, 0.01, 0.1)
RAW_STRENGTHS = (1.0, 30.0)
JOINED = HeadOnly(joined=True, strengths=STRENGTHS)
PROBES: dict[str, tuple[Attack, ...]] = {
    "base": (HeadOnly(every_layer=True, strengths=STRENGTHS), JOINED),
    "scratch": (JOINED,),
}
PAIR_PROBE = HeadOnly(every_layer=True, strengths=STRENGTHS, title="pair probe")
RESAMPLES = 1000
Found = dict[str, list[dict[str, np.ndarray]]]  # by attack, per seed the answers to selection and test


class Attackers:
    """Everybody who attacks one candidate.

    Args:
        name: The candidate's name.
        candidate: The candidate.
        data: Folder of shared data.
        model: The base.
        cache: Folder of features.
    """

    def __init__(self, name: str, candidate: Candidate, data: Path, model: str, cache: Path) -> None:
        rows = drawn(candidate.make(data), even=candidate.even)
        self.cache, self.most = cache, candidate.max_length
        attack, test = (rows[rows["split"] == split].reset_index(drop=True) for split in ("attack", "test"))
        if shared := {*attack["document"]} & {*test["document"]}:
            raise ValueError(f"{name}: {len(shared)} documents stand in both splits.")
        selection = min(SELECTION, round(0.3 * len(attack)))
        self.rows = {"train": attack[selection:], "selection": attack[:selection], "test": test}
        self.names = sorted({*rows["label"].astype(str)})
        self.pairs = "other" in rows
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.data = attack_data(name, {s: self._split(part) for s, part in self.rows.items()}, len(self.names))
        self.targets = {"base": Target("base", model), "scratch": Target("scratch", model, random=True)}

    def _split(self, part: pd.DataFrame) -> Split:
        numbers = {name: i for i, name in enumerate(self.names)}
        labels = part["label"].astype(str).map(numbers).to_numpy()
        return Split(self._tokens(*(part[column].tolist() for column in COLUMNS if column in part)), labels)

    def _tokens(self, *texts: list[str]) -> list[dict[str, Any]]:
        made = self.tokenizer(*texts, truncation=True, max_length=self.most)
        return [{key: made[key][i] for key in made} for i in range(len(texts[0]))]

    @functools.cache  # noqa: B019
    def attacks(self, role: str) -> list[tuple[Attack, Target, AttackData]]:
        """Attacks on one model, each with the data whose memory holds its features."""
        target = self.targets[role]
        encoder = Encoder(target, 0, self.tokenizer, self.cache)
        joint = {s: encoder.encode(getattr(self.data, s).features) for s in self.rows}
        found = [(probe, target, prepared(self.data, target, SEEDS, joint)) for probe in PROBES[role]]
        if self.pairs:
            apart = {
                s: [encoder.encode(self._tokens(part[column].tolist())) for column in COLUMNS]
                for s, part in self.rows.items()
            }
            cells = {s: pair_cells(*both) for s, both in apart.items()}
            found.append((PAIR_PROBE, target, with_cells(self.data, target, SEEDS, cells)))
        return found

    def raw(self, examples: int) -> Found:
        """Answers of the attacks without weights; settings are chosen at the first seed."""
        found = {"raw input": self._searched(RawInput(strengths=RAW_STRENGTHS), Target("raw", ""), self.data, examples)}
        few = [self.data.few(examples, seed) for seed in SEEDS]
        tried = raw_probes(self._raw_features)
        labels, classes = self.data.train.labels, len(self.names)
        best = max(tried, key=lambda one: self._merit(one.answers(labels, few[0], classes)["selection"]))
        found[best.name] = [best.answers(labels, rows, classes) for rows in few]
        return found

    @functools.cached_property
    def _raw_features(self) -> Matrices:
        texts, others = (
            {s: part[c].tolist() for s, part in self.rows.items()} if c in self.rows["test"] else None for c in COLUMNS
        )
        return raw_features(texts or {}, others)

    def weights(self, role: str, examples: int) -> Found:
        """Answers of the probes of one model."""
        return {
            attack.name: self._searched(attack, target, data, examples) for attack, target, data in self.attacks(role)
        }

    def _searched(self, attack: Attack, target: Target, data: AttackData, examples: int) -> list[dict[str, np.ndarray]]:
        search, ledger = Search(attack, target, data, examples, SEEDS, "worth"), Ledger()
        search.work(ledger, lambda run: None)
        chosen = sorted((run for run in search.recall(ledger) if run.chosen), key=lambda run: run.seed)
        classes = len(self.names)
        return [{"selection": unpacked(r.selected, classes), "test": unpacked(r.predictions, classes)} for r in chosen]

    def _merit(self, answers: np.ndarray) -> tuple[float, float]:
        return scores(self.data.selection.labels, answers.clip(1e-6)).merit

    def preferred(self, answers: list[dict[str, np.ndarray]]) -> list[float]:
        """How much the selection rows prefer an attack, on average over seeds."""
        return [float(v) for v in np.mean([self._merit(seed["selection"]) for seed in answers], axis=0)]

    def best(self, found: Found) -> str:
        """The attack that the selection rows prefer."""
        return max(found, key=lambda name: self.preferred(found[name]))

    def hits(self, answers: list[dict[str, np.ndarray]]) -> np.ndarray:
        """Test rows labelled right, ``(seeds, rows)``."""
        return np.stack([seed["test"].argmax(axis=1) == self.data.test.labels for seed in answers])

    def accuracies(self, answers: list[dict[str, np.ndarray]]) -> list[float]:
        """Test accuracy by seed."""
        return [round(float(value), 4) for value in self.hits(answers).mean(axis=1)]

    def lines(self, budgets: Sequence[int]) -> Iterator[dict[str, Any]]:
        """What is written to the ledger, by number of examples.

        Scratch is attacked only where base is far above the raw input: elsewhere scratch cannot change the verdict.
        """
        found = {}
        for n in budgets:
            found[n] = {"raw": self.raw(n), "base": self.weights("base", n)}
            reached = ", ".join(f"{role} {self._mean(found[n], role):.3f}" for role in found[n])
            sys.stderr.write(f"{self.data.task} {n}: {reached} ({time.process_time():.0f} s)\n")
        if any(self._mean(of, "base") - self._mean(of, "raw") >= WORTH for of in found.values()):
            for n in budgets:
                found[n]["scratch"] = self.weights("scratch", n)
        for n, of in found.items():
            best = {role: self.best(of[role]) for role in of}
            without = max({*of} - {"base"}, key=lambda role: self.preferred(of[role][best[role]]))
            hits = {role: self.hits(of[role][best[role]]) for role in of}
            reached = {role: {name: self.accuracies(one) for name, one in of[role].items()} for role in of}
            added = interval(hits["base"].astype(float) - hits[without])
            shape = {"classes": len(self.names), "rows": n, "test": len(self.data.test.labels)}
            yield shape | reached | {"best": best, "without": without, "added": [round(value, 4) for value in added]}

    def _mean(self, found: dict[str, Found], role: str) -> float:
        return float(self.hits(found[role][self.best(found[role])]).mean())


def interval(difference: np.ndarray) -> tuple[float, float, float]:
    """Mean of differences ``(seeds, rows)`` and a 95 % interval: seeds and rows are both drawn anew."""
    generator = np.random.default_rng(0)
    seeds, rows = difference.shape
    drawn = [
        difference[generator.integers(seeds, size=seeds)][:, generator.integers(rows, size=rows)].mean()
        for _ in range(RESAMPLES)
    ]
    return float(difference.mean()), *(float(v) for v in np.quantile(drawn, (0.025, 0.975)))


def lines() -> list[dict[str, Any]]:
    """What stands in the ledger."""
    return [json.loads(line) for line in LEDGER.read_text().splitlines()] if LEDGER.is_file() else []


def measured(name: str, data: Path, model: str, cache: Path) -> Iterator[dict[str, Any]]:
    """Lines of a candidate that is not in the ledger yet; with fewer rows than the most examples, all of them count."""
    if any(line["task"] == name for line in lines()):
        return
    attackers = Attackers(name, CANDIDATES[name], data, model, cache)
    rows = len(attackers.data.train.labels)
    for line in attackers.lines(sorted({min(examples, rows) for examples in EXAMPLES})):
        yield {"task": name, "about": CANDIDATES[name].about, **line}


def main(data: str, model: str, cache: str, *names: str) -> None:
    """Measure what is not in the ledger yet, then draw the table."""
    torch.set_num_threads(1)
    for name in names or CANDIDATES:
        for line in [*measured(name, Path(data), model, Path(cache))]:
            with LEDGER.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            added = ", ".join(f"{value:+.3f}" for value in line["added"])
            sys.stderr.write(f"{name} {line['rows']}: {line['best']} {added}\n")
            LEDGER.with_suffix(".md").write_text(table(lines()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
