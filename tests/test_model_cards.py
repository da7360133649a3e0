"""Committed cards are what their reports render, and the README's table is what the report says."""

import itertools
import json
import math
import runpy
import statistics
from pathlib import Path

import pandas as pd
import pytest
import torch
from toy_models import tiny_model
from toy_project import make_project
from transformers import AutoModel, AutoTokenizer

from hf_selfdestruct.card import render
from hf_selfdestruct.comparison import difference
from hf_selfdestruct.config import load_config, training_arguments
from hf_selfdestruct.details import CardDetails
from hf_selfdestruct.manifest import published_files
from hf_selfdestruct.presets import PRESETS, fill
from hf_selfdestruct.report import AttackReport
from hf_selfdestruct.trainer_parts import configured_adversary, configured_keeping, configured_losses
from hf_selfdestruct.training_args import UNDEFENDED

ROOT = Path(__file__).parents[1]
CARDS = sorted(p.parent for p in (ROOT / "model_cards").glob("*/README.md"))
EXAMPLES = {
    "wikibios-gender": ROOT / "examples" / "wikibios.yaml",
    "wikibios-source-shift": ROOT / "examples" / "wikibios.yaml",
    "wikibios-general": ROOT / "examples" / "wikibios_general.yaml",
    "wikibios-roles-swapped": ROOT / "examples" / "wikibios_roles_swapped.yaml",
}
AS_IT_IS = "blocking gradient as it is"
AS_IT_IS_SEEDS = [(AS_IT_IS, seed) for seed in (0, 1, 2)]
# What the example did when the card was made.
OVERRIDES = {name: ["--max_blocking_grad_norm", "0"] for name in ("wikibios-gender", "wikibios-source-shift")}


def test_there_are_cards():
    assert CARDS


@pytest.mark.parametrize("folder", CARDS, ids=lambda p: p.name)
def test_card_is_what_its_report_renders(folder):
    report = AttackReport.load(folder / "selfdestruct" / "report.json")
    details = CardDetails.from_dict(json.loads((folder / "selfdestruct" / "card.json").read_text()))
    plots = [name for name in published_files(folder) if name.endswith(".png")]
    assert plots
    assert (folder / "README.md").read_text() == render(report, details, plots=plots)


@pytest.mark.parametrize("folder", CARDS, ids=lambda p: p.name)
def test_the_example_is_what_was_measured(folder, tmp_path):
    """The recipe of the report, but for its method's name: the presets were named after they had been measured."""
    recipe = AttackReport.load(folder / "selfdestruct" / "report.json").recipe
    overrides = ["--output_dir", str(tmp_path), "--use_cpu", "true", *OVERRIDES.get(folder.name, ())]
    config = load_config(EXAMPLES[folder.name], overrides)
    args = training_arguments(config)
    fill(args)
    assert args.method == ("general" if folder.name == "wikibios-general" else "one_purpose")
    named = {name: getattr(args, name) for name in PRESETS[args.method] if name in recipe}
    assert {*named} >= {"meta_gradient", "blocking_every", "step_weights", "blocking_batch_size"}
    assert named == {name: recipe[name] for name in named}
    names = ("max_blocking_grad_norm", *UNDEFENDED)
    assert {n: getattr(args, n) for n in names} == {n: recipe.get(n, 0) for n in names}
    assert configured_adversary(args).config() == recipe["adversaries"]["0"]
    assert [loss.config() for loss in configured_losses(args)] == [*recipe["blocking_losses"].values()]
    assert [loss.config() for loss in configured_keeping(args)] == [*recipe.get("keeping_losses", {}).values()]
    assert [args.learning_rate, args.max_steps] == [recipe["learning_rate"], recipe["outer_steps"]]


def report_of(card):
    return AttackReport.load(ROOT / "model_cards" / card / "selfdestruct" / "report.json")


def readme():
    return " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize(("card", "task"), [("wikibios-general", "gender"), ("wikibios-roles-swapped", "profession")])
