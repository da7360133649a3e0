"""The trainer is a Trainer: evaluation, callbacks, logs; and blocking blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from trainer_state import assert_bitwise, learned_of, moments_of, still, weights_of
from transformers import Trainer, TrainerCallback, TrainingArguments

# What an ordinary Trainer user relies on


def test_without_blocking_it_is_bitwise_a_plain_trainer(make_trainer, tiny_model, toy_data, tmp_path) -> None:
    arguments = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 8,
        "seed": 7,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
    }
    ours = make_trainer(tmp_path / "ours", model=tiny_model(dropout=0.2), blocking_weight=0.0, **arguments)
    before, own = weights_of(ours.model), learned_of(ours)
    ours.train()
    assert still(before, weights_of(ours.model)) == set()
    assert_bitwise(learned_of(ours), own)
    theirs = Trainer(
        model=tiny_model(dropout=0.2),
        args=TrainingArguments(str(tmp_path / "theirs"), **arguments),
        train_dataset=toy_data["train"],
    )
    theirs.model_accepts_loss_kwargs = False
    theirs.train()
    assert_bitwise(weights_of(ours.model), weights_of(theirs.model))
    assert_bitwise(moments_of(ours), moments_of(theirs))


def test_evaluation_callbacks_logs_and_the_best_model(make_trainer, tmp_path) -> None:
    events = []

    class Spy(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            events.append((state.global_step, metrics["eval_loss"]))

    trainer = make_trainer(
        tmp_path,
        callbacks=[Spy()],
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        logging_steps=2,
        learning_rate=0.05,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    state = torch.random.get_rng_state()
    trainer.train()
    assert [step for step, _ in events] == [2, 4, 6]
    assert not torch.equal(torch.random.get_rng_state(), state)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    documented = {"desired_loss", "blocking_loss", "adversary_lr", "meta_grad_norm"}
    documented |= {f"blocked_accuracy/step_{k}" for k in range(3)}
    for entry in logged:
        assert documented <= set(entry)
        assert "blocked_accuracy/step_3" not in entry
        assert entry["loss"] == pytest.approx(entry["desired_loss"] + entry["blocking_loss"], rel=1e-4)
        assert 0 <= entry["blocking_loss"] <= math.log(2)
        assert all(0 <= entry[f"blocked_accuracy/step_{k}"] <= 1 for k in range(3))
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert all("eval_accuracy" in entry and "blocking_loss" not in entry for entry in evaluated)
    best = min(events, key=lambda event: event[1])
    assert trainer.state.best_global_step == best[0]
    kept = load_file(tmp_path / f"checkpoint-{best[0]}" / "model.safetensors")
    assert_bitwise(kept, weights_of(trainer.model))
    # Evaluation measures the desired loss alone, with no adversary in it.
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best[1], rel=1e-6)


def test_evaluating_in_between_changes_nothing(make_trainer, tmp_path) -> None:
    with_it = make_trainer(tmp_path, eval_strategy="steps", eval_steps=1)
    without = make_trainer(tmp_path)
    with_it.train()
    without.train()
    assert_bitwise(weights_of(with_it.model), weights_of(without.model))
    assert_bitwise(learned_of(with_it), learned_of(without))


def test_logged_readings_are_means_since_the_last_log(make_trainer, tmp_path) -> None:
    often, seldom = make_trainer(tmp_path, max_steps=4), make_trainer(tmp_path, max_steps=4, logging_steps=4)
    often.train()
    seldom.train()
    entries = [entry for entry in often.state.log_history if "loss" in entry]
    for name in ("desired_loss", "blocking_loss", "meta_grad_norm", "adversary_lr", "blocked_accuracy/step_2"):
        mean = sum(entry[name] for entry in entries) / 4
        assert seldom.state.log_history[0][name] == pytest.approx(mean, rel=1e-6), name


def test_an_interval_leaves_the_blocking_loss_out_in_between(make_trainer, tmp_path) -> None:
    always, seldom = (
        make_trainer(tmp_path, max_steps=4),
        make_trainer(tmp_path, max_steps=4, method_options={"blocking_interval": 3}),
    )
    always.train()
    seldom.train()
    often, rare = ([e for e in t.state.log_history if "loss" in e] for t in (always, seldom))
    assert ["blocking_loss" in entry for entry in often] == [True] * 4
    assert ["blocking_loss" in entry for entry in rare] == [True, False, False, True]
    assert rare[0]["blocking_loss"] == often[0]["blocking_loss"]  # before the first step they are the same
    assert rare[1]["desired_loss"] == often[1]["desired_loss"]
    assert rare[2]["desired_loss"] != often[2]["desired_loss"]
    assert all(entry["loss"] == pytest.approx(entry["desired_loss"]) for entry in rare[1:3])


def test_several_tasks_are_drawn_by_weight(make_trainer, toy_task, tmp_path) -> None:
    tasks = [toy_task("rare", weight=1.0), toy_task("usual", seed=20, weight=3.0)]
    trainer = make_trainer(tmp_path, blocked_tasks=tasks, max_steps=12)
    own = learned_of(trainer)
    drawn = []
    for step in range(1000):
        trainer.state.global_step = step
        drawn.append(trainer.objective.simulator.draw(step).task.name)
    assert drawn.count("usual") / len(drawn) == pytest.approx(0.75, abs=0.05)
    trainer.state.global_step = 0
    trainer.objective.simulator._last = (-1, 0)
    assert set(drawn[:12]) == {"rare", "usual"}
    trainer.train()
    assert still(own, learned_of(trainer)) == set()  # both tasks' heads and rates


# That it works


@pytest.fixture(scope="module")
def knowing_trunk(tiny_model, toy_rows):
    """A trunk pretrained on both labels at once, as a general model knows more than one task needs."""
    model = tiny_model(num_labels=4, layers=1)
    data = toy_rows(400, seed=5)
    tensors = {n: torch.tensor(data[n][:]) for n in data.column_names}
    target = 2 * tensors.pop("labels") + tensors.pop("blocked")
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(300):
        rows = torch.arange(64) + 64 * step % 320
        optimizer.zero_grad()
        model(**{n: v[rows] for n, v in tensors.items()}, labels=target[rows]).loss.backward()
        optimizer.step()
    return model.bert.state_dict()


def read_blocked_label(model, task) -> float:
    """Test accuracy of a logistic regression on what a classifier's head would see."""

    def features(data):
        with torch.no_grad():
            out = model.bert.eval()(
                input_ids=torch.tensor(data["input_ids"][:]), attention_mask=torch.tensor(data["attention_mask"][:])
            )
        return out.last_hidden_state[:, 0].numpy()

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(features(task.attack), task.labels("attack"))
    return probe.score(features(task.test), task.labels("test"))


