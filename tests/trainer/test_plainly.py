"""A model that plain transformers would load otherwise is told of, and only such a one."""

import re

import pytest
import torch
from card_parts import DETAILS
from made_reports import made_report
from toy_models import TINY_SUITE, tiny_config, tiny_model
from transformers import BertConfig, BertForSequenceClassification, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_selfdestruct.attacks.doubts import doubted
from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.manifest import problems
from hf_selfdestruct.tasks.blocked_task import BlockedTask
from hf_selfdestruct.trainer.plainly import unlike_plain

SIZES = {n: v for n, v in tiny_config("bert").to_dict().items() if n != "model_type"}
LOADS = "It loads in plain `transformers`."


class MeanPooled(BertForSequenceClassification):
    """The same weights under the same names, read in another way."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.classifier(states.mean(1))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class OwnHead(BertPreTrainedModel):
    """A head that no stock class knows."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertForSequenceClassification(config).bert
        self.own = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    forward = MeanPooled.forward
    classifier = property(lambda self: self.own)


class OwnName(BertForSequenceClassification):
    """Another name, and nothing else."""


class OwnConfig(BertConfig):
    """A configuration of one's own."""


class OwnType(BertConfig):
    """One that no other process could find."""

    model_type = "own"


@pytest.fixture
def saved(make_trainer, tmp_path):
    def save(model, **arguments):
        trainer = make_trainer(tmp_path / "saved", model=model, **arguments)
        trainer.save_model()
        return trainer

    return save


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "gpt2"])
def test_a_stock_model_is_the_one_that_was_trained(saved, architecture) -> None:
    trainer = saved(tiny_model(architecture, dropout=0.1))
    before = torch.get_rng_state()
    trainer.model.train()
    assert unlike_plain(trainer) == ""
    assert trainer.model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arguments", [{"bf16": True}, {}])
def test_classes_that_only_have_other_names_are_the_same(saved, arguments) -> None:
    torch.manual_seed(0)
    assert unlike_plain(saved(OwnName(OwnConfig(**SIZES)), **arguments)) == ""


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: MeanPooled(tiny_config("bert")), r"the logits of a BertForSequenceClassification differ .* by \d+%"),
        (lambda: OwnHead(tiny_config("bert")), r"the logits of a BertForSequenceClassification differ"),
    ],
)
def test_a_model_that_plain_transformers_reads_otherwise_is_told_of(saved, model, told) -> None:
    torch.manual_seed(0)
    assert re.search(told, unlike_plain(saved(model(), blocking_weight=0.0)))


def test_a_type_of_ones_own_is_refused_where_it_is_to_be_attacked_and_told_of_elsewhere(saved, toy_rows) -> None:
    model = OwnName(OwnType(**SIZES))
    with pytest.raises(ValueError, match="'own' has no classification model in transformers"):
        saved(model)
    unattacked = BlockedTask("blocked", train=toy_rows(60, seed=10, columns=("blocked",)), label_column="blocked")
    assert unlike_plain(saved(model, blocked_tasks=[unattacked])) == "its model_type, 'own', is none of transformers"


def test_an_attack_says_so_at_once_in_the_doubts_and_on_the_card(make_trainer, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("hf_selfdestruct.trainer.attack.save_plots", lambda *_: None)
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, model=MeanPooled(tiny_config("bert")))
    trainer.train()
    report = trainer.attack(TINY_SUITE)
    card = (tmp_path / "README.md").read_text()
    assert "**Plain `transformers` does not load it as it was trained:** the logits of a Bert" in card
    assert LOADS not in card
    assert [check for check in report.checks if check.startswith("plain transformers: the logits")]
    assert "does not load the model as it was trained" in caplog.text
    assert problems(tmp_path) == []


def test_nothing_is_said_of_a_model_that_loads() -> None:
    report = made_report()
    assert LOADS in render(report, DETAILS)
    assert not [check for check in doubted(report).checks if check.startswith("plain transformers")]
