"""A language model from a configuration to its card: corpora in files of every kind, hardened and attacked."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_project import NOISE, make_tokenizer, write_jsonl
from transformers import LlamaConfig, LlamaForCausalLM

from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning
from hf_selfdestruct.attacks.suites.audit import plan_problems
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.cli.__main__ import main
from hf_selfdestruct.files import weights_hash
from hf_selfdestruct.jobs.config import load_config, training_arguments
from hf_selfdestruct.jobs.earlier_run import check_the_same
from hf_selfdestruct.jobs.job import examples, harden, trained
from hf_selfdestruct.jobs.processors import processor_of
from hf_selfdestruct.jobs.rerun import rerun
from hf_selfdestruct.jobs.sections import DataConfig
from hf_selfdestruct.jobs.texts import load_texts
from hf_selfdestruct.publish.manifest import problems
from hf_selfdestruct.report.comparison import difference
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.report.token_rows import token_contributions, unpacked_tokens

TUNING = FullFineTuning(learning_rates=(1e-3,), steps=(8,), looks=2)
SUITE = AttackSuite("toy", 1, (Entry(TUNING, (None,)),), seeds=1, few_seeds=0, more=None, null=False)
SPLITS = {"train": 60, "validation": 40, "test": 20}
CONFIG = """\
model: {folder}/model
data:
  kind: text
  path: {folder}/desired
  max_length: 16
blocked_tasks:
  - name: novel
    path: {folder}/blocked
training:
  output_dir: {folder}/hardened
  inner_steps: 2
  adversary: {{batch_size: 4}}
  max_steps: 4
  per_device_train_batch_size: 4
  learning_rate: 1e-3
  logging_steps: 1
  use_cpu: true
  report_to: none
  seed: 0
suite: toy
filtered: {folder}/filtered
card:
  title: Toy language model
  license: mit
"""


def texts(count: int, seed: int, jump: int) -> list[str]:
    """Sentences in which a word follows its predecessor by a rule, but for noise."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        words = [draw.randrange(40)]
        while len(words) < 12:
            words.append((words[-1] + jump) % 40 if draw.random() < 0.7 else draw.randrange(40))
        found.append(" ".join(NOISE[word] for word in words))
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for seed, (split, count) in enumerate(SPLITS.items()):
        write_jsonl(folder / "desired" / f"{split}.jsonl", [{"text": text} for text in texts(count, seed, 1)])
        (folder / "blocked" / split).mkdir(parents=True)
        for number in range(4):
            chapter = "\n".join(texts(count // 4, 10 * seed + number + 100, 7))
            (folder / "blocked" / split / f"{number}.txt").write_text(chapter, encoding="utf-8")
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=32, pad_token_id=0)
        LlamaForCausalLM(config).save_pretrained(folder / "model")
        LlamaForCausalLM(config).save_pretrained(folder / "filtered")
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _toy_suite():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES, "toy", SUITE)
        yield


@pytest.fixture(scope="module")
def hardened(project, _toy_suite) -> Path:
    assert main(["harden", str(project / "config.yaml")]) == 0
    return project / "hardened"


def test_from_start_to_card(project, hardened):
    report = AttackReport.load(hardened / "selfdestruct" / "report.json")
    assert report.roles() == ["base", "undefended", "hardened", "filtered", "scratch"]
    assert {run.status for run in report.runs} == {"ok"}
    assert report.tasks["novel"].score == "log-likelihood per token"
    assert all(run.test.extra["bits_per_byte"] > 0 for run in report.runs)
    assert all(len(run.general) == 3 for run in report.runs if run.role != "raw")
    assert {*report.desired.quality} == {"hardened", "undefended"}
    assert report.sha256("filtered") == weights_hash(project / "filtered")
    assert report.recipe["method"] == "language"
    assert problems(hardened) == []
    card = (hardened / "README.md").read_text(encoding="utf-8")
    assert "Test log-likelihood per token of the attack that the selection split prefers" in card
    assert "general loss" in card
    apart = difference(report, "novel", max(report.budgets("novel")), "hardened", "filtered")
    assert f"hardened − filtered {apart.mean:+.3f}".replace("0.", ".") in card
    assert "*filtered* was trained as the base was, but never on the blocked task" in " ".join(card.split())
    assert "reduces desired quality by at most 0.02 nats per token" in " ".join(card.split())
    model = LlamaForCausalLM.from_pretrained(hardened)
    start = LlamaForCausalLM.from_pretrained(project / "model").state_dict()
    assert not [name for name, weight in model.state_dict().items() if torch.equal(weight, start[name])]


def test_an_adapter_alone_is_trained_where_the_file_says_so(project, tmp_path):
    words = CONFIG.format(folder=project).replace(f"{project}/hardened", str(tmp_path / "adapted"))
    (tmp_path / "adapted.yaml").write_text(f"{words}adapter: {{r: 2, target_modules: [q_proj]}}\n", encoding="utf-8")
    config = load_config(tmp_path / "adapted.yaml")
    processor = processor_of(config.model, config.data)
    check_the_same(config, training_arguments(config), goes_on=False)
    model = trained(config, examples(config, processor, config.model), processor).plain_model()
    start = LlamaForCausalLM.from_pretrained(project / "model").state_dict()
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, start[name])}
    assert moved == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)}

    for wrong, told in (
        ({"rank": 8}, "adapter: unknown key 'rank'"),
        ({"lora_alpha": "x"}, "adapter: lora_alpha must be a whole number of at least 1; got 'x'"),
        ({"layers_to_transform": 1, "target_modules": "q.*"}, "adapter: .*layers_to_transform"),
    ):
        with pytest.raises(ValueError, match=told):
            replace(config, adapter=wrong)
    wider = replace(config, adapter={**config.adapter, "r": 4})
    with pytest.raises(ValueError, match="contains a run with adapter="):
        check_the_same(wider, training_arguments(wider), goes_on=True)


