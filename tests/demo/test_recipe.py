"""The demo's job, short of running it: data, model and configuration."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_selfdestruct.demo import job as recipe
from hf_selfdestruct.demo.grammar import GENDERS, PROFESSIONS
from hf_selfdestruct.jobs.job import blocked_tasks
from hf_selfdestruct.jobs.text_data import load_data


def test_the_demo_is_ready_to_train(tmp_path):
    from transformers import AutoTokenizer

    config = recipe.demo_config(tmp_path)
    assert config.training["output_dir"] == str(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    data = load_data(config, tokenizer)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 2400, "validation": 840, "test": 312}
    assert data["train"].features["label"].names == sorted(PROFESSIONS)
    assert data["train"].features["gender"].names == sorted(GENDERS)
    (task,) = blocked_tasks(config, data, tokenizer)  # refuses overlaps, wrong labels and empty splits
    assert task.outputs == 2
    part, whole = (load_file(Path(folder, "model.safetensors")) for folder in (config.model, recipe.minilm()))
    layers = {name.partition(".layer.")[2].partition(".")[0] for name in part} - {""}
    assert layers == {str(layer) for layer in range(recipe.LAYERS)}
    assert json.loads(Path(config.model, "config.json").read_text())["num_hidden_layers"] == recipe.LAYERS
    assert all(value.equal(whole[name]) for name, value in part.items())


def test_weights_that_are_not_the_genuine_ones_are_refused(monkeypatch):
    monkeypatch.setattr(recipe, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"sha256 53aa51172d14.*expected 000000000000"):
        recipe.minilm()


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(recipe, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(ValueError, match=r"pip install 'hf-selfdestruct\[demo\]'"):
        recipe.minilm()
