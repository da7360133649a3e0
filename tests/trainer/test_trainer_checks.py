"""What is refused before training, and what is warned of."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from toy_models import TINY_SUITE
from toy_project import make_tokenizer
from trainer_state import assert_bitwise, weights_of
from transformers import (
    AutoModelForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    DataCollatorForTokenClassification,
    TrainingArguments,
    default_data_collator,
)
from transformers.modeling_outputs import TokenClassifierOutput

from hf_selfdestruct.tasks.checks import warn_of_association
from hf_selfdestruct.trainer.checks import check_plugins
from hf_selfdestruct.trainer.recipe import recipe_of
from hf_selfdestruct.trainer.trainer import SelfDestructTrainer
from hf_selfdestruct.trainer.training_args import SelfDestructTrainingArguments


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ({"torch_compile": True}, "torch_compile=False"),
        ({"fp16": True}, "bf16=True"),
        ({"fsdp": True, "adversary": {"scope": "global"}}, "ignores FSDP on the CPU"),
        ({"hub_strategy": "every_save"}, "hub_strategy='end'"),
        ({"ddp_find_unused_parameters": True}, "ddp_find_unused_parameters=False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_options_are_refused_with_the_cure(make_trainer, tmp_path, option, cure, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # transformers writes here; put back afterwards
    with pytest.raises(ValueError, match=cure):
        make_trainer(tmp_path, **option)


@pytest.mark.parametrize(
    ("plugin", "fsdp", "cure"),
    [
        ("is_deepspeed_enabled", None, "DeepSpeed, which owns the backward pass; launch without it"),
        ("is_fsdp_enabled", None, "set fsdp=True and adversary={'scope': 'global'}"),
        ("is_fsdp_enabled", True, None),
    ],
)
def test_what_accelerate_was_configured_to_is_looked_at(make_trainer, tmp_path, plugin, fsdp, cure) -> None:
    trainer = make_trainer(tmp_path)
    setattr(trainer, plugin, True)
    trainer.args.fsdp = fsdp
    with pytest.raises(ValueError, match=cure) if cure else nullcontext():
        check_plugins(trainer)


@pytest.mark.parametrize(
    ("variable", "value", "cure"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp16", "use 'bf16' or 'no'"),
        ("ACCELERATE_DYNAMO_BACKEND", "eager", "ACCELERATE_DYNAMO_BACKEND.*unset it"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", None),
    ],
)
def test_variables_that_accelerate_reads_are_looked_at(
    make_trainer, tmp_path, monkeypatch, variable, value, cure
) -> None:
    """`accelerate launch` sets them; the arguments know of none."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=cure) if cure else nullcontext():
        assert recipe_of(make_trainer(tmp_path))["bf16"]


@pytest.mark.parametrize("split", ["train_dataset", "eval_dataset"])
@pytest.mark.parametrize("other", ["label", "label_ids"])
def test_two_columns_of_labels_are_refused(make_trainer, toy_rows, tmp_path, split, other) -> None:
    """`DataCollatorWithPadding` would train on the one, and directions be kept by the other."""
    rows = toy_rows(20, seed=1).rename_column("blocked", other)
    with pytest.raises(ValueError, match=rf"{split} has 2 columns .*labels and {other}, .*rename or remove one"):
        make_trainer(tmp_path, **{split: rows})


def test_a_refused_compilation_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    """In a notebook, the next cell must not be compiled because of an option refused in this one."""
    import os

    for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="torch_compile"):
        SelfDestructTrainingArguments(str(tmp_path), torch_compile=True, use_cpu=True)
    assert "ACCELERATE_DYNAMO_BACKEND" not in os.environ


def test_wrong_kinds_of_things_are_refused(make_trainer, tiny_model, toy_task, tmp_path) -> None:
    with pytest.raises(ValueError, match="blocked_tasks is empty"):
        make_trainer(tmp_path, blocked_tasks=[])
    with pytest.raises(TypeError, match="BlockedTask objects, got dict"):
        make_trainer(tmp_path, blocked_tasks=[{"name": "x"}])
    with pytest.raises(ValueError, match="different names; got blocked, blocked"):
        make_trainer(tmp_path, blocked_tasks=[toy_task(), toy_task()])
    with pytest.raises(TypeError, match="PreTrainedModel, got Linear"):
        make_trainer(tmp_path, model=torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"BertModel has no head.*keeping_losses="):
        make_trainer(tmp_path, model=tiny_model().bert)
    with pytest.raises(TypeError, match="SelfDestructTrainingArguments, got TrainingArguments"):
        SelfDestructTrainer(model=tiny_model(), args=TrainingArguments(str(tmp_path)), blocked_tasks=[toy_task()])
    raw = {
        role: Dataset.from_dict({"text": [f"{role} {i}" for i in range(10)], "blocked": [0, 1] * 5})
        for role in ("train", "attack")
    }
    with pytest.raises(ValueError, match=r"'blocked', split 'train'.*tokenise"):
        make_trainer(tmp_path, blocked_tasks=[toy_task(**raw, test=None)])
    lazy = raw["train"].with_transform(lambda rows: {"words": [[1, 2]] * len(rows["text"])})
    with pytest.raises(ValueError, match=r"'blocked', split 'train': none of its columns \(words\)"):
        make_trainer(tmp_path, blocked_tasks=[toy_task(train=lazy, test=None)])


