"""Steps that only block: bit for bit a loop with two optimizers, resumed, and fair to the sibling."""

from __future__ import annotations

import shutil

import pytest
import torch
from peft import LoraConfig
from toy_models import tiny_model, toy_rows, toy_task
from trainer_state import assert_bitwise, moments_of, still, weights_of
from transformers import default_data_collator

from hf_selfdestruct import HardeningConfig, HardeningObjective
from hf_selfdestruct.hardening.blocking_steps import MOMENTS
from hf_selfdestruct.hardening.defaults import configured_adversary
from hf_selfdestruct.losses.keeping import LogitDistillation
from hf_selfdestruct.trainer.recipe import recipe_of
from hf_selfdestruct.trainer.sibling import sibling_of

RATE, INTERVAL, STEPS = 3e-4, 3, 7
ALTERNATING = {
    "method": "sophon",
    "inner_steps": 2,
    "adversary": {"batch_size": 4},
    "method_options": {"blocking_interval": INTERVAL, "blocking_learning_rate": RATE},
}


def objective_of(model, *, keeping=(), **settings):
    config = HardeningConfig(**{**ALTERNATING, "blocking_batch_size": 8, "seed": 7, **settings})
    return HardeningObjective(model, config, [toy_task()], collate=default_data_collator, keeping=list(keeping))


def desired_of(model, step):
    rows = toy_rows(48, seed=1, columns=("labels",))
    inputs = default_data_collator([rows[(4 * step + i) % 48] for i in range(4)])
    return inputs, model(**inputs).loss


def test_a_step_that_blocks_nothing_moves_nothing(monkeypatch):
    """An adversary diverged: the momentum of the steps before is no reason to go on."""
    model = tiny_model()
    objective = objective_of(model)
    optimizer, _ = steps(model, objective, INTERVAL)
    monkeypatch.setattr(objective.simulator, "meta_gradient", lambda *_: None)
    before, moments = weights_of(model), {name: value.clone() for name, value in objective.state_dict().items()}
    _, (terms,) = steps(model, objective, 1, start=INTERVAL, optimizer=optimizer)
    assert "blocking_loss" not in terms
    assert_bitwise(weights_of(model), before)
    assert_bitwise(objective.state_dict(), moments)