def test_readme_shows_what_was_measured(card, task):
    report = report_of(card)
    for examples in report.budgets(task):
        cells = [report.strongest(task, examples, role) for role in report.roles()]
        row = " | ".join(f"{s.mean:.3f} ± {s.deviation:.3f}" for s in cells)
        assert f"| {examples} | {row} | {difference(report, task, examples)} |" in readme()
    for role in ("undefended", "hardened"):
        assert f"{report.desired[role]['accuracy']:.3f}" in readme()


def test_readme_says_what_is_left_of_general_use():
    left = report_of("wikibios-general").desired["hardened"]["similarity_rank_correlation"]
    assert f"rank correlation {left:.3f} with the base's" in readme()
    report = report_of("wikibios-general")
    roles = ("hardened", "undefended", "base", "scratch")
    kept = {role: f"{report.strongest('source', 939, role).mean:.3f}" for role in roles}
    told = f"the hardened model reaches {kept['hardened']}, undefended {kept['undefended']}, the base {kept['base']}"
    assert f"{told}, scratch {kept['scratch']}." in readme()


def test_readme_says_what_other_hardening_seeds_gave():
    lines = map(json.loads, (ROOT / "model_cards" / "lab" / "recipes.jsonl").read_text().splitlines())
    found = [x for x in lines if (x["setting"], x["variant"]) == ("wikibios_general", "as shipped") and x["seed"]]
    tuned, probed = (
        " and ".join(f"{x['attacks'][name]:.3f}" for x in found) for name in ("full fine-tuning", "layer probe")
    )
    summaries = report_of("wikibios-general").summaries("gender")
    (first,) = (s.mean for s in summaries if (s.role, s.attack, s.examples) == ("hardened", "layer probe", 939))
    again = AttackReport.load(ROOT / "model_cards" / "lab" / "wikibios-general-glance.json").summaries("gender")
    means = {s.attack: s.mean for s in again}
    assert means["layer probe"] == first
    again = f"the first, hardened again: {means['full fine-tuning']:.3f}"
    told = f"fine-tuning {tuned} ({again}), the layer probe {probed} ({first:.3f})"
    kept = [" and ".join(f"{x[name]:.3f}" for x in found) for name in ("desired", "similarity_rank_correlation")]
    assert f"{told}, professions {kept[0]}, similarities {kept[1]}." in readme()
    assert f"similarity {kept[1]} |" in (ROOT / "model_cards" / "README.md").read_text()


def test_readme_says_what_further_hardening_seeds_gave():
    index = (ROOT / "model_cards" / "README.md").read_text()
    first, scratch = {}, {}
    for folder, task, most in (("roles-swapped", "profession", 939), ("source-shift", "gender", 349)):
        found = {s.role: s for s in report_of(f"wikibios-{folder}").summaries(task) if s.attack == "layer probe"}
        assert found["hardened"].examples == most
        first[folder], scratch[folder] = (f"{found[role].mean:.3f}" for role in ("hardened", "scratch"))
    probe, tuned, desired = lab_scores("recipes", "wikibios_roles_swapped", "as shipped", 2)
    told = f"the layer probe {probe} (the first: {first['roles-swapped']}), fine-tuning {tuned} and gender {desired}."
    assert told in readme()
    told = f"layer probe {probe} ({first['roles-swapped']} in the folder), fine-tuning {tuned}, gender {desired} |"
    assert told in index
    second, third = (lab_scores("source_shift", "wikibios", AS_IT_IS, seed) for seed in (1, 2))
    probes, tunings, desired = (" and ".join(pair) for pair in zip(second, third, strict=True))
    told = f"layer probe {probes} ({first['source-shift']} in the folder, scratch {scratch['source-shift']})"
    assert f"{told}, fine-tuning {tunings} (" in index
    assert f"professions {desired} (" in index


