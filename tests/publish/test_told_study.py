"""Every figure that README.md states of the study of the pool is the one in its ledger, and so is its page."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README, METHODS, LIMITS = (
    " ".join((ROOT / name).read_text(encoding="utf-8").split())
    for name in ("README.md", "docs/methods.md", "docs/limits.md")
)
HEALED = {  # of an attacker who heals first: as README.md and as docs/methods.md say it
    "pool of 1": (
        "first is left at {} with 100 rows and at {} with 1,000",
        "(seed 1) is left at {} with 100 rows and {} with",
    ),
    "filtered": ("({} and {} without the novel; seed 1)", "at {} and {} by the model that never saw the novel"),
    "pool of 1 that heals first": ("", "makes it {} and {}."),
}
READ = ("base", "pool of 8", "reset, K = 4", "scratch")

DIGITS = {
    "nothing (the base)": "base",
    "nothing, trained as long (undefended)": "undefended",
    "adversaries that start anew (K = 4)": "reset, K = 4",
    "adversaries that continue (pool of 8)": "pool of 8",
    "random weights (scratch)": "scratch",
}


def test_figures_of_digits(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from pool_report import apart, gathered, spread

    found = gathered(map(json.loads, (ROOT / "benchmarks" / "pool.jsonl").read_text().splitlines()))
    for told, variant in DIGITS.items():
        line = found[f"digits: {variant}"]
        scores = [spread(line["blocked"][n]) for n in ("100", "400")]
        kept = "" if variant == "scratch" else spread(line["desired"])
        assert f"| {told} | {kept} | {' | '.join(scores)} |".replace("|  |", "| |") in README
    pairs = [apart(found, "digits: pool of 8", "digits: reset, K = 4", n) for n in (100, 400)]
    few, many = ("{:+.3f} [{:+.3f}, {:+.3f}]".format(*pair) for pair in pairs)
    assert f"start anew: {few} at 100 examples and {many} at 400" in README
    read = {name: [spread(found[f"every layer: {name}"]["blocked"][n]) for n in ("100", "400")] for name in READ}
    pool = " and ".join(read.pop("pool of 8"))
    base, reset, scratch = (" and ".join(one[:5] for one in both) for both in read.values())
    pairs = [apart(found, "every layer: pool of 8", "every layer: scratch", n) for n in (100, 400)]
    share = "the pool's minus scratch {:+.3f} [{:+.3f}, {:+.3f}] and {:+.3f} [{:+.3f}, {:+.3f}])".format(
        *sum(pairs, ())
    )
    assert f"{base} from the base, {pool} from the pool's models, {scratch} from scratch." in README
    told = f"{pool} against a pool of 8, {reset} against adversaries that start anew, {base} from the base, {scratch}"
    assert f"{told} from scratch (five seeds; {share}" in METHODS
    reset, pool, undefended, forgets, scratch = (
        spread(found[f"transformer: {name}"]["blocked"]["400"])
        for name in ("reset, K = 4", "pool of 8", "undefended", "relearned from random weights", "scratch")
    )
    share = "{:+.3f} [{:+.3f}, {:+.3f}]".format(
        *apart(found, "transformer: pool of 8", "transformer: reset, K = 4", 400)
    )
    assert f"{reset} against adversaries that start anew, {pool} against the pool, {share}" in README
    assert f"(undefended {undefended}, forgetting {forgets}, scratch {scratch})" in README
    pool, undefended, scratch = (
        spread(found[f"harmless: {name}"]["harmless"]["right digit"]) for name in ("pool of 8", "undefended", "scratch")
    )
    assert f"against the pool reaches {pool}, the undefended one {undefended}, scratch {scratch}." in README


def test_figures_of_pictures():
    """By the first seed where there are several."""
    lines = map(json.loads, (ROOT / "benchmarks" / "pictures.jsonl").read_text().splitlines())
    found = {line["variant"]: line for line in lines if line["seed"] == 0}
    names = ("undefended", "reset, K = 4", "pool of 1", "scratch", "relearned from random weights")
    undefended, reset, pool, scratch, forgets = (f"{found[name]['blocked']['400']:.3f}" for name in names)
    kept = [f"{found[name]['desired']:.3f}" for name in names if name != "scratch"]
    assert f"{undefended} undefended, {reset} against adversaries that start anew, {pool} against one that" in README
    assert f"{scratch} from scratch; vehicles {', '.join(kept[:3])}. Forgetting: animals {forgets}, vehicles" in README
    assert f"vehicles {kept[3]}." in README


def test_figures_of_a_language_model():
    """By the first seed where there are several."""
    lines = map(json.loads, (ROOT / "benchmarks" / "language.jsonl").read_text().splitlines())
    seeds = {(line["variant"], line["seed"]): line for line in lines}
    found = {variant: line for (variant, seed), line in seeds.items() if seed == 0}
    names = ("undefended", "reset, K = 4, faster", "pool of 1", "filtered")
    many, few = ([f"{found[name]['attacked'][n]['loss']:.3f}" for name in names] for n in ("1000", "100"))
    desired = [f"{found[name]['general']:.3f}" for name in names]
    undefended, reset, pool, filtered = many
    for page in (README, METHODS):
        assert f"{undefended} undefended, {reset} against adversaries that start anew, {pool} against one" in page
        assert f"{filtered} for a model that never saw the novel; with 100 rows {few[0]}, {few[1]}, {few[2]}" in page
        assert f"{few[3]}. The desired text" in page
        assert all(value in page for value in desired)
    for name, told in HEALED.items():
        healed = [f"{seeds[f'{name}, healed', 1]['healed'][n]['loss']:.3f}" for n in ("100", "1000")]
        assert all(words.format(*healed) in page for words, page in zip(told, (README, METHODS), strict=True))
    assert f"at {seeds['pool of 1, healed', 1]['healed']['100']['loss']:.3f} nats" in LIMITS
    for name in ("undo, noise 0.3", "undo, noise 0.6"):
        *attacks, kept = (
            f"{value:.3f}"
            for value in (*(found[name]["attacked"][n]["loss"] for n in ("1000", "100")), found[name]["general"])
        )
        assert f"of noise {attacks[0]} at 1,000 rows and {attacks[1]} at 100, desired {kept}" in page or (
            f"with 0.6 {attacks[0]} and {attacks[1]}, desired {kept}" in page
        )


def test_figures_of_attackers_without_weights():
    page = (ROOT / "model_cards" / "lab" / "raw_pairs.md").read_text(encoding="utf-8")
    (line,) = (row for row in page.splitlines() if row.startswith("| raw input with"))
    few, many = (line.split("|")[place].split()[0] for place in (3, 6))
    assert f"reaches {few} with 100 and {many} with 1,430 examples by topics" in README


@pytest.mark.parametrize(("name", "drawn"), [("pool", "tables"), ("pictures", "table"), ("language", "table")])
def test_the_page_of_a_study_is_that_of_its_ledger(monkeypatch, name, drawn):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    page_of = getattr(importlib.import_module(f"{name}_report"), drawn)
    ledger, page = (ROOT / "benchmarks" / f"{name}.{kind}" for kind in ("jsonl", "md"))
    assert page_of(map(json.loads, ledger.read_text().splitlines())) == page.read_text(encoding="utf-8")
