"""Tables of the study of the pool, from its ledger."""

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from pool_variants import LONG, VARIANTS, Variant
from scipy.stats import t as student

Found = dict[str, dict[str, Any]]  # by variant, what the ledger contains of all of its seeds

FEW = 200  # examples of the goals
MARGIN = 0.02  # above scratch: from here on, hardening counts as undone
SHOWN = (100, 300, 1000, 3000, 10000)  # steps of long attacks in their table
SCRATCH, HORIZONS = "scratch, attacked longer", ("T = 50", "T = 200", "T = 800", "T = 3200")
DIGITS_SCRATCH = "digits: scratch, attacked longer"
DIGITS_LONG = tuple(f"digits: {name}, attacked longer" for name in ("reset, K = 4", "pool of 8", "relearned"))
INTRO = """# What a pool of adversaries adds

Made by `python benchmarks/pool.py`, on small networks. Unless a title says digits: parities of hidden signs, which no
linear probe reads (`signs.py`); the product of two signs is desired, that of three others blocked. Hardening is first
order, K = 4, the blocking loss is measured at both ends of a stretch, and an adversary's rate is drawn from 3e-4 to
3e-3, where nothing else is said. *Gradients* are those of one outer step (desired, inner steps, measurements); *oldest*
is the most steps that an adversary has made when it is reset or hardening ends. *Blocked* is the test accuracy (chance
0.5) after fine-tuning of all weights with n examples for up to 500 steps, four rates and the step chosen on selection
rows; the rows of an attack are the same for all models. Mean ± standard deviation over seeds of base and hardening."""
TITLES = {
    "first": "With and without a pool",
    "digits": "Real digits",
    "transformer": "Real digits, by a vision transformer",
    "parts": "One thing changed at a time",
    "order": "More inner steps without a pool",
    "noise": "Noise instead of a pool, or before it",
}
LONG_TEXT = (
    "## Longer attacks\n\nA pool of 8, and fine-tuning for up to 10,000 steps (three pairs of rate and weight "
    "decay: 1e-3 and 0, 3e-3 and 0.3, 1e-2 and 0). Each column is what an attacker reaches who stops there at the "
    f"latest. *Crossing* is the first of {len(LONG)} looks, from 30 steps on, at which the mean is above that of "
    f"scratch by {MARGIN}."
)
HARMLESS_TEXT = (
    "### Tasks that nobody blocks\n\nTest accuracy after the same fine-tuning with 400 examples, to a task of the left "
    "digit, to one of the right digit and to one of both (of pairs of different digits)."
)
EVERY_LAYER_TEXT = (
    "### Reading every layer\n\nA linear probe of the three layers together (logistic regression, four strengths), and "
    "fine-tuning of all weights with it as the head (four rates, up to 500 steps, or none), each chosen on the "
    "selection rows."
)
TEXTS = {
    "first": "",
    "digits": "Pairs of handwritten digits of scikit-learn (`digits.py`): the left digit is desired (ten classes), "
    "whether both are the same digit is blocked. *Relearned* is desired training from random weights; *noise* is mixed "
    "with the weights, which are then distilled from the base. *In turn*: as SOPHON's (2404.12699), every second outer "
    "step blocks and does nothing else, by an Adam of its own at 1e-3, instead of each doing both; "
    "*gradients* is their mean.",
    "transformer": "The same pairs and tasks as images of 8 x 16 pixels, for a vision transformer of two layers (width "
    "64, eight patches); the base is trained for 2,000 steps, outer steps are taken at a rate of 3e-4, and the "
    "attacker searches five rates.",
    "parts": "At about as many gradients as 1,000 outer steps of the pool of 8 take. The exact gradient goes through "
    "one stretch, at second order; its gradients are dearer than they are counted here.",
    "order": "The MLAC paper's order is K = 16 <= K = 4 <= K = 0; here at equal outer steps, so that K = 16 takes nine "
    "times the gradients of K = 0.",
    "noise": "Weights are mixed with a share of random weights and distilled from the base on unlabelled inputs for "
    "500 steps (as UNDO starts, 2506.06278); then 1,000 outer steps follow, of desired training or with the pool.",
}
WITH = {
    "first": (),
    "digits": (),
    "transformer": (),
    "parts": ("pool of 8", "scratch"),
    "order": ("scratch",),
    "noise": ("base", "pool of 8", "scratch"),
}


def tables(lines: Iterable[dict[str, Any]]) -> str:
    """The whole page."""
    found = gathered(lines)
    parts = [INTRO, *goals(found)]
    for name, title in TITLES.items():
        of_table = [v for v in VARIANTS if v in found and VARIANTS[v].table == name]
        if of_table:
            parts += [f"## {title}", *([TEXTS[name]] if TEXTS[name] else [])]
            parts.append(table(found, [*of_table, *(v for v in WITH[name] if v in found)]))
        if name == "first" and SCRATCH in found:
            parts += [LONG_TEXT, long_table(found, SCRATCH, HORIZONS)]
        if name == "digits" and of_table:
            parts += [
                share_of_the_loop(found, name),
                "### Longer attacks",
                long_table(found, DIGITS_SCRATCH, DIGITS_LONG),
            ]
            if any(VARIANTS[v].every_layer for v in found):
                parts += [EVERY_LAYER_TEXT, every_layer_table(found), share_of_the_loop(found, "every layer")]
            if any(VARIANTS[v].harmless for v in found):
                parts += [HARMLESS_TEXT, harmless_table(found)]
        if name == "transformer" and of_table:
            parts.append(share_of_the_loop(found, name))
        if name == "order" and [len(found[v]["seeds"]) > 1 for v in of_table] == [True] * 3:
            parts.append(order(found))
    return "\n\n".join(parts) + "\n"


