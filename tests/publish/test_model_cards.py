"""Committed cards are what their reports render and what their examples do; the lab keeps its book."""

import json
import runpy
import statistics
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch
from toy_models import tiny_model
from toy_project import make_project
from transformers import AutoModel, AutoTokenizer

from hf_selfdestruct.hardening.defaults import configured_adversary, configured_keeping, configured_losses
from hf_selfdestruct.jobs.config import load_config, training_arguments
from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.publish.manifest import published_files
from hf_selfdestruct.report.report import AttackReport

ROOT = Path(__file__).parents[2]
CARDS = sorted(p.parent for p in (ROOT / "model_cards").glob("*/README.md"))
EXAMPLES = {
    "wikibios-gender": ROOT / "examples" / "wikibios.yaml",
    "wikibios-source-shift": ROOT / "examples" / "wikibios.yaml",
    "wikibios-general": ROOT / "examples" / "wikibios_general.yaml",
    "wikibios-same-article": ROOT / "examples" / "wikibios_same_article.yaml",
    "python-code": ROOT / "hf_selfdestruct" / "demo" / "language.yaml",
    "cifar10-animals": ROOT / "examples" / "images.yaml",
    "wikibios-roles-swapped": ROOT / "examples" / "wikibios_roles_swapped.yaml",
}
METHODS = {
    "python-code": "language",
    "cifar10-animals": "pool",
    "wikibios-general": "general",
    "wikibios-same-article": "mlac_fast",
}
# What the example did when the card was made, or what the card's script changes of it.
OVERRIDES = {
    "wikibios-source-shift": ["--method_options.max_blocking_grad_norm", "0"],
    "python-code": ["--max_steps", "500"],
}


def test_there_are_cards():
    assert CARDS


@pytest.mark.parametrize("folder", CARDS, ids=lambda p: p.name)
def test_card_is_what_its_report_renders(folder):
    report = AttackReport.load(folder / "selfdestruct" / "report.json")
    details = CardDetails.from_dict(json.loads((folder / "selfdestruct" / "card.json").read_text()))
    plots = [name for name in published_files(folder) if name.endswith(".png")]
    assert plots
    card = render(report, details, plots=plots)
    assert (folder / "README.md").read_text() == card
    lines = card.split("---\n", 2)[2].partition("## Appendix")[0].splitlines()
    assert sum(len(line.split()) for line in lines if not line.startswith("|")) < 700


@pytest.mark.parametrize("folder", CARDS, ids=lambda p: p.name)
def test_the_example_is_what_was_measured(folder, tmp_path):
    """The recipe of the report, but for its method's name: the presets were named after they had been measured."""
    recipe = AttackReport.load(folder / "selfdestruct" / "report.json").recipe
    overrides = ["--output_dir", str(tmp_path), "--use_cpu", "true", *OVERRIDES.get(folder.name, ())]
    config = load_config(EXAMPLES[folder.name], overrides)
    args = training_arguments(config)
    args = args.filled()
    assert args.method == METHODS.get(folder.name, "one_purpose")
    top = ("meta_gradient", "blocking_weight", "blocking_batch_size", "keeping_weight")
    named = {name: getattr(args, name) for name in top if name in recipe}
    assert {*named} >= {"meta_gradient", "blocking_weight", "blocking_batch_size"}
    assert named == {name: recipe[name] for name in named}
    options = asdict(args.options)
    assert {*options} >= {"blocking_every", "step_weights"} <= {*recipe}
    assert {n: v for n, v in options.items() if n in recipe} == {n: recipe[n] for n in options if n in recipe}
    unsaid = ("blocking_ceiling", "probe_weight", "trajectory", "blocking_interval", "hvp", "episode")
    unsaid += ("selective_budget", "unlearn_weight")  # of parts that are left out
    assert not [name for name, value in options.items() if value and name not in (*recipe, *unsaid)]
    assert configured_adversary(args).config() == recipe["adversaries"]["0"]
    blocking = [loss.config() for loss in configured_losses(args)]
    for loss in (loss for loss in blocking if "ridge" in loss):
        loss["ridge"] = 0.1  # these were measured by probes of one penalty
    assert blocking == [*recipe["blocking_losses"].values()]
    assert [loss.config() for loss in configured_keeping(args)] == [*recipe.get("keeping_losses", {}).values()]
    assert [args.learning_rate, args.max_steps] == [recipe["learning_rate"], recipe["outer_steps"]]