def test_readme_says_what_an_unclipped_blocking_gradient_gave():
    first, second, lost = (lab_scores("recipes", "wikibios_roles_swapped", AS_IT_IS, seed) for seed in (0, 1, 2))
    told = f"hardly learned gender ({lost[2]}; the others {first[2]} and {second[2]}; layer probe {lost[0]}"
    assert f"{told}, {first[0]} and {second[0]})" in readme()
    shipped, *rest = (lab_scores("recipes", "wikibios", *which)[0] for which in [("as shipped", 0), *AS_IT_IS_SEEDS])
    assert f"(gender; {shipped} with it, and without the clip {rest[0]}, {rest[1]} and {rest[2]})" in readme()


def lab_scores(book, setting, variant, seed):
    """Layer probe, full fine-tuning and desired task of a line of a lab book, as they are told."""
    lines = map(json.loads, (ROOT / "model_cards" / "lab" / f"{book}.jsonl").read_text().splitlines())
    (line,) = [x for x in lines if (x["setting"], x["variant"], x["seed"]) == (setting, variant, seed)]
    scores = (line["attacks"]["layer probe"], line["attacks"].get("full fine-tuning", math.nan), line["desired"])
    return tuple(f"{score:.3f}" for score in scores)


def test_readme_says_what_a_model_with_one_purpose_gave():
    report = report_of("wikibios-gender")
    reached = {role: report.strongest("gender", 939, role).mean for role in report.roles()}
    told = f"{reached['hardened']:.3f} from 939 examples (scratch {reached['scratch']:.3f}, undefended"
    assert f"{told} {reached['undefended']:.3f})" in readme()
    assert all(difference(report, "gender", examples).low <= 0 for examples in report.budgets("gender"))
    quality = [f"{report.desired[role]['accuracy']:.3f}" for role in ("hardened", "undefended")]
    assert f"undefended {reached['undefended']:.3f}), professions are at {quality[0]} (" in readme()
    probe, tuned, desired = lab_scores("recipes", "wikibios", "as shipped", 0)
    told = f"professions are at {desired}, undefended {quality[1]}, and from 939 examples the layer probe gets {probe}"
    assert f"{told} and fine-tuning {tuned} (`glance`; scratch" in readme()
    swapped = report_of("wikibios-roles-swapped").summaries("profession")
    probes = {s.role: s.mean for s in swapped if (s.attack, s.examples) == ("layer probe", 939)}
    lines = map(json.loads, (ROOT / "model_cards" / "lab" / "recipes.jsonl").read_text().splitlines())
    lab = {(x["setting"], x["variant"], x["seed"]): x["attacks"]["layer probe"] for x in lines}
    alone = "closed forms alone"
    told = f"{lab['wikibios_roles_swapped', alone, 0]:.3f} (professions; {probes['hardened']:.3f} with the MLAC loop)"
    assert f"{told} and {lab['wikibios', alone, 0]:.3f} (gender; {probe} with it" in readme()
    without = {s.role: s.mean for s in report.summaries("gender") if (s.attack, s.examples) == ("layer probe", 939)}
    loop = [f"{lab['wikibios', f'MLAC loop alone, K = {steps}', 0]:.3f}" for steps in (0, 4, 16)]
    told = f"leaves the probe at {loop[0]}, {loop[1]} and {loop[2]} (K = 0, 4 and 16; base {without['base']:.3f}"
    assert f"{told}, undefended {without['undefended']:.3f})" in readme()
    tuned = {s.role: s for s in swapped if s.attack == "full fine-tuning, searched"}
    hardened, scratch = (f"{tuned[role].mean:.3f} ± {tuned[role].deviation:.3f}" for role in ("hardened", "scratch"))
    assert f"gets {hardened} (scratch {scratch}, base {tuned['base'].mean:.3f})." in readme()


