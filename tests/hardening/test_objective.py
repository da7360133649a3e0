"""The objective hardens in any loop as the Trainer does: bit for bit, resumed, and with nothing blocked."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from toy_models import tiny_model, toy_rows, toy_task
from toy_project import make_tokenizer
from trainer_state import assert_bitwise, weights_of
from transformers import DataCollatorWithPadding, default_data_collator

from hf_selfdestruct import HardeningConfig, HardeningObjective

EXAMPLE = Path(__file__).parents[2] / "examples" / "06_any_loop.py"
FIRST_ORDER = {"method": "mlac_fast", "inner_steps": 2, "blocking_batch_size": 8, "seed": 7}


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "mlac", "inner_steps": 2, "blocking_batch_size": 8},
        {
            "method": "one_purpose",
            "method_options": {"keep_directions": 4, "merge_words": 1.5},
            "inner_steps": 2,
            "blocking_batch_size": 8,
        },
    ],
    ids=["exact", "closed forms, kept, merged"],
)
def test_the_example_gives_the_trainers_weights(make_trainer, tmp_path, settings):
    """With dropout, so that random numbers must be drawn alike too."""
    tokenizer, task, rows = make_tokenizer(), toy_task(rows=120), toy_rows(48, seed=1, columns=("labels",))
    settings = {**settings, "seed": 7, "adversary": {"batch_size": 4}}
    theirs, ours = (tiny_model("bert", dropout=0.1) for _ in range(2))
    trainer = make_trainer(
        tmp_path,
        model=theirs,
        train_dataset=rows,
        blocked_tasks=[task],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        max_steps=14,  # more than one epoch
        learning_rate=1e-3,
        optim="adamw_torch_fused",
        **settings,
    )
    trainer.train()
    harden = runpy.run_path(str(EXAMPLE))["harden"]
    readings = harden(ours, rows, task, tokenizer, HardeningConfig(**settings), steps=14, batch_size=4, rate=1e-3)
    assert_bitwise(weights_of(ours), weights_of(theirs))
    logged = trainer.state.log_history[-2]
    assert readings == {name: pytest.approx(logged[name]) for name in readings}
    start = weights_of(tiny_model("bert"))
    assert not [name for name, weight in weights_of(ours).items() if torch.equal(weight, start[name])]


def steps(model, objective, count, *, start=0, optimizer=None):
    """A loop without anything that it need not have."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = toy_rows(48, seed=1, columns=("labels",))
    for step in range(start, start + count):
        inputs = default_data_collator([rows[(4 * step + i) % 48] for i in range(4)])
        total, _ = objective(model, inputs, model(**inputs).loss, step)
        total.backward()
        objective.before_optimizer_step()
        optimizer.step()
        objective.after_optimizer_step()
        optimizer.zero_grad()
    return optimizer


def objective_of(model, **settings):
    adversary = {"learns_rate": True, **settings.pop("adversary", {})}
    config = HardeningConfig(**{**FIRST_ORDER, **settings}, adversary=adversary)
    return HardeningObjective(model, config, [toy_task()], collate=default_data_collator)


def test_it_goes_on_exactly():
    whole, model = tiny_model("bert"), tiny_model("bert")
    steps(whole, objective_of(whole), 4)
    first = objective_of(model)
    optimizer = steps(model, first, 2)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    second = objective_of(model)
    assert any(not torch.equal(state[name], value) for name, value in second.state_dict().items())
    second.load_state_dict(state)
    steps(model, second, 2, start=2, optimizer=optimizer)
    assert_bitwise(weights_of(model), weights_of(whole))
    with pytest.raises(ValueError, match=r"contains adversaries \[\('other', '0'\)\]"):
        second.load_state_dict({name.replace("blocked/", "other/"): value for name, value in state.items()})


def test_without_blocking_it_is_ordinary_training():
    plain, model = tiny_model("bert"), tiny_model("bert")
    hardened = objective_of(tiny_model("bert"), method_options={"merge_words": 1.5, "erase_directions": 2})
    sibling = hardened.without_blocking(model)
    sibling.prepare(model)
    assert_bitwise(weights_of(model), weights_of(plain))
    steps(model, sibling, 3)

    class Nothing:
        def __call__(self, model, inputs, desired, step):
            return desired, {}

        def before_optimizer_step(self):
            pass

        after_optimizer_step = before_optimizer_step

    steps(plain, Nothing(), 3)
    assert_bitwise(weights_of(model), weights_of(plain))


def test_the_users_configuration_stays_as_it_was():
    config = HardeningConfig(method="mlac_fast")
    before = vars(config).copy()
    objective = HardeningObjective(tiny_model("bert"), config, [toy_task()], collate=default_data_collator)
    assert vars(config) == before
    assert objective.config.blocking_batch_size == 32


@pytest.mark.parametrize(
    ("settings", "tasks", "message"),
    [
        ({}, [], "blocked_tasks is empty"),
        ({"adversary": {"head": "keep"}}, [toy_task(num_labels=3)], "'keep' needs the desired task's label space"),
        ({"method_options": {"keeping_erases": True}}, None, "no keeping loss looks at"),
        ({"adversary": {"prelude": 2}}, None, "prelude trains on the desired task"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(settings, tasks, message):
    with pytest.raises(ValueError, match=message):
        HardeningObjective(
            tiny_model("bert"),
            HardeningConfig(**{**FIRST_ORDER, **settings}),
            [toy_task()] if tasks is None else tasks,
            collate=default_data_collator,
        )