@pytest.fixture(scope="module")
def trained(make_trainer, tiny_model, toy_rows, toy_task, knowing_trunk, tmp_path_factory):
    """Accuracies on the blocked and on the desired task after training with some weight of blocking.

    Over two seeds: how much desired training alone forgets is chance, and differs from machine to machine.
    """
    task = toy_task(rows=400)
    rows = {
        "train_dataset": toy_rows(400, seed=1, columns=("labels",)),
        "eval_dataset": toy_rows(200, seed=2, columns=("labels",)),
    }

    def train(weight: float, mode: str, seed: int):
        model = tiny_model(layers=1, seed=50)
        model.bert.load_state_dict(knowing_trunk)
        assert read_blocked_label(model, task) > 0.98
        trainer = make_trainer(
            tmp_path_factory.mktemp("trained"),
            model=model,
            blocked_tasks=[task],
            blocking_weight=weight,
            max_steps=160,
            logging_steps=40,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            blocking_batch_size=48,
            adversary={"batch_size": 16, "learning_rate": 3e-3, "head_learning_rate": 1e-2},
            meta_gradient=mode,
            seed=seed,
            compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
            **rows,
        )
        trainer.train()
        return read_blocked_label(model, task), trainer.evaluate()["eval_accuracy"]

    return lambda weight, mode="exact": np.mean([train(weight, mode, seed) for seed in (0, 1)], axis=0)


@pytest.fixture(scope="module")
def undefended(trained):
    return trained(0.0)


@pytest.mark.parametrize("mode", ["exact", "first_order"])
def test_blocking_blocks_and_keeps_the_desired_task(trained, undefended, mode) -> None:
    """``unrolled`` has the gradient of ``exact``: see ``meta_gradient/test_adjoint.py``."""
    hardened = trained(3.0, mode)
    assert undefended[0] > hardened[0] + 0.05
    assert undefended[1] > 0.97
    assert hardened[1] > 0.97


def test_a_blocking_gradient_clipped_to_nearly_nothing_is_one_of_nearly_no_weight(make_trainer, tmp_path) -> None:
    def trained(name, **fields):
        trainer = make_trainer(tmp_path / name, optim="sgd", learning_rate=0.1, max_grad_norm=0, **fields)
        trainer.train()
        return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])

    clipped, light = (
        trained("clipped", method_options={"max_blocking_grad_norm": 1e-9}),
        trained("light", blocking_weight=1e-9),
    )
    torch.testing.assert_close(clipped, light, rtol=0, atol=1e-7)
    whole = trained("whole")
    assert (whole - light).abs().max() > 1e-4
    assert trained("unclipped", method_options={"max_blocking_grad_norm": 0.0}).equal(whole)
