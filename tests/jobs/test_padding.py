"""Tokenizers without a padding token: from a configuration they get one, a trainer says what to set."""

import json

import pytest
from toy_models import tiny_config
from toy_project import make_project, make_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    default_data_collator,
)

from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning, HeadOnly, Target
from hf_selfdestruct.jobs import job as recipe
from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.processors import processor_of
from hf_selfdestruct.jobs.sections import DataConfig
from hf_selfdestruct.trainer import attack as evidence

ENDS = 3  # [SEP]
FEW = FullFineTuning(learning_rates=(1e-3,), steps=(2,), looks=1)
SUITE = AttackSuite("tiny", 1, (Entry(HeadOnly(), (20,)), Entry(FEW, (20,))), seeds=1, few_seeds=0, more=None)


def tokenizer_without(*, ends="[SEP]"):
    words = make_tokenizer().backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token=ends)


def classifier(architecture, **tokens):
    config = tiny_config(architecture)
    for name, value in {"pad_token_id": None, "bos_token_id": None, "eos_token_id": ENDS, **tokens}.items():
        setattr(config, name, value)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture
def project(tmp_path):
    """A job with a GPT-2 whose tokenizer and configuration name no padding token, as the original's do."""
    path = make_project(tmp_path)
    classifier("gpt2").save_pretrained(tmp_path / "model")
    tokenizer_without().save_pretrained(tmp_path / "model")
    for name in ("config.json", "tokenizer_config.json"):
        assert not {k: v for k, v in json.loads((tmp_path / "model" / name).read_text()).items() if "pad_" in k and v}
    return path


def test_a_gpt2_is_hardened_attacked_and_published_with_one_padding_for_all(project, tmp_path, monkeypatch, caplog):
    for module in (recipe, evidence):
        monkeypatch.setattr(module, "named_suite", lambda *_: SUITE)
    config = load_config(project, ["--max_steps", "2"])
    report = recipe.harden(config)
    assert "has no padding token; using '[SEP]'" in caplog.text
    assert {"base", "undefended", "hardened", "scratch"} <= {run.role for run in report.runs}
    assert not [run.error for run in report.runs if run.error]
    folder = tmp_path / "hardened"
    for place in (folder, folder / "_undefended", folder / "_base"):
        assert AutoModelForSequenceClassification.from_pretrained(place).config.pad_token_id == ENDS
    assert AutoTokenizer.from_pretrained(folder).pad_token == "[SEP]"
    again = recipe.attack(config, str(folder), progress=False)
    theirs = {(run.role, run.attack): run.test for run in report.runs if run.role != "undefended"}
    assert {(run.role, run.attack): run.test for run in again.runs} == theirs
    raw = recipe.attack(config, config.model, progress=False)  # somebody's, as it was published
    assert not [run.error for run in raw.runs if run.error]


def test_the_token_of_the_configuration_is_taken_before_the_one_that_ends_texts(project, tmp_path):
    folder = tmp_path / "model"
    assert processor_of(str(folder), DataConfig("d")).pad_token == "[SEP]"
    classifier("gpt2", pad_token_id=0).save_pretrained(folder)
    assert processor_of(str(folder), DataConfig("d")).pad_token == "[PAD]"
    assert Target("base", str(folder), padding=ENDS).config().pad_token_id == 0
    classifier("gpt2").save_pretrained(folder)
    assert Target("base", str(folder), padding=ENDS).config().pad_token_id == ENDS
    tokenizer_without(ends=None).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"neither a padding token nor an end-of-sequence token: set pad_token in"):
        processor_of(str(folder), DataConfig("d"))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("collator", ["usual", "padding", "stacking"])
def test_a_trainer_refuses_before_training_and_says_what_to_set(make_trainer, tmp_path, architecture, collator):
    tokenizer = tokenizer_without()
    collators = {"padding": DataCollatorWithPadding(tokenizer), "stacking": default_data_collator}
    given = {"data_collator": collators[collator]} if collator in collators else {}
    model = classifier(architecture)
    with pytest.raises(ValueError, match=r"pad_token"):
        make_trainer(tmp_path, model=model, processing_class=tokenizer, **given)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = make_trainer(tmp_path, model=model, processing_class=tokenizer, max_steps=1, **given)
    assert trainer.model.config.pad_token_id == ENDS
    trainer.train()
