"""The figures told in the README and beside the cards are those of the committed reports and lab books."""

import html
import json
import math
import re
import statistics
from pathlib import Path

import pytest

from hf_selfdestruct.report.comparison import difference
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.report.weights_add import added_rows

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"
AS_IT_IS = "blocking gradient as it is"


def text(path):
    return " ".join(path.read_text().split())


README, OLD = text(ROOT / "README.md"), text(CARDS / "withdrawn.md")


def card(name):
    return AttackReport.load(CARDS / name / "selfdestruct" / "report.json")


def lab(name):
    return AttackReport.load(CARDS / "lab" / f"{name}.json")


GENERAL, SWAPPED, GENDER, SHIFT = (
    card(f"wikibios-{name}") for name in ("general", "roles-swapped", "gender", "source-shift")
)


def book(setting, variant, seed, *, of="recipes"):
    """A line of a lab book."""
    lines = map(json.loads, (CARDS / "lab" / f"{of}.jsonl").read_text().splitlines())
    (line,) = [x for x in lines if (x["setting"], x["variant"], x["seed"]) == (setting, variant, seed)]
    return line


def scores(*which, **book_of):
    """Layer probe, full fine-tuning and desired task of a line, as they are told."""
    line = book(*which, **book_of)
    found = (line["attacks"]["layer probe"], line["attacks"].get("full fine-tuning", math.nan), line["desired"])
    return tuple(f"{score:.3f}" for score in found)


def spread(summary):
    return f"{summary.mean:.3f} ± {summary.deviation:.3f}"


def reached(report, task, attack, examples=939):
    """What an attack reached on each model."""
    return {s.role: s for s in report.summaries(task) if (s.attack, s.examples) == (attack, examples)}


def best(report, task, examples=939):
    return {role: report.strongest(task, examples, role) for role in report.roles()}


def means(summaries):
    return {role: f"{s.mean:.3f}" for role, s in summaries.items()}


def test_the_table_is_what_was_measured():
    for report, task in ((GENERAL, "gender"), (SWAPPED, "profession")):
        for examples in report.budgets(task):
            row = " | ".join(map(spread, best(report, task, examples).values()))
            assert f"| {task} | {examples} | {row} | {difference(report, task, examples)} |" in OLD
        assert f"{report.tasks[task].majority:.3f} ({task})" in OLD


def test_words_alone_are_what_was_measured():
    measured = json.loads((CARDS / "lab" / "words.json").read_text())
    for report, task in ((GENERAL, "gender"), (SWAPPED, "profession")):
        for examples in report.budgets(task):
            found = measured[task][str(examples)]
            told = f"{statistics.fmean(found):.3f} ± {statistics.stdev(found):.3f}"
            assert f"| {difference(report, task, examples)} | {told} |" in OLD
            assert statistics.fmean(found) > best(report, task, examples)["hardened"].mean
        # The reports were made when the raw input had one classifier, which is one of those that compete now.
        (all_examples,) = (run for run in report.runs if run.role == "raw" and run.chosen and run.seed == 0)
        assert found[0] >= all_examples.test.accuracy - 1e-9


def test_what_is_kept():
    kept, also = (
        [f"{report.desired.of(role)['accuracy']:.3f}" for role in ("hardened", "undefended")]
        for report in (GENERAL, SWAPPED)
    )
    similar = GENERAL.desired.of("hardened")["similarity_rank_correlation"]
    assert f"Professions: {kept[0]} hardened, {kept[1]} undefended;" in OLD
    assert (
        f"(rank correlation {similar:.3f} with the base's). Gender in the second model: {also[0]} hardened, {also[1]}"
        in OLD
    )
    third = means(best(GENERAL, "source"))
    told = f"the hardened model reaches {third['hardened']}, undefended {third['undefended']}, the base {third['base']}"
    assert f"{told}, scratch {third['scratch']}." in OLD


def test_searched_fine_tuning():
    tuned = reached(SWAPPED, "profession", "full fine-tuning, searched")
    assert (
        f"reaches {spread(tuned['hardened'])} (scratch {spread(tuned['scratch'])}, base {tuned['base'].mean:.3f})."
        in OLD
    )
    (words,) = (s.mean for s in GENERAL.summaries("gender") if s.role == "raw")
    strongest = GENERAL.strongest("gender", 939, "hardened")
    assert strongest.attack == "full fine-tuning, searched"
    assert strongest.mean < words
    assert f"classifier does better ({words:.3f})." in OLD
    fewer = lab("wikibios-general-fewer")
    few = {n: best(fewer, "gender", n) for n in (100, 400)}
    told = {(n, role): spread(few[n][role]) for n in few for role in ("hardened", "scratch")}
    assert f"With 400 examples full fine-tuning reaches {told[400, 'hardened']} (scratch {told[400, 'scratch']})" in OLD
    again = f"{told[400, 'hardened']} from the model hardened again, {told[400, 'scratch']} from scratch"
    assert f"{again} ({difference(fewer, 'gender', 400)})" in OLD
    assert f"two rates: {told[100, 'hardened']}, scratch {told[100, 'scratch']};" in OLD
    probes = {n: GENERAL.strongest("gender", n, "hardened").mean for n in few}
    assert few[400]["hardened"].mean > probes[400]
    assert few[100]["hardened"].mean == pytest.approx(probes[100], abs=0.005)