def test_probes_of_too_few_held_out_rows_are_refused(make_trainer, toy_task, tmp_path) -> None:
    few, enough = [toy_task(rows=10)], [toy_task(rows=20)]
    with pytest.raises(ValueError, match=r"needs 4 held-out rows or more, blocked task 'blocked' gives it 2 .*of 10"):
        make_trainer(tmp_path, method_options={"probe_weight": 1.0}, blocked_tasks=few)
    with pytest.raises(ValueError, match=r"gives it 3 .*blocking_batch_size=3"):
        make_trainer(tmp_path, method_options={"probe_weight": 1.0}, blocked_tasks=enough, blocking_batch_size=3)
    make_trainer(tmp_path, method_options={"probe_weight": 1.0}, blocked_tasks=enough).train()
    make_trainer(tmp_path, blocked_tasks=few)


def associated(toy_rows, toy_task, *, independent: bool):
    rows = toy_rows(80, seed=3)
    desired, blocked = rows.remove_columns("blocked"), rows.remove_columns("labels")
    if not independent:
        blocked = rows.remove_columns("blocked").rename_column("labels", "blocked")
    return {"train_dataset": desired, "blocked_tasks": [toy_task(train=blocked)]}


def test_adapters_and_frozen_trunks_that_nothing_would_reach_are_refused(make_trainer, tiny_model, tmp_path) -> None:
    adapted, frozen = tiny_model(), tiny_model()
    adapted.add_adapter(LoraConfig(r=2, target_modules=["query"]))
    frozen.base_model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"PEFT adapters.*adversary={'trainable': 'lora'}"):
        make_trainer(tmp_path, model=adapted)
    with pytest.raises(ValueError, match="unfreeze layers of the trunk"):
        make_trainer(tmp_path, model=frozen)
    make_trainer(tmp_path, model=frozen, blocking_weight=0).train()
    frozen.base_model.encoder.layer[-1].requires_grad_(True)
    make_trainer(tmp_path, model=frozen).train()


