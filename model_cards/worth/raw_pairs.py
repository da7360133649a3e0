r"""Attackers without weights on the pairs of one article, against what the card's suite found: ``lab/raw_pairs.md``.

    python model_cards/worth/raw_pairs.py lab-runs/same-article MODEL

MODEL gives the tokenizer alone. Every choice is made on the attacker's rows; test rows are read once per line and
number of examples. About a minute on one free core.
"""

import functools
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, load_dataset
from raw import raw_features, raw_probes
from sklearn.pipeline import make_pipeline
from transformers import AutoTokenizer, DataCollatorWithPadding

from hf_selfdestruct.attacks import AttackData, Split, Target, Trial
from hf_selfdestruct.attacks.attack import Outcome
from hf_selfdestruct.attacks.methods.pair_knowledge import Likeness, reader
from hf_selfdestruct.attacks.methods.probes import fitted
from hf_selfdestruct.attacks.methods.references import KNOWING_CLASSIFIERS, RawInput, classified
from hf_selfdestruct.attacks.suites.ledger import Ledger
from hf_selfdestruct.attacks.suites.search import Search
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.tasks.blocked_task import BlockedTask

HERE = Path(__file__).parents[1]
TASK, COLUMNS, SEEDS = "same-article", ("text", "other"), tuple(range(10))
EXAMPLES = {20: 10, 100: 10, 400: 5, 1001: 1}  # and how many draws of them
REFITTED = 1430
Scores = dict[int, list[float]]
PAGE = """# Attackers without weights, on pairs of one article

Do two sentences that share no word but common ones come from one article? An attacker from outside, with the rows
of the card `wikibios-same-article` and without any weights, against the published worst case: the best of hardened,
raw input and scratch that the card's suite (`quick`, version 6) found. Test accuracy ± its standard error (test
rows and draws of examples), and in brackets what it adds to the published worst case. Settings are chosen on the
429 selection rows at the first draw, as the suite does; 1,430 examples are the training and the selection rows.
Made by `worth/raw_pairs.py`.

{table}

The published worst case was too low at every number of examples. Nothing came of letters, of latent semantics of
the attacker's own texts, or of trees: 1,430 rows are too few to learn what words mean. What counts is knowledge of
English that anybody can write down. `attacks/methods/topics.txt` is such a list of words; it was written by hand,
and lengthened once after a look at the commonest words of the attacker's texts, without labels. Topics alone fail
at 20 examples because the setting that the first draw prefers answers most other draws with one label; a sum of all
signs needs no such luck.

Read with care: whoever wrote the list and the signs of form had seen a few rows of every split, and four signs
(pronoun first, definition, length, cut short) were counted by label on every split before they were chosen; they
differ alike on the attacker's own rows. Test scores were seen three times while the attack was made; nothing was
chosen by them.

**Without a single label**, "more alike than the median of the attacker's rows" reaches {plain} on the test rows.

## Where the rows themselves tell

- The second sentence of a pair of one article stands later in its article than the first; that of a pair of two
  articles may stand anywhere, also at the very start. Definitions ("... is a ..."), pronouns at the start and
  length tell the two apart. "Form alone" lives on this and on tense and persons.
- Each first sentence stands in two rows, and just one of the two is of one article; a second sentence that is the
  first one of another row is never of the same article. Who has *all test rows at once* and knows this reaches
  {rows_alone} without reading a word, {rows_alike} by taking the more alike of two rows, and {rows_both} with both.
  The suite answers each row by itself, so that this is outside of what it measures.

## What does not follow

Hardened weights were never better than these words, so that this attacker takes nothing back that was blocked. But
words tell far more than the card says: the base it was made from, with 0.698 at 100 and 0.775 at 1,430 examples,
adds 0.06 to 0.13 to them, less than the 0.15 by which tasks were called worth blocking; at 20 it is
below them (0.576).
"""


@dataclass(frozen=True)
class Part(RawInput):
    """The raw input as a reader of English knows it, but for one part of that knowledge.

    Args:
        topics: Whether topics are known; otherwise all but them.
    """

    topics: bool = True

    def space(self) -> list[dict[str, object]]:
        """Settings of the classifiers that know English."""
        return [{"classifier": name, "strength": value} for name in KNOWING_CLASSIFIERS for value in self.strengths]

    def run(self, trial: Trial) -> Outcome:
        """As the raw input, with the other signs at 0."""
        whole, few = reader(trial.data), trial.rows()

        def read(split: Split) -> np.ndarray:
            signs = whole(split)
            return signs * ((np.arange(signs.shape[1]) == 0) == self.topics)

        made = KNOWING_CLASSIFIERS[str(trial.settings["classifier"])](float(trial.settings["strength"]))
        return classified(fitted(make_pipeline(*made), read(few), few.labels), trial.data, read)


def searched(attack: RawInput, data: AttackData) -> Scores:
    """Test accuracies of the settings that selection rows prefer, over draws of examples."""
    ledger, found = Ledger(), {}
    for examples, draws in EXAMPLES.items():
        name = f"{attack!r}/{examples}"
        last = examples == max(EXAMPLES)
        search = Search(attack, Target("raw", ""), data, examples, SEEDS[:draws], name, refit=last)
        search.work(ledger, lambda run: None)
        for run in search.recall(ledger):
            if run.chosen and run.test:
                found.setdefault(run.examples, []).append(run.test.accuracy)
    return found