def test_readme_says_what_longer_fine_tuning_gave():
    lab = ROOT / "model_cards" / "lab"
    longer, long = (AttackReport.load(lab / f"wikibios-gender-{name}.json") for name in ("longer", "1600-steps"))
    best = {role: longer.strongest("gender", 939, role) for role in ("hardened", "scratch")}
    hardened, scratch = (f"{s.mean:.3f} ± {s.deviation:.3f}" for s in best.values())
    told = f"reach {hardened} hardened and {scratch} from scratch"
    assert f"{told}, where one seed stays at chance" in readme()
    assert f"(hardened − scratch {difference(longer, 'gender', 939)})" in readme()
    reached = [f"{long.strongest('gender', 939, role).mean:.3f}" for role in ("hardened", "scratch")]
    assert f"reach {' and '.join(reached)} ({difference(long, 'gender', 939)}; reports" in readme()
    general = AttackReport.load(lab / "wikibios-general-longer.json")
    for report, role in itertools.product((longer, general), ("hardened", "scratch")):
        seeds = [f"{run.test.accuracy:.3f}" for run in report.strongest_runs("gender", 939, role)]
        assert f"| {', '.join(seeds)} |" in (lab.parent / "README.md").read_text()
    found = [general.strongest("gender", 939, role) for role in ("hardened", "scratch")]
    first, second = (f"{one.mean:.3f} ± {one.deviation:.3f}" for one in found)
    told = f"get {first} from the model hardened again and {second} from scratch"
    assert f"{told} ({difference(general, 'gender', 939)};" in readme()
    swapped = AttackReport.load(lab / "wikibios-profession-longer.json")
    best = swapped.strongest("profession", 939, "hardened")
    assert f"Professions blocked: 640 steps get {best.mean:.3f} ± {best.deviation:.3f}" in readme()
    seeds = [f"{run.test.accuracy:.3f}" for run in swapped.strongest_runs("profession", 939, "hardened")]
    assert f"| {', '.join(seeds)} |" in (lab.parent / "README.md").read_text()
    probes = report_of("wikibios-roles-swapped").strongest("profession", 939, "hardened")
    assert "probes" in probes.attack
    assert best.mean < probes.mean


def test_readme_says_what_fine_tuning_with_fewer_examples_gave():
    report = AttackReport.load(ROOT / "model_cards" / "lab" / "wikibios-general-fewer.json")
    tuned = {(n, role): report.strongest("gender", n, role) for n in (100, 400) for role in ("hardened", "scratch")}
    told = {where: f"{one.mean:.3f} ± {one.deviation:.3f}" for where, one in tuned.items()}
    more = difference(report, "gender", 400)
    assert (
        f"{told[400, 'hardened']} from the model hardened again, {told[400, 'scratch']} from scratch ({more})"
        in readme()
    )
    assert f"two rates: {told[100, 'hardened']}, scratch {told[100, 'scratch']};" in readme()
    probes = {n: report_of("wikibios-general").strongest("gender", n, "hardened").mean for n in (100, 400)}
    assert tuned[400, "hardened"].mean > probes[400]
    assert tuned[100, "hardened"].mean == pytest.approx(probes[100], abs=0.005)


def test_genders_are_even_within_profession_and_source():
    even = runpy.run_path(str(ROOT / "model_cards" / "source_shift.py"))["even"]
    counts = {("actor", "a", "f"): 3, ("actor", "a", "m"): 5, ("actor", "b", "m"): 2, ("poet", "a", "f"): 1}
    counts["poet", "a", "m"] = 1
    names = ["profession", "source", "gender"]
    rows = [key for key, count in counts.items() for _ in range(count)]
    found = even(pd.DataFrame(rows, columns=names)).groupby(names).size().to_dict()
    expected = {("actor", "a", g): 3 for g in "fm"} | {("poet", "a", g): 1 for g in "fm"}
    assert found == expected


