"""What hardening costs is said before the first step, and is what is done."""

import logging
import re

import pytest
import torch
from toy_models import tiny_model
from trainer_state import assert_bitwise, weights_of
from transformers import AutoModel, BertModel

from hf_selfdestruct.hardening.defaults import default_method
from hf_selfdestruct.trainer.cost import announcement, passes


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"blocking_weight": 0.0}, 1),
        ({"method": "mlac_fast", "inner_steps": 4, "method_options": {"blocking_every": 4}}, 1 + 4 + 2),
        (
            {"method": "mlac_fast", "inner_steps": 4, "method_options": {"blocking_every": 4, "blocking_interval": 2}},
            1 + (4 + 2) / 2,
        ),
        ({"inner_steps": 3, "method_options": {"hvp": "double_backward"}}, 1 + 5 * 3 + 1),
        ({"inner_steps": 3, "method_options": {"hvp": "finite_difference"}}, 1 + 4 * 3 + 1),
        ({"keeping_loss": "hidden_state_distillation", "blocking_weight": 0.0}, 2),
        ({"method": "sophon", "inner_steps": 2, "keeping_loss": "logit_distillation"}, 1 + 1 / 2 + (2 + 3) / 2),
    ],
)
def test_passes_are_counted_as_the_design_counts_them(make_trainer, tmp_path, arguments, wanted):
    trainer = make_trainer(tmp_path, **arguments)
    assert passes(trainer.args, trainer.objective.adversaries) == pytest.approx(wanted)


def test_first_order_makes_as_many_passes_as_are_said(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(
        tmp_path, method="mlac_fast", inner_steps=4, method_options={"blocking_every": 4}, max_steps=1
    )
    monkeypatch.setattr("hf_selfdestruct.trainer.mixin.announcement", lambda trainer: "")
    forward, made = BertModel.forward, []
    monkeypatch.setattr(BertModel, "forward", lambda *a, **k: made.append(1) or forward(*a, **k))
    trainer.train()
    assert len(made) == passes(trainer.args, trainer.objective.adversaries)


def test_one_line_says_it_before_the_first_step(make_trainer, tmp_path, caplog):
    trainer = make_trainer(tmp_path, method="mlac_fast", inner_steps=4)
    before, random = weights_of(trainer.model), torch.get_rng_state()
    line = announcement(trainer)
    assert_bitwise(weights_of(trainer.model), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in trainer.model.parameters())
    assert re.fullmatch(
        r"hardening by method 'mlac_fast': about 7 forward-backward passes in each step, where ordinary training makes "
        r"one; about \S+ minutes for 3 steps at \S+ s a pass",
        line,
    )
    with caplog.at_level(logging.WARNING, "hf_selfdestruct"):
        trainer.train()
    assert [r.message.split(":")[0] for r in caplog.records if "passes" in r.message] == [
        "hardening by method 'mlac_fast'"
    ]


def test_the_memory_of_a_pool_is_said_and_is_what_it_takes(make_trainer, tmp_path):
    adversary = {"pool": 3, "horizon": 40, "trainable": ["all", "last_1"], "optimizer": ["adam", "sgd"]}
    trainer = make_trainer(tmp_path, method="pool", inner_steps=1, adversary=adversary, max_steps=6)
    said, unpooled = trainer.objective.simulator.pool_bytes(), make_trainer(tmp_path).objective.simulator.pool_bytes()
    assert unpooled == 0
    assert f"takes up to {said / 1e9:.2g} GB of the device's memory and of each checkpoint" in announcement(trainer)
    most = make_trainer(tmp_path, method="pool", inner_steps=1, adversary={"pool": 1, "horizon": 40}, max_steps=1)
    most.train()
    stored = {n: v for n, v in most.objective.state_dict().items() if n.count("/") > 3}
    assert said == 3 * most.objective.simulator.pool_bytes() == 3 * sum(value.nbytes for value in stored.values())


def test_a_dry_run_ends_there(make_trainer, tmp_path, caplog):
    trainer = make_trainer(tmp_path / "out", dry_run=True)
    before = weights_of(trainer.model)
    with caplog.at_level(logging.WARNING, "hf_selfdestruct"), pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 0
    assert "passes in each step" in caplog.text
    assert_bitwise(weights_of(trainer.model), before)
    assert not (tmp_path / "out" / "_base").exists()


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (tiny_model, "pool"),
        (lambda: tiny_model("resnet"), "pool"),
        (lambda: tiny_model("vit").base_model, "pool"),
        (lambda: tiny_model("gpt2").base_model, "general"),
        (lambda: AutoModel.from_config(tiny_model().config), "general"),
    ],
)
def test_the_default_method_fits_the_kind_of_model(model, method):
    assert default_method(model()) == method


def test_arguments_serve_for_two_trainers(make_trainer, tmp_path):
    from dataclasses import replace

    from hf_selfdestruct import SelfDestructTrainer

    first = make_trainer(tmp_path, method=None)
    given = replace(first.args, method="mlac_fast", blocking_loss=None)
    trainers = [
        SelfDestructTrainer(tiny_model(), args, train_dataset=first.train_dataset, blocked_tasks=first.blocked_tasks)
        for args in (given, replace(given, method="booster"))
    ]
    assert [trainer.args.blocking_loss for trainer in trainers] == ["head_adjusted_cross_entropy", "cross_entropy"]
    assert given.blocking_loss is None
