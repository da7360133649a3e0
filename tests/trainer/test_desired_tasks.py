"""Desired quality on tasks of lm-eval: a task file of one's own, with no download."""

import functools
import json
import random

import lm_eval.tasks
import pytest
import torch
from tokenizers import processors
from toy_language import language_task
from toy_models import TINY_SUITE
from toy_project import CONFIG, make_project, make_tokenizer
from trainer_state import assert_bitwise, weights_of
from transformers import DataCollatorForTokenClassification, GPT2Config, GPT2LMHeadModel, set_seed

from hf_selfdestruct import SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning
from hf_selfdestruct.attacks.doubts import lost_desired
from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.report.facts import DesiredFacts
from hf_selfdestruct.trainer.desired_tasks import DesiredTasks, asked_tasks

WORDS = ("nurse", "pilot")
TINY = AttackSuite(
    "tiny", 1, (Entry(FullFineTuning(learning_rates=(1e-3,), steps=(2,), looks=1), (20,)),),
    seeds=1, few_seeds=0, more=None, null=False,
)  # fmt: skip


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Which word the model finds likelier after a prompt: ``nurse`` is right six times out of eight."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": "she was a", "choices": WORDS, "gold": int(i >= 6)} for i in range(8)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "nurses",
        "tag": "professions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        **{f"doc_to_{name}": f"{{{{{column}}}}}" for name, column in (("text", "q"), ("choice", "choices"))},
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "nurses.yaml").write_text(json.dumps(task))  # JSON is YAML
    return DesiredTasks(("nurses",), folder=str(tmp_path / "tasks"))


def made(folder, **named):
    set_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])  # as a language model's, without marks
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 3, "eos_token_id": 3}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, pad_token_id=0, **sizes))
    rows = language_task().train
    args = SelfDestructTrainingArguments(
        str(folder), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", inner_steps=1
    )
    data = {"train_dataset": rows, "blocked_tasks": [language_task()]}
    data["data_collator"] = DataCollatorForTokenClassification(tokenizer)
    return SelfDestructTrainer(model, args, **{**data, "processing_class": tokenizer, **named})


def test_scores_are_the_models_own_and_nothing_else_moves(tmp_path, tasks):
    trainer = made(tmp_path)
    tokens = trainer.processing_class("she was a nurse pilot", add_special_tokens=False)["input_ids"]
    trainer.model.eval()
    with torch.no_grad():
        nurse, pilot = trainer.model(torch.tensor([tokens[:3]])).logits[0, -1, tokens[3:]]
    trainer.model.train()
    before, state = weights_of(trainer.model), (random.getstate(), torch.get_rng_state())
    asked = trainer.model, trainer.processing_class
    tasks.check(*asked)
    assert tasks.scores(*asked) == {"nurses/acc": 0.75 if nurse > pilot else 0.25}
    assert DesiredTasks(tasks.names, tasks.folder, rows=6).scores(*asked) == {"nurses/acc": float(nurse > pilot)}
    assert trainer.model.training
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
    assert_bitwise(weights_of(trainer.model), before)


def test_the_report_has_them_of_both_models(tmp_path, tasks):
    trainer = made(tmp_path / "hardened")
    trainer.train()
    report = trainer.attack(TINY, desired_tasks=tasks)
    assert all(report.desired.of(role)["nurses/acc"] in (0.25, 0.75) for role in ("hardened", "undefended"))
    assert "nurses/acc" in report.table()


def test_what_cannot_be_measured_is_refused_before_any_attack(tmp_path, tasks, make_trainer, monkeypatch):
    usual = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)  # to read thousands takes long
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", usual)
    with pytest.raises(ValueError, match=r"no task 'nurse' .*set the folder"):
        asked_tasks(DesiredTasks(("nurse",), tasks.folder), made(tmp_path))
    with pytest.raises(ValueError, match=r"no task 'professions' .*of a tag one by one"):
        asked_tasks(DesiredTasks(("professions",), tasks.folder), made(tmp_path))
    with pytest.raises(ValueError, match=r"a causal language model by its tokenizer.*BertForSeq.* and NoneType"):
        make_trainer(tmp_path, train_dataset=None).attack(TINY_SUITE, base=str(tmp_path), desired_tasks=["arc_easy"])
    for wrong, fault in (("arc_easy", "list of names; got 'arc_easy'"), ([1], "list of names"), ((), "")):
        if fault:
            with pytest.raises(ValueError, match=fault):
                asked_tasks(wrong, None)
        else:
            assert DesiredTasks(wrong).scores(None, None) == {}
    with pytest.raises(ValueError, match="rows must be a whole number, at least 1; got 0"):
        DesiredTasks(("arc_easy",), rows=0)


def test_configurations_name_them(tmp_path):
    def read(word):
        named = CONFIG.format(folder=tmp_path).replace("suite: smoke", f"suite: smoke\ndesired_tasks: {word}")
        (tmp_path / "config.yaml").write_text(named)
        return load_config(tmp_path / "config.yaml").desired_tasks

    assert read("{names: [], folder: own, rows: 5}") == DesiredTasks((), folder="own", rows=5)
    for wrong, fault in (("{names: arc_easy}", "list of names; got 'arc_easy'"), ("[arc_easy]", "keys and values")):
        with pytest.raises(ValueError, match=f"desired_tasks: .*{fault}"):
            read(wrong)


def test_a_configuration_of_classes_is_refused(tmp_path):
    config = make_project(tmp_path)
    config.write_text(config.read_text().replace("suite: smoke", "suite: smoke\ndesired_tasks: {names: [arc_easy]}"))
    with pytest.raises(ValueError, match=r"desired_tasks asks language models: set data\.kind: text"):
        load_config(config)


def test_a_task_that_was_lost_is_doubted():
    facts = DesiredFacts("", {"undefended": {"arc_easy/acc": 0.7}, "hardened": {"arc_easy/acc": 0.3}})
    assert "arc easy/acc 0.300 hardened and 0.700 undefended" in next(lost_desired(facts))