def test_genders_are_even_within_profession_and_source():
    even = runpy.run_path(str(ROOT / "model_cards" / "source_shift.py"))["even"]
    counts = {("actor", "a", "f"): 3, ("actor", "a", "m"): 5, ("actor", "b", "m"): 2, ("poet", "a", "f"): 1}
    counts["poet", "a", "m"] = 1
    names = ["profession", "source", "gender"]
    rows = [key for key, count in counts.items() for _ in range(count)]
    found = even(pd.DataFrame(rows, columns=names)).groupby(names).size().to_dict()
    expected = {("actor", "a", g): 3 for g in "fm"} | {("poet", "a", g): 1 for g in "fm"}
    assert found == expected


def with_development(config):
    """The configuration with development rows."""
    cut = "    label_column: origin\n    development: 0.4\n"
    config.write_text(config.read_text().replace("    label_column: origin\n", cut))
    return config


def script(name, monkeypatch):
    """The names of a script, which may import from its neighbours."""
    monkeypatch.syspath_prepend(ROOT / "model_cards")
    return runpy.run_path(str(ROOT / "model_cards" / name))


def test_the_lab_book_has_a_line_for_each_variant_and_runs_none_twice(tmp_path, monkeypatch):
    config = with_development(make_project(tmp_path))
    variants, ledger = tmp_path / "variants.yaml", tmp_path / "variants.jsonl"
    one = {"name": "two steps", "config": str(config), "training": {"max_steps": 2, "blocking_weight": 0.5}}
    one["seeds"] = [0, 3]
    variants.write_text(json.dumps([{"name": "scratch", "config": str(config)}, one]))
    monkeypatch.chdir(tmp_path)
    lab = script("lab.py", monkeypatch)["main"]
    lab(str(variants))
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["variant"] for line in lines] == ["scratch", "two steps", "two steps"]
    assert [line["seed"] for line in lines] == [0, 0, 3]
    for line in lines:
        for split in ("attacks", "selection"):
            assert {*line[split]} == {"layer probe", "full fine-tuning"}
            assert all(0 < score < 1 for score in line[split].values())
        assert line["selection"] != line["attacks"]
        assert line["scored on"] == "development"
    assert lines[1]["training"] == one["training"]
    assert all(0 < line["desired"] < 1 for line in lines[1:])
    weights = {path.read_bytes() for path in tmp_path.glob("lab-runs/*two-steps*/model.safetensors")}
    assert len(weights) == 2
    table = (tmp_path / "variants.md").read_text()
    scores = [line["attacks"]["full fine-tuning"] for line in lines]
    assert f"| {scores[0]:.3f} |" in table
    both = f"{statistics.fmean(scores[1:]):.3f} ± {statistics.stdev(scores[1:]):.3f}"
    assert "| config | two steps | max_steps 2, blocking_weight 0.5 | development | 2 | " in table
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
    readings = [json.loads(line) for line in (tmp_path / "readings.jsonl").read_text().splitlines()]
    assert [(one["split"], one["suite"]) for one in readings] == [("development", "glance")] * len(lines)


def test_the_lab_gives_a_method_that_keeps_general_use_its_texts(tmp_path, monkeypatch):
    config = with_development(make_project(tmp_path))
    variants = tmp_path / "variants.yaml"
    general = {"name": "general", "config": str(config), "training": {"method": "general", "max_steps": 1}}
    variants.write_text(json.dumps([general]))
    monkeypatch.chdir(tmp_path)
    lab = script("lab.py", monkeypatch)["main"]
    lab(str(variants), "--data.keep_path", str(tmp_path / "data"), "--data.keep_text_column", "text")
    (line,) = map(json.loads, (tmp_path / "variants.jsonl").read_text().splitlines())
    assert -1 <= line["similarity_rank_correlation"] <= 1


def test_the_lab_refuses_to_compare_on_test_rows(tmp_path, monkeypatch):
    config = make_project(tmp_path)
    variants = tmp_path / "variants.yaml"
    variants.write_text(json.dumps([{"name": "scratch", "config": str(config)}]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="blocked task 'origin' has no development rows to compare on"):
        script("lab.py", monkeypatch)["main"](str(variants))
    with pytest.raises(SystemExit, match="blocked task 'origin' has no development rows to compare on"):
        script("entries.py", monkeypatch)["main"](str(config), "scratch", "smoke", "head only", "out.json")


def test_a_truncated_model_is_the_first_layers_with_their_tokenizer(tmp_path):
    make_project(tmp_path)
    model, out = tmp_path / "model", tmp_path / "short"
    tiny_model(layers=2).save_pretrained(model)
    runpy.run_path(str(ROOT / "model_cards" / "truncate.py"))["main"](str(model), "1", str(out))
    whole, kept = (AutoModel.from_pretrained(folder).state_dict() for folder in (model, out))
    assert {*whole} - {*kept} == {name for name in whole if name.startswith("encoder.layer.1.")} != set()
    assert all(torch.equal(kept[name], whole[name]) for name in kept)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(model).get_vocab()
