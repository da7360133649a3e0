"""The mixin before TRL's ``SFTTrainer``: its loss is the desired loss, its arguments are checked by both."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from datasets import Dataset
from toy_language import language_task
from toy_models import toy_task
from toy_project import make_tokenizer
from trainer_state import weights_of
from transformers import GPT2Config, GPT2LMHeadModel, set_seed

from hf_selfdestruct import SelfDestructMixin, SelfDestructTrainingArguments

trl = pytest.importorskip("trl", reason="the lowest supported versions of the libraries are too old for TRL")


@dataclass
class HardenedSFTConfig(SelfDestructTrainingArguments, trl.SFTConfig):
    """Arguments of both."""


class HardenedSFTTrainer(SelfDestructMixin, trl.SFTTrainer):
    """A trainer of both."""


def trained(folder, kind=HardenedSFTTrainer, arguments=HardenedSFTConfig, task=toy_task, **options):
    """Weights and log after three steps on the same sentences."""
    set_seed(0)
    tokenizer, given = make_tokenizer(), {}
    tokenizer.eos_token = "[SEP]"
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=0))
    if kind is HardenedSFTTrainer:
        given = {"blocked_tasks": [task()]}
    usual = {"max_steps": 3, "max_length": 16, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "bf16": False}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
    trainer = kind(
        model,
        arguments(str(folder), **usual, **quiet, **options),
        train_dataset=Dataset.from_dict({"text": ["she was a nurse", "he was a pilot"] * 12}),
        processing_class=tokenizer,
        **given,
    )
    trainer.train()
    return weights_of(trainer.model), trainer.state.log_history


def test_with_nothing_blocked_it_is_theirs(tmp_path):
    """Each micro-batch is averaged over its own tokens, theirs over all labels: a factor, which Adam does not see."""
    theirs, _ = trained(tmp_path / "theirs", trl.SFTTrainer, trl.SFTConfig)
    ours, _ = trained(tmp_path / "ours", method="mlac_fast", blocking_weight=0.0)
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-6


def test_it_blocks(tmp_path):
    plain, log = trained(tmp_path / "plain", method="mlac_fast", blocking_weight=0.0)
    blocked, logged = trained(tmp_path / "blocked", method="mlac_fast", blocking_batch_size=8)
    assert "blocking_loss" in logged[0]
    assert logged[0]["desired_loss"] == pytest.approx(log[0]["desired_loss"])
    assert any((blocked[name] != plain[name]).any() for name in plain)


def test_it_blocks_texts(tmp_path):
    """By the method for language models, which is the default where next tokens are blocked."""
    plain, _ = trained(tmp_path / "plain", task=language_task, blocking_weight=0.0)
    blocked, logged = trained(tmp_path / "blocked", task=language_task)
    assert logged[0]["blocking_loss"] > 0
    assert any((blocked[name] != plain[name]).any() for name in plain)


def test_arguments_of_either_kind_are_checked(tmp_path):
    with pytest.raises(ValueError, match="step_weights must be one of"):
        HardenedSFTConfig(str(tmp_path), method_options={"step_weights": "none"})
    assert HardenedSFTConfig(str(tmp_path), bf16=False).pad_to_multiple_of != "auto"  # their own __post_init__ ran