def user_optimizer(model):
    """With a momentum and a decay by which it would move weights that have no gradient, if it looked at them."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)


def steps(model, objective, count, *, start=0, optimizer=None, factor=1.0):
    """Any loop; its optimizer, and the terms of each step."""
    optimizer, found = optimizer or user_optimizer(model), []
    for step in range(start, start + count):
        inputs, desired = desired_of(model, step)
        total, terms = objective(model, inputs, desired, step, factor=factor)
        total.backward()
        objective.before_optimizer_step()
        optimizer.step()
        objective.after_optimizer_step()
        optimizer.zero_grad()
        found.append(terms)
    return optimizer, found


def test_it_is_a_loop_with_two_optimizers():
    """By hand: Adam follows the clipped meta-gradient of the blocking loss, AdamW the desired loss and what keeps."""
    keeping = [LogitDistillation()]
    model, twin = tiny_model("bert"), tiny_model("bert")
    _, terms = steps(model, objective_of(model, keeping=keeping), STEPS)

    by_hand = objective_of(twin, keeping=keeping)
    blocking, optimizer = torch.optim.Adam(twin.parameters(), lr=RATE), user_optimizer(twin)
    for step in range(STEPS):
        if step % INTERVAL == 0:
            draw = by_hand.simulator.draw(step)
            found = by_hand.simulator.meta_gradient(twin, draw)
            norm = torch.stack(torch._foreach_norm([*found.weights.values()])).norm().item()
            for name, value in found.weights.items():
                twin.get_parameter(name).grad = value * (0.5 / norm) if norm > 0.5 else value
            blocking.step()
            by_hand.simulator.learn(draw, found, share=1.0)
            assert terms[step]["blocking_loss"] == found.loss
        else:
            inputs, desired = desired_of(twin, step)
            (desired + by_hand.keeper.on_desired(twin, inputs)).backward()
            optimizer.step()
        for adversary in by_hand.simulator.learned.values() if step % INTERVAL == 0 else ():
            adversary.step()
        twin.zero_grad()
    assert_bitwise(weights_of(model), weights_of(twin))
    assert [sorted({"blocking_loss", "keeping_loss"} & one.keys()) for one in terms] == [
        ["keeping_loss" if step % INTERVAL else "blocking_loss"] for step in range(STEPS)
    ]


def test_each_kind_of_step_leaves_the_others_moments_alone():
    model = tiny_model("bert")
    objective = objective_of(model)
    optimizer, _ = steps(model, objective, 3)
    users = {f"{i}/{k}": v.clone() for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
    head, trunk = weights_of(model.classifier), weights_of(model.bert)
    steps(model, objective, 1, start=3, optimizer=optimizer)
    after = {f"{i}/{k}": v for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
    assert_bitwise(users, after)
    assert {value.item() for name, value in after.items() if name.endswith("/step")} == {2.0}
    assert_bitwise(weights_of(model.classifier), head)  # an adversary has a head of its own; the user's decays nothing
    assert still(trunk, weights_of(model.bert)) == set()
    own = {n: v.clone() for n, v in objective.state_dict().items() if n.startswith(MOMENTS)}
    assert {value.item() for name, value in own.items() if name.endswith("/step")} == {2.0}
    steps(model, objective, 2, start=4, optimizer=optimizer)
    assert_bitwise({n: v for n, v in objective.state_dict().items() if n.startswith(MOMENTS)}, own)


def test_a_guards_factor_and_the_weight_shorten_the_step():
    """Adam would make the same step from a gradient that is divided by 8."""

    def moved(*, factor=1.0, **settings):
        model = tiny_model("bert").double()
        before = weights_of(model)
        steps(model, objective_of(model, **settings), 1, factor=factor)
        return torch.cat([(value - before[name]).flatten() for name, value in weights_of(model).items()])

    whole = moved()
    assert whole.abs().max() > 0.9 * RATE
    torch.testing.assert_close(moved(factor=0.125), whole / 8)
    torch.testing.assert_close(moved(factor=0.25, blocking_weight=0.5), whole / 8)


def test_the_siblings_steps_are_those_of_the_desired_task_alone():
    hardened, model, plain = (tiny_model("bert") for _ in range(3))
    sibling = objective_of(hardened).without_blocking(model)
    _, terms = steps(model, sibling, STEPS)
    assert not [name for one in terms for name in one if name.startswith("block")]
    optimizer = user_optimizer(plain)
    for step in [step for step in range(STEPS) if step % INTERVAL]:
        desired_of(plain, step)[1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_bitwise(weights_of(model), weights_of(plain))


def trained(make_trainer, folder, *, resume=None, **arguments):
    saving = {"save_steps": 1, "save_strategy": "steps", "gradient_accumulation_steps": 2}
    settings = {**ALTERNATING, "max_steps": STEPS, "per_device_train_batch_size": 2, **saving, **arguments}
    trainer = make_trainer(folder, model=tiny_model(dropout=0.2), **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("cut", [3, 4], ids=["before a step that blocks", "after it"])
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"adversary": {"pool": 1, "horizon": 4}, "bf16": True},
        {"peft_config": LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS")},
    ],
    ids=["alone", "a pool, bf16", "an adapter"],
)
def test_resuming_is_bitwise_the_uninterrupted_run(make_trainer, tmp_path, own, cut):
    whole = trained(make_trainer, tmp_path / "whole", **own)
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{cut}", tmp_path / "cut" / f"checkpoint-{cut}")
    resumed = trained(make_trainer, tmp_path / "cut", resume=True, **own)
    assert_bitwise(weights_of(resumed.model), weights_of(whole.model))
    assert_bitwise(resumed.objective.state_dict(), whole.objective.state_dict())
    made = [entry for entry in whole.state.log_history if "blocking_loss" in entry]
    assert [entry["step"] for entry in made] == [1, 4, 7]
    own_steps = {v.item() for n, v in whole.objective.state_dict().items() if n.startswith(MOMENTS) and "/step" in n}
    assert own_steps == {3.0}
    assert {state["step"].item() for state in whole.optimizer.state_dict()["state"].values()} == {4.0}


def test_the_trainers_sibling_has_as_many_desired_steps(make_trainer, tmp_path):
    trainer = trained(make_trainer, tmp_path / "hardened", save_strategy="no")
    recipe = recipe_of(trainer)
    assert (recipe["blocking_learning_rate"], recipe["blocking_interval"]) == (RATE, INTERVAL)
    assert trainer.args.to_dict()["method_options"]["blocking_learning_rate"] == RATE
    sibling = sibling_of(trainer, str(tmp_path / "hardened" / "_base"), output_dir=str(tmp_path / "sibling"))
    sibling.train()
    for one in (trainer, sibling):
        assert one.state.global_step == STEPS
        assert {value.item() for name, value in moments_of(one).items() if name.endswith("/step")} == {4.0}
    assert not [name for name in sibling.objective.state_dict() if name.startswith(MOMENTS)]
    rates = [
        [entry["learning_rate"] for entry in one.state.log_history if "learning_rate" in entry]
        for one in (trainer, sibling)
    ]
    assert rates[0] == rates[1]  # one schedule


def test_a_state_of_another_recipe_is_refused():
    model = tiny_model("bert")
    objective = objective_of(model)
    steps(model, objective, 1)
    state = objective.state_dict()
    with pytest.raises(ValueError, match="moments of steps that only block, and this run makes none"):
        objective_of(tiny_model("bert"), method_options={"blocking_learning_rate": 0}).load_state_dict(state)
    renamed = {name.replace("bert.pooler", "bert.other"): value for name, value in state.items()}
    with pytest.raises(ValueError, match=r"moments of bert\.other\.dense\.bias, which is not trained here"):
        objective_of(tiny_model("bert")).load_state_dict(renamed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "mlac", "method_options": {"blocking_learning_rate": 1e-4}},
            "they are all: set blocking_interval=2",
        ),
        ({"method_options": {"blocking_learning_rate": -1}}, "must be zero or more; got -1"),
        ({"method_options": {"unlearn_steps": 2}}, "set one of them to 0"),
        ({"blocking_loss": "inverse_cross_entropy"}, "InverseCrossEntropy needs 3 classes, .*'blocked' has 2, .*'unif"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        objective_of(tiny_model("bert"), **settings)


def test_sharded_weights_are_refused(monkeypatch):
    monkeypatch.setattr("hf_selfdestruct.models.distributed.DTensor", torch.nn.Parameter)
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="this model's are sharded: launch without FSDP, or set"):
        steps(model, objective_of(model), 1)


def test_the_preset_simulates_a_distribution_of_fine_tunings():
    adversary = configured_adversary(HardeningConfig(method="sophon").filled())
    drawn = [adversary.draw(0, key) for key in range(60)]
    for name in ("optimizer", "head", "batch_size"):
        assert {getattr(one, name) for one in drawn} == {*adversary.options(name)}
    assert len({one.learning_rate for one in drawn}) == len(drawn)
    assert {one.steps for one in drawn} == {50}


def test_inverse_cross_entropy_is_for_three_classes():
    config = HardeningConfig(**ALTERNATING, blocking_loss="inverse_cross_entropy")
    task = [toy_task(num_labels=3)]
    HardeningObjective(tiny_model("bert"), config, task, collate=default_data_collator)


def test_optimizers_that_would_not_rest_are_refused(make_trainer, tmp_path):
    for name in ("galore_adamw_layerwise", "lomo", "schedule_free_adamw"):
        with pytest.raises(ValueError, match=f"optim='{name}' moves weights .*: set optim='adamw_torch', or"):
            make_trainer(tmp_path, **ALTERNATING, optim=name)
    model = tiny_model()
    partial = torch.optim.AdamW(model.bert.parameters())
    with pytest.raises(ValueError, match=r"leave out classifier\.weight, which steps that only block would move"):
        make_trainer(tmp_path, model=model, **ALTERNATING, optimizers=(partial, None))
    model.classifier.requires_grad_(False)
    make_trainer(tmp_path, model=model, **ALTERNATING, optimizers=(partial, None))
