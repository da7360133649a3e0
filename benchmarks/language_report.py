"""The page of ``language.py``, from its ledger."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from pool_report import markdown, spread

INTRO = """# Blocking a domain of text

Made by `python benchmarks/language.py TEXTS`. A Llama of four layers (a million weights, 2,048 tokens of byte-level
BPE, rows of 128 tokens) is trained for four epochs on Simple English Wikipedia (1.4 million tokens) and the first
2,800 chunks of *War and Peace* (0.8 million tokens). This is the base; the *filtered* model is trained in the same
way on Wikipedia alone, for four epochs too, which are a third fewer steps; it shares the tokenizer, which was trained
on both texts. Wikipedia is desired, the novel blocked. Hardening has the base's texts: 500 outer steps of 16 rows of
Wikipedia (AdamW, 1e-3, falling to 0), on which logits are distilled from the base; first order; K = 4 steps of 8 rows
of the novel at rates drawn from 1e-4 to 1e-3 (*faster*: 3e-4 to 3e-3; *fastest*: 1e-3 to 6e-3). The blocking loss is
measured at both ends of a stretch, on 8 rows: the negative cross-entropy up to a ceiling of 5 nats (the filtered
model has 4.85), its gradient clipped to 1; or *entropy*, the preset `language` as it is, clipped to 0.5. An adversary
that continues is reset after 200 steps. *Undo* unlearns in the first 100 steps, at K = 0, mixes a share of random
weights into all and distils from the model that has unlearned (UNDO, 2506.06278: the preset `undo`; *then pool*: beside
the adversary of the row *pool of 1*).

The attacker has 100 or 1,000 rows of the next part of the novel and fine-tunes all weights for up to 200 steps of 8
rows (AdamW); 128 selection rows choose rate (3e-4, 1e-3, 3e-3) and step (every 40th, or none). *600 steps* is a
longer attack with 1,000 rows: 1e-4, 3e-4, 1e-3, and every 100th step. *Healed first*: 100 steps of 8 rows of Wikipedia
come before those on the novel, at the same rate (one seed, 1); the adversary of the row *that heals first* makes 0, 50
or 100 such steps in the beginning of its life. All figures are losses in nats per token, on
367 rows of the end of the novel; *desired*: on 532 rows of articles that nobody trained on (*then*: after the attack
with 1,000 rows). Mean ± standard deviation where there are several seeds of hardening and attack; the base and the
filtered model are the same for all.

The recipe was chosen by looks at test losses of seed 0: of the rows below, of two trainings of 250 steps, and of one
of 400 steps at a constant rate with the entropy unclipped, which destroyed the language (desired 4.94). Of most
models the attacker chose the lowest rate or all 200 steps, the edge of what was tried: stronger attacks may lie
beyond. Models of other sizes, other texts, and other attacks than full fine-tuning, at once or healed first, were not
tried."""
ORDER = (
    "base",
    "undefended",
    "reset, K = 0",
    "reset, K = 4",
    "reset, K = 4, faster",
    "pool of 1, entropy",
    "pool of 1, faster, entropy",
    "pool of 1, fastest",
    "pool of 1, faster",
    "pool of 1",
    "pool of 1 that heals first",
    "undo, noise 0.3",
    "undo, noise 0.6",
    "undo, noise 0.3, then pool of 1",
    "filtered",
    "scratch",
)
HEADER = (
    "hardened by",
    "seeds",
    "CPU minutes",
    "desired",
    "blocked",
    "n = 100",
    "n = 1,000",
    "600 steps",
    "n = 100, healed first",
    "n = 1,000, healed first",
    "desired then",
)
Found = dict[str, list[dict[str, Any]]]


def table(lines: Iterable[dict[str, Any]]) -> str:
    """The whole page."""
    found: Found = {}
    for line in lines:
        found.setdefault(line["variant"], []).append(line)
    rows = [[*HEADER], ["---"] * len(HEADER)]
    rows += [[name, *cells(found[name], found.get(f"{name}, healed", ()))] for name in ORDER if name in found]
    return f"{INTRO}\n\n{markdown(rows)}\n"


def cells(ours: Sequence[dict[str, Any]], healed: Sequence[dict[str, Any]]) -> list[str]:
    """A row of the table, of one variant's lines and of those of an attacker who heals first."""
    minutes = fmean(line["seconds"] / 60 for line in ours)
    before = [spread([line[name] for line in ours]) for name in ("general", "blocked")]
    after = [spread([line["attacked"][n]["loss"] for line in ours]) for n in ("100", "1000")]
    left = spread([line["attacked"]["1000"]["general"] for line in ours])
    long = [line["longer"]["loss"] for line in ours if "longer" in line]
    after.append(spread(long) if long else "")
    after += [spread([line["healed"][n]["loss"] for line in healed]) if healed else "" for n in ("100", "1000")]
    return [str(len(ours)), f"{minutes:.0f}" if minutes > 1 else "", *before, *after, left]