def test_longer_fine_tuning():
    general, gender, swapped = (lab(f"wikibios-{name}-longer") for name in ("general", "gender", "profession"))
    for report, told in (
        (general, "get {} from the model hardened again and {} from scratch ({})"),
        (gender, GENDER_TOLD),
    ):
        found = best(report, "gender")
        assert (
            told.format(spread(found["hardened"]), spread(found["scratch"]), difference(report, "gender", 939)) in OLD
        )
    found = best(general, "gender")
    told = f"it reaches {spread(found['hardened'])}, scratch {spread(found['scratch'])}, where one seed"
    assert told in OLD
    long = lab("wikibios-gender-1600-steps")
    reach = means(best(long, "gender"))
    assert f"reach {reach['hardened']} and {reach['scratch']} ({difference(long, 'gender', 939)})" in OLD
    told = [(general, "gender", "hardened"), (gender, "gender", "hardened"), (gender, "gender", "scratch")]
    for report, task, role in [*told, (general, "gender", "scratch"), (swapped, "profession", "hardened")]:
        seeds = [f"{run.test.accuracy:.3f}" for run in report.strongest_runs(task, 939, role)]
        assert f"| {', '.join(seeds)} |" in OLD
    tuned, probed = (report.strongest("profession", 939, "hardened") for report in (swapped, SWAPPED))
    assert f"640 steps get {spread(tuned)}, without the clip, below probes." in OLD
    assert "probes" in probed.attack
    assert tuned.mean < probed.mean


GENDER_TOLD = "reach {} hardened and {} from scratch, where one seed stays at chance (hardened − scratch {})"


def test_further_hardening_seeds():
    lines = [book("wikibios_general", "as shipped", seed) for seed in (1, 2)]
    tuned, probed = (
        " and ".join(f"{x['attacks'][name]:.3f}" for x in lines) for name in ("full fine-tuning", "layer probe")
    )
    again = {s.attack: s.mean for s in lab("wikibios-general-glance").summaries("gender")}
    assert again["layer probe"] == reached(GENERAL, "gender", "layer probe")["hardened"].mean
    assert f"give fine-tuning {tuned} (the first, hardened again: {again['full fine-tuning']:.3f}," in OLD
    kept = [" and ".join(f"{x[name]:.3f}" for x in lines) for name in ("desired", "similarity_rank_correlation")]
    told = f"the layer probe {probed} ({again['layer probe']:.3f}), professions {kept[0]}, similarities {kept[1]}."
    assert told in OLD

    first = means(reached(SWAPPED, "profession", "layer probe"))["hardened"]
    probe, tuned, desired = scores("wikibios_roles_swapped", "as shipped", 2)
    assert f"the layer probe {probe} (the first: {first}), fine-tuning {tuned} and gender {desired}." in OLD

    pairs = zip(*(scores("wikibios", AS_IT_IS, seed, of="source_shift") for seed in (1, 2)), strict=True)
    probes, tunings, desired = (" and ".join(pair) for pair in pairs)
    first = means(reached(SHIFT, "gender", "layer probe", 349))
    assert f"layer probe {probes} ({first['hardened']} in the folder, scratch {first['scratch']})" in OLD
    tuned = means(reached(SHIFT, "gender", "full fine-tuning, searched", 349))["scratch"]
    kept = f"{SHIFT.desired.of('hardened')['accuracy']:.3f}"
    assert f"fine-tuning {tunings} (scratch {tuned} by `quick`), professions {desired} ({kept})." in OLD


