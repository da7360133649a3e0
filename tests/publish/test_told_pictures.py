"""The figures told of the network of pictures are those of its card, and of the reports beside it."""

import html
import itertools
import json

import pytest
from test_told_figures import CARDS, README, ROOT, card, lab, reached, spread, text

TOLD, METHODS = text(CARDS / "README.md"), text(ROOT / "docs" / "methods.md")
REPORT = card("cifar10-animals")
PROBED, FRESH = "joined probe, then fine-tuning", "full fine-tuning"


def spreads(report, attack, examples=560):
    """Of each model, what an attack reaches, as it is told."""
    return {role: spread(scores) for role, scores in reached(report, "animals", attack, examples).items()}


def adds(examples):
    """What the weights add by the card: hardened, undefended, base."""
    lines = (CARDS / "cifar10-animals" / "README.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith(f"| {examples} | 0.") and line.endswith("| no |")]
    return html.unescape(row).split(" | ")[3:6]


def run_of(name):
    """The attack of a report with one."""
    return next(run for run in lab(name).runs if run.role == "hardened")


def test_what_the_weights_add():
    (few, few_undefended, _), (many, many_undefended, base) = adds(100), adds(560)
    undefended = [one.split()[0] for one in (few_undefended, many_undefended)]
    assert f"with 100 pictures its weights add {few}, undefended {undefended[0]}; with 560 pictures {many}," in README
    assert f"undefended {undefended[1]}. There fine-tuning" in README
    assert f"the base's weights add {base.split()[0].lstrip('+')} to" in TOLD
    assert f"add {few} with 100 pictures, where the undefended ones add {undefended[0]}, and {many} with 560" in TOLD
    assert f"with 560, where these add {undefended[1]}." in TOLD
    assert (
        f"falls from {undefended[0]} to {few} with 100 pictures, and from {undefended[1]} to {many} with 560" in METHODS
    )


def test_what_attacks_reach():
    probed, fresh = spreads(REPORT, PROBED), spreads(REPORT, FRESH)
    assert f"fine-tuning reaches {fresh['hardened']}, undefended {fresh['undefended']}. Longer" in README
    assert f"reaches {fresh['hardened']} from the hardened model and {fresh['undefended']} from the undefended" in TOLD
    assert f"from a probe of all layers on {probed['hardened']} and {probed['undefended']}." in TOLD
    few = {role: spread(REPORT.strongest("animals", 100, role)) for role in ("hardened", "undefended")}
    assert f"With 100 pictures it is {few['hardened']} against {few['undefended']}." in TOLD
    assert f"({fresh['scratch']} by fine-tuning)" in TOLD


def test_what_it_costs():
    kept = {role: f"{REPORT.desired.of(role)['accuracy']:.3f}" for role in ("hardened", "undefended")}
    for told in (README, METHODS):
        assert f"The price: vehicles {kept['hardened']}, undefended {kept['undefended']}." in told
    assert f"({kept['hardened']}, undefended {kept['undefended']})" in TOLD


def test_earlier_versions_gave_the_strongest_rate_up():
    given_up, last = lab("animals-rates-given-up"), lab("animals-last-layer")
    assert f"fine-tuning the same model reached {spreads(given_up, FRESH)['hardened']}, and" in TOLD
    assert given_up.suite.version == lab("animals-200-steps").suite.version == last.suite.version == 2
    assert REPORT.suite.version == 3
    assert given_up.models["hardened"].sha256 == REPORT.models["hardened"].sha256
    runs = {role: [r for r in one.runs if r.role == "hardened" and r.attack == FRESH and r.examples == 560]
            for role, one in (("before", given_up), ("now", REPORT))}  # fmt: skip
    assert {r.settings["learning_rate"] for r in runs["before"] if r.status == "pruned"} == {3e-4, 3e-3}
    assert {r.settings["learning_rate"] for r in runs["now"] if r.chosen} == {3e-3}
    told = (
        f"{spreads(last, PROBED)['hardened']} from a probe of all layers on, {spreads(last, FRESH)['hardened']} under"
    )
    assert f"{told} a fresh head, vehicles {last.desired.of('hardened')['accuracy']:.3f}." in TOLD


def test_longer_attacks():
    runs = [run_of(f"animals-{steps}-steps{which}") for steps in (600, 1200) for which in ("", "-undefended")]
    tested, chosen = ([f"{getattr(run, of).accuracy:.3f}" for run in runs] for of in ("test", "selection"))
    few, many = "{} hardened and {} undefended".format(*tested), " and ".join(tested[2:])
    assert f"rows: {few} with 600 steps, {many} with 1,200." in README
    assert f"With 600 steps fine-tuning reaches {few}, with 1,200 steps {many} ([cards]" in METHODS
    assert (
        "{} from the hardened model and {} from the undefended one, 1,200 steps {} and {} (on".format(*tested) in TOLD
    )
    assert "rows {} and {}, {} and {}).".format(*chosen) in TOLD
    twice = [run_of(f"animals-{steps}-steps-twice-the-clip") for steps in (600, 1200)]
    tested, chosen = ([f"{getattr(run, of).accuracy:.3f}" for run in twice] for of in ("test", "selection"))
    assert "twice the clip it is {} and {} ({} and {} on selection rows".format(*tested, *chosen) in TOLD


@pytest.mark.parametrize("name", ["animals-600-steps", "animals-1200-steps"])
def test_longer_attacks_are_on_the_models_of_the_card(name):
    assert lab(name).models["hardened"].sha256 == REPORT.models["hardened"].sha256
    assert lab(f"{name}-undefended").models["hardened"].sha256 == REPORT.models["undefended"].sha256


def test_what_settings_that_are_given_up_cost():
    """In how many cases the rate that ends best is given up, by each rule."""
    lines = [json.loads(line) for line in (ROOT / "benchmarks" / "short_runs.jsonl").read_text().splitlines()]
    missed = dict.fromkeys(itertools.product(("hardened", "undefended"), ("looks", "short"), (1, 2)), 0)
    for model, examples, rung in itertools.product(("hardened", "undefended"), (100, 560), ("50", "100")):
        cell = [line for line in lines if (line["model"], line["examples"]) == (model, examples)]
        assert len(cell) == 4
        best = max(cell, key=lambda line: line["selection"])
        for kind, most in itertools.product(("looks", "short"), (1, 2)):
            kept = sorted(cell, key=lambda line: line[kind][rung], reverse=True)[:most]
            missed[model, kind, most] += best not in kept
    words = ("none", "one", "two", "three", "four")
    told = {key: words[count] for key, count in missed.items()}
    judge = text(ROOT / "docs" / "judge.md")
    first = (
        f"in {told['hardened', 'looks', 1]} of four cases of the hardened model and in {told['undefended', 'looks', 1]}"
    )
    assert first in judge
    assert f"keep one do in {told['hardened', 'short', 1]} and in {told['undefended', 'short', 1]}, and" in judge
    for kind in ("looks", "short"):
        assert f"keeps two in {told['hardened', kind, 2]} and in {told['undefended', kind, 2]}." in judge
