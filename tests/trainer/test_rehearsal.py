"""What training or attacks could not do is refused when a trainer is made; what they can do is not."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from toy_models import TINY_SUITE, tiny_config, tiny_model, toy_rows, toy_task
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertForMultipleChoice,
    BertModel,
    BertPreTrainedModel,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_selfdestruct.trainer.rehearsal import rehearse
from hf_selfdestruct.trainer.similarity import NAME
from hf_selfdestruct.trainer.trainer import SelfDestructTrainer
from hf_selfdestruct.trainer.training_args import SelfDestructTrainingArguments

TOKENS = {"vocab_size": 60, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
NAMED = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
FEW = {"method": "mlac_fast", "max_steps": 1, "inner_steps": 1}


def bart(**more):
    sizes = {f"{side}_{what}": count for side in ("encoder", "decoder") for what, count in BART.items()}
    return BartForSequenceClassification(BartConfig(d_model=16, max_position_embeddings=20, **TOKENS, **sizes, **more))


BART = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}


def t5(kind):
    return kind(T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2, **TOKENS))


def ending(**columns):
    """Rows that end alike, as encoder-decoder classifiers want them."""
    return toy_rows(40, **columns).map(
        lambda row: {"input_ids": [*row["input_ids"][:-1], 2], "attention_mask": [1] * 8}
    )


def blocked():
    splits = {role: ending(seed=i, columns=("blocked",)) for i, role in enumerate(("train", "attack", "test"), 7)}
    return {"blocked_tasks": [toy_task(**splits)]}


def classified():
    return {n: ending(seed=i, columns=("labels",)) for i, n in enumerate(("train_dataset", "eval_dataset"))}


def translated():
    """Texts with texts for labels."""
    rows = ending(seed=1, columns=()).map(lambda row: {"labels": row["input_ids"]})
    return {"train_dataset": rows, "eval_dataset": rows}


def chosen():
    """Three texts a row, one of them the right one."""
    columns = {
        "input_ids": [[[4, 5], [5, 6], [1, 2]]] * 12,
        "attention_mask": [[[1, 1]] * 3] * 12,
        "labels": [0, 1, 2] * 4,
    }
    rows = Dataset.from_dict(columns)
    return {"train_dataset": rows, "eval_dataset": rows}


class Both(SelfDestructTrainer, Seq2SeqTrainer):
    """Ours, and the trainer of the scripts for translation."""


@dataclass
class BothArguments(SelfDestructTrainingArguments, Seq2SeqTrainingArguments):
    """Arguments of both."""


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (lambda: bart(**NAMED), classified),
        (lambda: t5(T5ForSequenceClassification), classified),
        (lambda: t5(T5ForConditionalGeneration), translated),
        (lambda: BertForMultipleChoice(tiny_config("bert")), chosen),
    ],
    ids=["bart", "t5", "t5 for generation", "multiple choice"],
)
def test_decoders_and_choices_are_trained_and_attacked(make_trainer, tmp_path, model, rows):
    trainer = make_trainer(tmp_path, model=model(), **rows(), **blocked(), **FEW)
    trainer.train()
    report = trainer.attack(TINY_SUITE, kept_dataset=ending(seed=12, columns=("labels",)))
    assert not any(run.error for run in report.runs)
    assert {"loss", NAME} <= report.desired.of("hardened").keys()
    assert report.desired.of("hardened")[NAME] > 0.9  # after one step


def test_ours_and_a_sequence_trainer_are_one(tmp_path):
    options = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", **FEW}
    given = {"model": t5(T5ForConditionalGeneration), **translated(), **blocked()}
    with pytest.raises(TypeError, match=r"Both is a Seq2SeqTrainer too .*SelfDestructTrainingArguments, Seq2Seq"):
        Both(args=SelfDestructTrainingArguments(str(tmp_path), **options), **given)
    trainer = Both(
        args=BothArguments(str(tmp_path), predict_with_generate=True, generation_max_length=4, **options), **given
    )
    trainer.train()
    assert not any(run.error for run in trainer.attack(TINY_SUITE).runs)


class Nameless(PreTrainedModel):
    """A classifier whose trunk stands under a name that transformers does not know."""

    config_class = tiny_config("bert").__class__

    def __init__(self, config):
        super().__init__(config)
        self.inside, self.out = BertModel(config), nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.out(self.inside(input_ids, attention_mask).last_hidden_state.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Named(BertPreTrainedModel):
    """The same under the name that BERT has for it, with as many layers as it is told."""

    def __init__(self, config, width=None):
        super().__init__(config)
        self.bert, self.out = BertModel(config), nn.Linear(width or config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.out(self.bert(input_ids, attention_mask).last_hidden_state.mean(1)[:, : self.out.in_features])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def test_classes_of_ones_own_must_be_found_again(make_trainer, tmp_path):
    config = tiny_config("bert")
    with pytest.raises(
        ValueError, match=r"trunk of Nameless cannot be found by BertFor.*\('bert'\).*base_model_prefix"
    ):
        make_trainer(tmp_path, model=Nameless(config))
    with pytest.raises(ValueError, match=r"Named cannot be loaded again.*out.weight of shape \(2, 16\) for \(2, 8\)"):
        make_trainer(tmp_path, model=Named(config, width=8))
    with pytest.raises(ValueError, match=r"BartConfig does not store num_labels=2.*id2label = "):
        make_trainer(tmp_path, model=bart(num_labels=2), **classified(), **blocked())
    trainer = make_trainer(tmp_path, model=Named(config), **FEW)
    trainer.train()
    assert not any(run.error for run in trainer.attack(TINY_SUITE).runs)


class Asking(Named):
    """A class that wants more than a configuration."""

    def __init__(self, config, *, more):
        super().__init__(config)


def test_a_class_that_wants_more_is_refused(make_trainer, tmp_path):
    with pytest.raises(ValueError, match=r"Asking\(config\) does not create such a model again .*more"):
        make_trainer(tmp_path, model=Asking(tiny_config("bert"), more=1))


def noisy(rows):
    """A collator that draws from every generator."""
    batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    if "input_ids" in batch:
        batch["input_ids"][0, 1] = 10 + int(torch.randint(5, ())) + random.randrange(5) + np.random.randint(5)
    return batch


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "modernbert"])
def test_a_rehearsal_leaves_nothing_behind(make_trainer, tmp_path, architecture):
    model = tiny_model(architecture, dropout=0.1)
    model.base_model.train(False)
    trainer = make_trainer(tmp_path, model=model, data_collator=noisy)
    model.train()
    next(iter(model.base_model.children())).eval()  # as one who freezes a part does
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))

    def state():
        held = [*model.parameters(), *model.buffers()]
        return {
            "torch": torch.get_rng_state().tolist(),
            "python": random.getstate(),
            "numpy": np.random.get_state()[1].tolist(),
            "modes": [module.training for module in model.modules()],
            "weights": [(id(one), one._version, one.requires_grad) for one in held],
            "gradients": [None if one.grad is None else one.grad.sum().item() for one in held],
            "names": [*model.state_dict()],
        }

    before = state()
    rehearse(trainer, model)
    assert state() == before