def test_one_purpose_gender_blocked():
    found = means(best(GENDER, "gender"))
    kept = {role: f"{GENDER.desired.of(role)['accuracy']:.3f}" for role in ("hardened", "undefended")}
    told = f"the judge gets {found['hardened']} from 939 examples (scratch {found['scratch']}, undefended"
    told += f" {found['undefended']}), professions are at {kept['hardened']}, undefended {kept['undefended']};"
    assert told in OLD
    tuned = {role: spread(s) for role, s in reached(GENDER, "gender", "full fine-tuning, searched").items()}
    told = (
        f"gets {tuned['hardened']} (scratch {tuned['scratch']}, base {tuned['base']}), but no more from the undefended"
    )
    assert f"{told} sibling either ({tuned['undefended']})." in OLD
    first, *rest = (scores("wikibios", AS_IT_IS, seed) for seed in (0, 1, 2))
    probes, _, desired = ("{}, {} and {}".format(*three) for three in zip(first, *rest, strict=True))
    assert f"by `glance`, give the layer probe {probes}, professions {desired}." in OLD
    judged = lab("wikibios-gender-default")
    assert f"{judged.strongest('gender', 939, 'hardened').mean:.3f} from 939 examples). Longer" in OLD
    for report in (GENDER, judged):
        assert all(difference(report, "gender", examples).low <= 0 for examples in report.budgets("gender"))
    table, probed = (CARDS / "README.md").read_text(), means(reached(GENDER, "gender", "layer probe"))["undefended"]
    alone = f"{kept['undefended']} | {probed} | {tuned['undefended'].split()[0]} |"
    assert f"| gender | neither: the undefended sibling (`quick`) | {alone}" in table


def test_an_unclipped_blocking_gradient():
    first, second, lost = (scores("wikibios_roles_swapped", AS_IT_IS, seed) for seed in (0, 1, 2))
    told = f"hardly learned gender ({lost[2]}; the others {first[2]} and {second[2]}; layer probe {lost[0]}"
    assert f"{told}, {first[0]} and {second[0]})" in OLD


def test_closed_forms_and_the_loop():
    alone = scores("wikibios_roles_swapped", "closed forms alone", 0)[0]
    whole = means(reached(SWAPPED, "profession", "layer probe"))["hardened"]
    loop = scores("wikibios", "MLAC loop alone, K = 4", 0)[0]
    base = means(reached(GENDER, "gender", "layer probe"))["base"]
    told = f"recipe leaves the layer probe {alone}, with it {whole}; the MLAC loop alone, with gender"
    assert f"{told} blocked, leaves it at {loop} (K = 4; base {base})." in OLD
    table = (CARDS / "README.md").read_text()
    for steps in (0, 4, 16):
        probe, tuned, desired = scores("wikibios", f"MLAC loop alone, K = {steps}", 0)
        assert f"| gender | MLAC loop alone, K = {steps} | {desired} | {probe} | {tuned} |" in table


def test_figures_of_the_model_that_forgets():
    lines = (CARDS / "wikibios-same-article" / "README.md").read_text().splitlines()
    table = [re.split(r" *\| *", line)[1:-1] for line in lines if line.startswith("| same-article |")]
    rows = {row[1]: row for row in table if len(row) == 10}
    _, _, base, undefended, hardened, scratch, _, raw, add, _ = rows["1430"]
    told = (
        f"With 1,430 examples the base gives {base}, the undefended model {undefended}, the hardened one {hardened}, "
    )
    assert told + f"scratch {scratch}, the raw input {raw}; the hardened weights add {html.unescape(add)}." in README
    (kept,) = [line for line in lines if line.startswith("- Desired task: ")]
    undefended, hardened = map(float, re.search(r"accuracy undefended (0\.\d+), hardened (0\.\d+)", kept).groups())
    assert f"professions {hardened:.3f} instead of {undefended:.3f} (undefended" in README
    assert all(row[-1] == "yes" for row in added_rows(card("wikibios-same-article"), "same-article"))


def test_figures_of_the_language_model():
    report = card("python-code")
    (most,) = report.budgets("code")
    reached = {role: f"{-report.strongest('code', most, role).mean:.3f}" for role in report.roles()}
    told = text(CARDS / "README.md")
    assert f"{reached['undefended']}, {reached['hardened']}, {reached['filtered']}." in README
    assert f"a loss of {reached['hardened']} nats from the hardened model, {reached['undefended']} from the" in told
    assert f"{reached['filtered']} from one that never saw code, {reached['scratch']} from random weights" in told
    assert report.strongest("code", most, "hardened").attack == "full, healed first"
    alone = [-run.test.value for run in report.runs if (run.attack, run.role) == ("full", "hardened") and run.chosen]
    assert f"fine-tuning alone leaves {statistics.fmean(alone):.3f}" in told
    quality = {role: f"{report.desired.of(role)['loss']:.3f}" for role in ("hardened", "undefended")}
    assert f"the desired loss is {quality['hardened']}, undefended {quality['undefended']}" in told
    assert any("destroyed" in doubt for doubt in report.checks)