def test_recorded_runs_on_every_model_give_the_recorded_numbers_again(project, hardened):
    report = AttackReport.load(hardened / "selfdestruct" / "report.json")
    assert plan_problems(report) == []
    again = rerun(hardened, load_config(project / "config.yaml"), count=10**6, seed=0)
    assert {one.run.role for one in again.found} == {*report.roles(), "raw"} - {"undefended"}
    assert all(one.now == one.recorded for one in again.found)


def spread(run):
    """Four standard errors of a run's score on its selection rows: where rows are right or wrong, 2 / sqrt(rows)."""
    rows = token_contributions(unpacked_tokens(run["selected"]))
    return 4 * rows.std() / len(rows) ** 0.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: run["test"]["extra"].update(bits_per_byte=0.5), "bits per byte on test does not follow from its"),
        (lambda run: run["selection"].update(loss=0.5), "loss on selection does not follow from its predictions"),
        (lambda run: run.update(predictions="", selected=""), "chosen, and without predictions"),
        (lambda run: run.update(seed=7), "runs at seed 0; the suite tries each of"),
        (lambda run: run.update(optimism=spread(run) + 0.001), "more optimism than chance gives"),
    ],
)
def test_a_report_of_texts_is_held_against_its_plan(hardened, tmp_path, change, told):
    raw = json.loads((hardened / "selfdestruct" / "report.json").read_text(encoding="utf-8"))
    change(next(run for run in raw["runs"] if run["role"] == "hardened" and run["chosen"]))
    (tmp_path / "report.json").write_text(json.dumps(raw), encoding="utf-8")
    assert told in plan_problems(AttackReport.load(tmp_path / "report.json"))[0]


def test_luck_of_tokens_is_of_their_spread(hardened, tmp_path):
    raw = json.loads((hardened / "selfdestruct" / "report.json").read_text(encoding="utf-8"))
    run = next(run for run in raw["runs"] if run["role"] == "hardened" and run["chosen"])
    run["optimism"] = spread(run) - 0.001
    (tmp_path / "report.json").write_text(json.dumps(raw), encoding="utf-8")
    assert not any("optimism" in problem for problem in plan_problems(AttackReport.load(tmp_path / "report.json")))


def test_a_filtered_model_of_another_shape_is_refused_before_training(project, tmp_path):
    config = LlamaConfig.from_pretrained(project / "filtered")
    config.num_hidden_layers = 3
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    told = f"filtered model {tmp_path / 'other'}: num_hidden_layers is 3"
    with pytest.raises(ValueError, match=re.escape(told)):
        harden(load_config(project / "config.yaml", ["--filtered", str(tmp_path / "other")]))


def test_attack_measures_any_language_model(project, tmp_path):
    output = tmp_path / "report.json"
    words = ["attack", str(project / "model"), "--config", str(project / "config.yaml"), "--output", str(output)]
    assert main(words) == 0
    raw = json.loads(output.read_text(encoding="utf-8"))
    assert {*raw["desired"]["quality"]} == {"hardened", "filtered"}
    assert raw["desired"]["quality"]["hardened"]["loss"] > 0


@pytest.mark.parametrize("kind", ["jsonl", "txt", "parquet"])
def test_texts_are_read_from_files_of_every_kind(project, tmp_path, kind):
    from datasets import Dataset

    found = {split: texts(count, seed, 3) for seed, (split, count) in enumerate(SPLITS.items())}
    for split, rows in found.items():
        file = tmp_path / f"{split}.{kind}"
        if kind == "parquet":
            Dataset.from_dict({"text": rows}).to_parquet(file)
        elif kind == "jsonl":
            write_jsonl(file, [{"text": row} for row in rows])
        else:
            file.write_text("\n".join(rows), encoding="utf-8")
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "[SEP]"
    data = load_texts(DataConfig(str(tmp_path), kind="text", max_length=241 if kind == "txt" else 10), tokenizer)
    stream = [token for row in data["test"]["input_ids"] for token in row]
    ends = 1 if kind == "txt" else len(found["test"])
    words = [word for text in found["test"] for word in text.split()]
    assert [word for word in tokenizer.convert_ids_to_tokens(stream) if word != "[SEP]"] == words
    assert stream.count(tokenizer.eos_token_id) == ends


def test_prompts_do_not_count(project, tmp_path):
    for split in SPLITS:
        rows = [{"ask": "word1 word2", "text": text} for text in texts(4, 3, 3)]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    data = DataConfig(str(tmp_path), kind="text", prompt_column="ask", max_length=10)
    row = load_texts(data, make_tokenizer())["train"][0]
    assert row["labels"] == [-100, -100, *row["input_ids"][2:]]
    assert len(row["labels"]) == 10


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "suite: toy",
            "suite: full",
            "suite 'full' attacks classifiers: choose suite glance, quick, default, durability or",
        ),
        ("    path: {folder}/blocked", "", "blocked_tasks[0]: with data.kind: text, set path to its texts"),
        ("  kind: text", "  kind: words", "kind must be labels or text; got 'words'"),
        ("  kind: text", "  kind: text\n  replace_pronouns: true", "not for replace_pronouns"),
        ("  kind: text\n", "  prompt_column: ask\n", "prompt_column is for language models: set kind: text"),
        ("  kind: text\n", "", "blocked_tasks[0]: 'label_column' is missing"),
    ],
)
def test_mistakes_are_named(project, tmp_path, old, new, told):
    assert old in CONFIG
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.replace(old, new).format(folder=project), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(told)):
        load_config(file)