def gathered(lines: Iterable[dict[str, Any]]) -> Found:
    """What the ledger contains of each variant, all seeds together."""
    found: Found = {}
    for line in lines:
        known = found.setdefault(
            line["variant"], {"seeds": [], "desired": [], "blocked": {}, "by_step": {}, "harmless": {}, "probed": {}}
        )
        for name in ("seeds", "desired"):
            known[name] += line[name]
        for name in ("blocked", "by_step", "harmless", "probed"):
            for examples, values in line.get(name, {}).items():
                known[name].setdefault(examples, []).extend(values)
    return found


def table(found: Found, names: Sequence[str]) -> str:
    """Variants under each other, with the examples that all were attacked with."""
    budgets = [n for n in found[names[0]]["blocked"] if all(n in found[name]["blocked"] for name in names)]
    head = ["hardened by", "seeds", "outer steps", "gradients", "oldest", "desired"]
    rows = [[*head, *(f"blocked, n = {n}" for n in budgets)], ["---"] * (len(head) + len(budgets))]
    for name in names:
        variant, line = VARIANTS[name], found[name]
        cells = ["", "", ""] if variant.adversary is None else [f"{variant.steps:,}", *_cost(variant)]
        scores = [spread(line["desired"]), *(spread(line["blocked"][n]) for n in budgets)]
        rows.append([_shown(name), str(len(line["seeds"])), *cells, *scores])
    return markdown(rows)


def long_table(found: Found, scratch: str, names: Sequence[str]) -> str:
    """What long attacks reach, and from which step on a model is no longer harder than scratch."""
    head = ["hardened by", "seeds", "outer steps", "oldest", "n", *(f"{n:,}" for n in SHOWN), "crossing"]
    rows = [head, ["---"] * len(head)]
    for name in (scratch, *names):
        for n, curves in found.get(name, {"by_step": {}})["by_step"].items():
            variant = VARIANTS[name]
            cells = ["", ""] if name == scratch else [f"{variant.steps:,}", _cost(variant)[1]]
            scores = [spread([curve[LONG.index(step)] for curve in curves]) for step in SHOWN]
            last = "" if name == scratch else told(crossing(found, name, n, scratch))
            rows.append([_shown(name), str(len(curves)), *cells, n, *scores, last])
    return markdown(rows)


def share_of_the_loop(found: Found, setting: str) -> str:
    """What a pool adds to the same recipe without one, to none at all, and what is left beside scratch."""
    pools = (f"{setting}: pool of 8", f"{setting}: pool of 8, rates 1e-3 to 1e-2")
    others = ("undefended", "reset, K = 4", "relearned from random weights", "scratch")
    pairs = [(pool, f"{setting}: {other}") for pool in pools for other in others]
    pool, reset = (f"{setting}: {name}, in turn" for name in ("pool of 8", "reset, K = 4"))
    pairs += [(pool, reset), *((one, one.removesuffix(", in turn")) for one in (pool, reset))]
    said = []
    for one, other in pairs:
        if min(len(found.get(name, {"seeds": ()})["seeds"]) for name in (one, other)) > 1:
            few, many = (told_apart(found, one, other, n) for n in (100, 400))
            said.append(f"- {_shown(one)} minus {_shown(other)}: n = 100 {few}, n = 400 {many}.")
    if not said:
        return "One seed so far."
    return "Blocked accuracy, paired by seed, with 95 % intervals:\n\n" + "\n".join(said)


def every_layer_table(found: Found) -> str:
    """What an attacker reaches who reads every layer, by a probe and by fine-tuning after it."""
    names = [name for name in VARIANTS if name in found and VARIANTS[name].every_layer]
    kinds = {"probed": "probe", "blocked": "then fine-tuned"}
    columns = [(kind, n) for n in found[names[0]]["blocked"] for kind in kinds]
    rows = [["hardened by", "seeds", *(f"{kinds[kind]}, n = {n}" for kind, n in columns)]]
    rows.append(["---"] * len(rows[0]))
    for name in names:
        line = found[name]
        rows.append([_shown(name), str(len(line["seeds"])), *(spread(line[kind][n]) for kind, n in columns)])
    return markdown(rows)