class PerWord(BertPreTrainedModel):
    """A tagger of the user's own, which transformers does not know for one."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.bert, self.out = BertModel(config, add_pooling_layer=False), torch.nn.Linear(16, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.out(self.bert(input_ids, attention_mask).last_hidden_state)
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits)


def test_a_head_of_ones_own_that_is_not_for_whole_rows_needs_another_for_the_blocked_task(
    make_trainer, tiny_model, toy_task, tmp_path
) -> None:
    columns = {"input_ids": [[1, 2, 3]] * 4, "attention_mask": [[1, 1, 1]] * 4, "labels": [[0, 1, 0]] * 4}
    rows = Dataset.from_dict(columns)
    given = {"model": PerWord(tiny_model().config), "train_dataset": rows, "eval_dataset": rows}
    tagging = DataCollatorForTokenClassification(make_tokenizer())
    with pytest.raises(ValueError, match=r"PerWord gives logits of shape \(2, 8, 2\) for 2 blocked rows.*model_class="):
        make_trainer(tmp_path, **given)
    with pytest.raises(ValueError, match=r"collator cannot batch its rows.*model_class="):
        make_trainer(tmp_path, data_collator=tagging, **given)
    tasks = [toy_task(model_class=AutoModelForSequenceClassification)]
    trainer = make_trainer(tmp_path, data_collator=tagging, blocked_tasks=tasks, method="mlac_fast", **given)
    trainer.train()
    assert not any(run.error for run in trainer.attack(TINY_SUITE).runs)


@pytest.mark.filterwarnings("ignore")  # torch's own: the quantizers are deprecated
def test_a_dynamically_quantized_model_is_refused(make_trainer, tiny_model, tmp_path) -> None:
    model = torch.ao.quantization.quantize_dynamic(tiny_model("bert"), {torch.nn.Linear})
    with pytest.raises(ValueError, match=r"quantized Linear.*harden the model in floating point"):
        make_trainer(tmp_path, model=model)


def test_a_collator_that_cannot_batch_blocked_rows_is_refused(make_trainer, tmp_path) -> None:
    def collate(rows):
        return default_data_collator([{**row, "labels": row["label"]} for row in rows])

    with pytest.raises(ValueError, match=r"'blocked': the data collator.*attention_mask.*KeyError.*data_collator="):
        make_trainer(tmp_path, data_collator=collate)


def test_entangled_labels_are_warned_of(make_trainer, toy_rows, toy_task, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="hf_selfdestruct.tasks.checks"):
        make_trainer(tmp_path, **associated(toy_rows, toy_task, independent=True))
        assert "determine each other" not in caplog.text
        make_trainer(tmp_path, **associated(toy_rows, toy_task, independent=False))
        assert "'blocked' and the desired task nearly determine each other on the 80 rows" in caplog.text
        assert "U 1.00" in caplog.text


@pytest.mark.parametrize("label", [[0, 1, 1], [1.0, 0.0], [[0, 1], [1]], 0.5])
def test_labels_that_are_no_classes_are_compared_with_nothing(toy_rows, toy_task, label) -> None:
    rows = toy_rows(60, seed=10, columns=("blocked",))
    desired = rows.remove_columns("blocked").add_column("labels", [label] * len(rows))
    warn_of_association([toy_task(train=rows)], desired)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_formatted_datasets_work_as_they_do_for_the_trainer(make_trainer, toy_rows, toy_task, tmp_path, kind) -> None:
    data = {
        role: toy_rows(60, seed=10 + i, columns=("blocked",)).with_format(kind)
        for i, role in enumerate(("train", "attack", "test"))
    }
    train = toy_rows(48, seed=1, columns=("labels",)).with_format(kind)
    formatted = make_trainer(tmp_path, train_dataset=train, blocked_tasks=[toy_task(**data)])
    plain = make_trainer(tmp_path)
    formatted.train()
    plain.train()
    assert_bitwise(weights_of(formatted.model), weights_of(plain.model))


def test_columns_that_a_format_leaves_out_are_left_out(make_trainer, toy_rows, toy_task, tmp_path) -> None:
    """As for the Trainer: a row is what the format gives, here without ``token_type_ids``."""

    def weights(folder, form):
        rows = {n: form(toy_rows(60, seed=i)) for i, n in enumerate(("train_dataset", "keep_dataset", "train"))}
        task = toy_task(train=rows.pop("train"))
        losses = {"keeping_loss": "logit_distillation", "adversary": {"prelude": 1}}
        trainer = make_trainer(folder, blocked_tasks=[task], **rows, **losses)
        trainer.train()
        return weights_of(trainer.model)

    def formatted(rows):
        rows = rows.add_column("token_type_ids", [[1] * 8] * len(rows))
        return rows.with_format("torch", columns=["input_ids", "attention_mask", "labels"])

    assert_bitwise(weights(tmp_path / "one", formatted), weights(tmp_path / "two", lambda rows: rows))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3] * 4, r"train_dataset, column 'label', row 2: label 3 is outside 0\.\.1; .*num_labels="),
        ([0, -1, 2] * 4, r"train_dataset, column 'label', row 1: label -1 is outside"),
        ([0, 1, None] * 4, r"train_dataset, column 'label', row 2: label None is not an integer"),
        ([0.0, 1.0, 0.5] * 4, r"train_dataset, column 'label', row 0: label 0.0 is not an integer"),
        (["a", "b", "c"] * 4, r"train_dataset, column 'label', row 0: label .*a.*class_encode_column"),
        ([0.5, 1.5, 0.0] * 4, r"label 0.5 is not an integer; .*one class per row.*make classes of it by map\(\)"),
        ([], r"train_dataset is empty"),
    ],
)
def test_desired_labels_are_checked_before_training(make_trainer, tmp_path, labels, message) -> None:
    rows = {"input_ids": [[5, 6, 7]] * len(labels), "attention_mask": [[1, 1, 1]] * len(labels), "label": labels}
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, train_dataset=Dataset.from_dict(rows))


def test_blocked_tasks_are_a_list(make_trainer, toy_task, tmp_path) -> None:
    for given in (toy_task(), {"blocked": toy_task()}, "blocked"):
        told = rf"must be a list of BlockedTask, got {type(given).__name__}; give \[task\]"
        with pytest.raises(TypeError, match=told):
            make_trainer(tmp_path, blocked_tasks=given)


def test_what_attack_would_refuse_is_said_before_training(make_trainer, toy_task, tmp_path, caplog) -> None:
    make_trainer(tmp_path, blocked_tasks=[toy_task(test=None)])
    (told,) = [record.getMessage() for record in caplog.records if "attack() will refuse" in record.getMessage()]
    assert "blocked task 'blocked' has no 'test' split" in told
    caplog.clear()
    make_trainer(tmp_path)
    assert "attack() will refuse" not in caplog.text