def letters_and_meanings(rows: dict[str, pd.DataFrame], data: AttackData) -> Scores:
    """Letters, overlap, products of words, latent semantic analysis of the attacker's own texts, and trees."""
    texts, others = ({split: of[column].tolist() for split, of in rows.items()} for column in COLUMNS)
    probes, found = raw_probes(raw_features(texts, others)), {}
    for examples, draws in EXAMPLES.items():
        for seed in SEEDS[: min(draws, 3)]:
            few = data.few(examples, seed)
            answers = [probe.answers(data.train.labels, few, 2) for probe in probes]
            right = [(of["selection"].argmax(axis=1) == data.selection.labels).mean() for of in answers]
            best = answers[int(np.argmax(right))]["test"].argmax(axis=1)
            found.setdefault(examples, []).append(float((best == data.test.labels).mean()))
    return found


def unlabelled(data: AttackData) -> tuple[float, np.ndarray]:
    """Accuracy without any label: more alike than the median of the attacker's rows; and the likeness of test rows."""
    read = reader(data)
    known = np.concatenate([read(data.train), read(data.selection)])
    made = Likeness(summed=True).fit(known)
    middle, likeness = np.median(made.transform(known)), made.transform(read(data.test))[:, 0]
    return float(((likeness > middle) == data.test.labels).mean()), likeness


def by_construction(test: pd.DataFrame, right: np.ndarray, likeness: np.ndarray) -> tuple[float, float, float]:
    """What test rows tell of each other: each first text stands in two rows, and one of the two is of one article.

    Returns:
        Accuracy without likeness (a second text that is another row's first one is of another article), with likeness
        alone (the more alike of two rows), and with both.
    """
    elsewhere = test["other"].isin({*test["text"]}).to_numpy()
    chance = np.random.default_rng(0).random(len(test)) / 1e6

    def accuracy(score: np.ndarray) -> float:
        ranks = pd.Series(score + chance).groupby(test["text"].to_numpy()).rank()
        return float(((ranks > 1).to_numpy() == right).mean())

    return accuracy(-1.0 * elsewhere), accuracy(likeness), accuracy(likeness - 1e3 * elsewhere)


def published() -> dict[int, float]:
    """The best of hardened, raw input and scratch at each number of examples."""
    report = AttackReport.load(HERE / "wikibios-same-article" / "selfdestruct" / "report.json")
    found = {}
    for n in (*EXAMPLES, REFITTED):
        runs = [report.strongest_runs(TASK, n, role) for role in ("hardened", "raw", "scratch")]
        found[n] = max(statistics.fmean(run.test.accuracy for run in of if run.test) for of in runs if of)
    return found


def given(folder: str, model: str) -> tuple[AttackData, dict[str, pd.DataFrame]]:
    """What the attacker has, in tokens and in texts."""
    files = {split: str(Path(folder, f"{split}.parquet")) for split in ("train", "validation", "test")}
    told = load_dataset("parquet", data_files=files)
    tokenizer = AutoTokenizer.from_pretrained(model)
    encode = functools.partial(tokenizer, truncation=True, max_length=64)

    def in_tokens(rows: dict[str, list[str]]) -> dict[str, object]:
        return {**encode(rows["text"], rows["other"]), "label": [int(name == "same") for name in rows["article"]]}

    splits: dict[str, Dataset] = {s: of.map(in_tokens, batched=True) for s, of in told.items()}
    task = BlockedTask(TASK, splits["train"], validation=splits["validation"], test=splits["test"])
    data = AttackData.of(task, tokenizer.model_input_names, DataCollatorWithPadding(tokenizer))
    own, test = told["validation"].to_pandas(), told["test"].to_pandas()
    rows = {"train": own.iloc[task.attacker_rows()], "selection": own.iloc[task.selection_rows()], "test": test}
    return data, rows


def main(folder: str, model: str) -> None:
    """Measure and write the page."""
    data, rows = given(folder, model)
    plain, likeness = unlabelled(data)
    lines: dict[str, Scores] = {
        "raw input as the suite had it": searched(RawInput(), data),
        "letters, latent semantics, products of words, trees": letters_and_meanings(rows, data),
        "form alone: tense, persons, numbers, how the second text begins": searched(Part(topics=False), data),
        "topics alone: a list of 1,500 words, none of them in both texts": searched(Part(), data),
        "raw input with both (suite `quick`, version 7)": searched(RawInput(pairs=True), data),
    }
    paired = by_construction(rows["test"], data.test.labels == 1, likeness)
    (HERE / "lab" / "raw_pairs.md").write_text(page(lines, plain, paired, len(data.test.labels)), encoding="utf-8")


def page(lines: dict[str, Scores], plain: float, paired: tuple[float, float, float], rows: int) -> str:
    """The page, in Markdown."""
    columns, worst = (*EXAMPLES, REFITTED), published()
    table = [f"| attempt | {' | '.join(map(str, columns))} |", "|---" * (1 + len(columns)) + "|"]
    table.append(f"| published worst case | {' | '.join(f'{worst[n]:.3f}' for n in columns)} |")
    for name, found in lines.items():
        table.append(f"| {name} | {' | '.join(_cell(found.get(n), worst[n], rows) for n in columns)} |")
    numbers = {"plain": plain, "rows_alone": paired[0], "rows_alike": paired[1], "rows_both": paired[2]}
    return PAGE.format(table="\n".join(table), **{name: f"{value:.3f}" for name, value in numbers.items()})


def _cell(scores: list[float] | None, worst: float, rows: int) -> str:
    """Mean, its standard error from test rows and draws, and what it adds to the published worst case."""
    if not scores:
        return "not tried"
    mean = statistics.fmean(scores)
    drawn = statistics.stdev(scores) ** 2 / len(scores) if len(scores) > 1 else 0.0
    return f"{mean:.3f} ± {(mean * (1 - mean) / rows + drawn) ** 0.5:.3f} ({mean - worst:+.3f})"


if __name__ == "__main__":
    main(*sys.argv[1:])