def harmless_table(found: Found) -> str:
    """How well models learn tasks that nobody blocks, and what the pool costs there."""
    names = [name for name in VARIANTS if name in found and VARIANTS[name].harmless]
    tasks = [*found[names[0]]["harmless"]]
    rows = [["hardened by", "seeds", *tasks], ["---"] * (2 + len(tasks))]
    for name in names:
        line = found[name]
        rows.append([_shown(name), str(len(line["seeds"])), *(spread(line["harmless"][task]) for task in tasks)])
    said = []
    for pool in ("pool of 8", "pool of 8, rates 1e-3 to 1e-2"):
        pair = (f"harmless: {pool}", "harmless: undefended")
        if all(len(found.get(name, {"seeds": ()})["seeds"]) > 1 for name in pair):
            by_task = ", ".join(f"{task} {told_apart(found, *pair, task, kind='harmless')}" for task in tasks)
            said.append(f"- {pool} minus undefended: {by_task}.")
    return "\n\n".join([markdown(rows), *(["\n".join(said)] if said else [])])


def _shown(name: str) -> str:
    """A variant as tables name it: its setting and its attack stand above them."""
    for setting in ("digits: ", "transformer: ", "harmless: ", "every layer: "):
        name = name.removeprefix(setting)
    return name.removesuffix(", attacked longer")


def crossing(found: Found, name: str, examples: str, scratch: str = SCRATCH) -> float:
    """The first look at which a hardened model's mean is above that of scratch by the margin; infinite if none is."""
    hardened, other = (
        [statistics.fmean(at) for at in zip(*found[one]["by_step"][examples], strict=True)] for one in (name, scratch)
    )
    return next((n for n, a, b in zip(LONG, hardened, other, strict=True) if a - b >= MARGIN), math.inf)


def goals(found: Found) -> list[str]:
    """Whether the goals are reached, with figures."""
    rows = []
    for name in ("pool of 8", "pool of 8, rates 1e-3 to 1e-2"):
        if name in found and len(found[name]["seeds"]) >= 5:
            mean, low, high = apart(found, name, "scratch")
            reached = mean <= 0.02 and high <= 0.05
            figures = f"{name}: {mean:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
            rows.append(["a", f"n = {FEW}, hardened minus scratch <= .02, upper end <= .05", figures, reached])
    if all(name in found for name in (SCRATCH, *HORIZONS[:3])):
        crossings = {VARIANTS[name].oldest: crossing(found, name, str(FEW)) for name in HORIZONS if name in found}
        figures = ", ".join(f"T = {age:,}: {told(step)}" for age, step in crossings.items())
        usual = [pair for pair in crossings.items() if pair[0] <= 800]
        linear: bool | str = all(b[1] >= a[1] * b[0] / a[0] for a, b in pairwise(usual))
        if linear and any(math.isinf(a[1]) for a, _ in pairwise(usual)):
            linear = "not decided: no attack was long enough"
        far = all(step > 10 * age for age, step in crossings.items())
        rows.append(["b", f"n = {FEW}, the crossing grows at least in proportion to T up to 800", figures, linear])
        rows.append(["b", f"n = {FEW}, the crossing is beyond 10 T steps", figures, far])
    lines = [f"| {a} | {b} | {c} | {d if isinstance(d, str) else str(d).lower()} |" for a, b, c, d in rows]
    return ["## Goals", "\n".join(["| | goal | measured | reached |", "|---|---|---|---|", *lines])] if rows else []


def order(found: Found) -> str:
    """Whether more inner steps block more, in one sentence for each number of examples."""
    said = []
    for examples in (200, 500):
        many, few, none = (f"reset, K = {k}, 300 outer steps" for k in (16, 4, 0))
        means = [statistics.fmean(found[one]["blocked"][str(examples)]) for one in (many, few, none)]
        holds = "holds" if means == sorted(means) else "does not hold"
        texts = [told_apart(found, a, b, examples) for a, b in ((many, few), (few, none))]
        said.append(f"n = {examples}: the order {holds}; K = 16 minus K = 4 {texts[0]}, K = 4 minus K = 0 {texts[1]}.")
    return " ".join(said)


def apart(
    found: Found, first: str, second: str, examples: int | str = FEW, *, kind: str = "blocked"
) -> tuple[float, float, float]:
    """Mean difference of two variants, paired by seed, and its 95 % interval (Student's t)."""
    scores = [dict(zip(found[one]["seeds"], found[one][kind][str(examples)], strict=True)) for one in (first, second)]
    pairs = [scores[0][seed] - scores[1][seed] for seed in sorted(scores[0].keys() & scores[1].keys())]
    mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))
    half = float(student.ppf(0.975, len(pairs) - 1)) * error
    return mean, mean - half, mean + half


def told_apart(found: Found, first: str, second: str, examples: int | str, *, kind: str = "blocked") -> str:
    """The mean difference of two variants and its interval, in words."""
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*apart(found, first, second, examples, kind=kind))


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Rows of a table, the head among them."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def told(steps: float) -> str:
    """A crossing in words."""
    return f"{steps:,}" if math.isfinite(steps) else f"not by {LONG[-1]:,}"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def _cost(variant: Variant) -> tuple[str, str]:
    return f"{variant.passes}", f"{variant.oldest:,}" if variant.blocked else ""