def test_the_lab_book_has_a_line_for_each_variant_and_runs_none_twice(tmp_path, monkeypatch):
    config = make_project(tmp_path)
    variants, ledger = tmp_path / "variants.yaml", tmp_path / "variants.jsonl"
    one = {"name": "two steps", "config": str(config), "training": {"max_steps": 2, "blocking_weight": 0.5}}
    one["seeds"] = [0, 3]
    variants.write_text(json.dumps([{"name": "scratch", "config": str(config)}, one]))
    monkeypatch.chdir(tmp_path)
    lab = runpy.run_path(str(ROOT / "model_cards" / "lab.py"))["main"]
    lab(str(variants))
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["variant"] for line in lines] == ["scratch", "two steps", "two steps"]
    assert [line["seed"] for line in lines] == [0, 0, 3]
    for line in lines:
        for split in ("attacks", "selection"):
            assert {*line[split]} == {"layer probe", "full fine-tuning"}
            assert all(0 < score < 1 for score in line[split].values())
        assert line["selection"] != line["attacks"]
    assert lines[1]["training"] == one["training"]
    assert all(0 < line["desired"] < 1 for line in lines[1:])
    weights = {path.read_bytes() for path in tmp_path.glob("lab-runs/*two-steps*/model.safetensors")}
    assert len(weights) == 2
    table = (tmp_path / "variants.md").read_text()
    scores = [line["attacks"]["full fine-tuning"] for line in lines]
    assert f"| {scores[0]:.3f} |" in table
    both = f"{statistics.fmean(scores[1:]):.3f} ± {statistics.stdev(scores[1:]):.3f}"
    assert "| config | two steps | max_steps 2, blocking_weight 0.5 | 2 | " in table
    assert f" | {both} | " in table
    chosen_by = [line["selection"]["full fine-tuning"] for line in lines[1:]]
    assert "full fine-tuning, selection" in table
    assert f" | {statistics.fmean(chosen_by):.3f} ± {statistics.stdev(chosen_by):.3f} | " in table
    lab(str(variants))
    assert [json.loads(line) for line in ledger.read_text().splitlines()] == lines
    assert (tmp_path / "variants.md").read_text() == table
    # Killed after training, before its line was written: no step more is made.
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    lab(str(variants))
    again = json.loads(ledger.read_text().splitlines()[-1])
    assert again["seconds"] <= lines[-1]["seconds"], "what came after the last checkpoint is not timed again"
    assert again | {"seconds": lines[-1]["seconds"]} == lines[-1]
    assert {path.read_bytes() for path in tmp_path.glob("lab-runs/*two-steps*/model.safetensors")} == weights


def test_the_lab_gives_a_method_that_keeps_general_use_its_texts(tmp_path, monkeypatch):
    config = make_project(tmp_path)
    variants = tmp_path / "variants.yaml"
    general = {"name": "general", "config": str(config), "training": {"method": "general", "max_steps": 1}}
    variants.write_text(json.dumps([general]))
    monkeypatch.chdir(tmp_path)
    lab = runpy.run_path(str(ROOT / "model_cards" / "lab.py"))["main"]
    lab(str(variants), "--data.keep_path", str(tmp_path / "data"), "--data.keep_text_column", "text")
    (line,) = map(json.loads, (tmp_path / "variants.jsonl").read_text().splitlines())
    assert -1 <= line["similarity_rank_correlation"] <= 1


def test_a_truncated_model_is_the_first_layers_with_their_tokenizer(tmp_path):
    make_project(tmp_path)
    model, out = tmp_path / "model", tmp_path / "short"
    tiny_model(layers=2).save_pretrained(model)
    runpy.run_path(str(ROOT / "model_cards" / "truncate.py"))["main"](str(model), "1", str(out))
    whole, kept = (AutoModel.from_pretrained(folder).state_dict() for folder in (model, out))
    assert {*whole} - {*kept} == {name for name in whole if name.startswith("encoder.layer.1.")} != set()
    assert all(torch.equal(kept[name], whole[name]) for name in kept)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(model).get_vocab()
