"""Hardened model, sibling and base differ in their weights, and in nothing else."""

from __future__ import annotations

import json

import pytest
from toy_project import make_tokenizer
from transformers import PreTrainedTokenizerBase

from hf_selfdestruct.trainer.sibling import trained_sibling


def _configuration(folder):
    """What ``config.json`` says, but for the kind of loss, which a model notes when it first sees labels."""
    return {**json.loads((folder / "config.json").read_text()), "problem_type": None}


@pytest.mark.parametrize("half", [False, True])
def test_configurations_of_all_roles_are_equal(make_trainer, tiny_model, tmp_path, half) -> None:
    """Trainer gives the configuration the tokenizer's padding when training begins, after the base was saved."""
    tokenizer: PreTrainedTokenizerBase = make_tokenizer()
    tokenizer.pad_token = "nurse"
    model = tiny_model("gpt2").half() if half else tiny_model("gpt2")
    assert model.config.pad_token_id != tokenizer.pad_token_id
    trainer = make_trainer(tmp_path, model=model, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    trained_sibling(trainer, str(tmp_path / "_base"))
    hardened, *others = (_configuration(tmp_path / role) for role in ("", "_undefended", "_base"))
    assert hardened["pad_token_id"] == tokenizer.pad_token_id
    assert others == [hardened, hardened]
