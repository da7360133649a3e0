"""The language demo's texts and models: two texts that share nothing, a base that knows both, one that does not."""

import ast
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_selfdestruct.demo import language
from hf_selfdestruct.demo.job import demo_config
from hf_selfdestruct.demo.stdlib_texts import DOCUMENTED, SPLIT_PARTS, code, reference
from hf_selfdestruct.jobs.job import blocked_tasks
from hf_selfdestruct.jobs.texts import load_texts

CHARACTERS = 60_000


@pytest.fixture(scope="module")
def modules():
    return code(CHARACTERS)


def test_splits_share_no_text(modules):
    for found in (modules, reference()):
        assert {*found} == {*SPLIT_PARTS}
        assert all(found.values())
        for one, other in itertools.combinations(found.values(), 2):
            assert not {*one} & {*other}


def test_no_paragraph_of_the_reference_is_in_two_splits():
    found = {
        split: {one.strip() for text in texts for one in text.split("\n\n")} for split, texts in reference().items()
    }
    for one, other in itertools.combinations(found.values(), 2):
        assert not one & other


def test_code_holds_no_english_of_docstrings(modules):
    for text in itertools.chain(*modules.values()):
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, DOCUMENTED)]
        assert all(ast.get_docstring(node) is None for node in nodes)


def test_as_many_modules_are_read_as_were_asked_for(modules):
    lengths = [len(text) for text in itertools.chain(*modules.values())]
    assert CHARACTERS <= sum(lengths) < CHARACTERS + max(lengths)


def test_the_language_demo_is_ready_to_train(tmp_path, monkeypatch, modules):
    few = {split: texts[:2] for split, texts in reference().items()}
    monkeypatch.setattr(
        "hf_selfdestruct.demo.job.code", lambda: {split: [*texts[:2]] for split, texts in modules.items()}
    )
    monkeypatch.setattr("hf_selfdestruct.demo.job.reference", lambda: few)
    config = demo_config(tmp_path, kind="language", workers=1)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    rows = load_texts(config.data, tokenizer)
    (task,) = blocked_tasks(config, rows, tokenizer)
    assert "".join(tokenizer.batch_decode([*task.splits()["test"]["input_ids"]])).startswith(modules["test"][0][:100])
    assert "".join(tokenizer.batch_decode([*rows["test"]["input_ids"]])).startswith(few["test"][0][:100])
    models = {name: AutoModelForCausalLM.from_pretrained(getattr(config, name)) for name in ("model", "filtered")}
    known = torch.tensor(task.splits()["train"][:8]["input_ids"])
    losses = {name: model(input_ids=known, labels=known).loss.item() for name, model in models.items()}
    assert losses["model"] < losses["filtered"] - 0.5
    monkeypatch.setattr(language, "EPOCHS", 0)
    again = demo_config(tmp_path, kind="language", workers=1)  # after an interruption: nothing is trained again
    after = AutoModelForCausalLM.from_pretrained(again.model).state_dict()
    assert all(value.equal(after[name]) for name, value in models["model"].state_dict().items())
