"""Arguments are checked when made, come from the command line, and presets fill only what is missing."""

from __future__ import annotations

import dataclasses

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_selfdestruct.adversaries import optimizers as inner_optimizers
from hf_selfdestruct.hardening import config, presets
from hf_selfdestruct.hardening.config import HardeningConfig
from hf_selfdestruct.hardening.defaults import configured_losses
from hf_selfdestruct.losses import blocking as losses
from hf_selfdestruct.losses import keeping
from hf_selfdestruct.meta_gradient import hessian as curvature
from hf_selfdestruct.meta_gradient import trajectory
from hf_selfdestruct.trainer.training_args import SelfDestructTrainingArguments


@pytest.fixture
def make_args(tmp_path):
    return lambda **fields: SelfDestructTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **fields)


CHOICES = {
    "method": (*presets.PRESETS,),
    "meta_gradient": (*config.META_GRADIENTS,),
    "blocking_loss": (*config.BLOCKING_LOSSES,),
    "step_weights": config.STEP_WEIGHTS,
    "adversary_optimizer": (*config.INNER_OPTIMIZERS,),
    "adversary_head": (*config.HEADS,),
    "hvp": (*config.HVPS,),
    "trajectory": (*config.TRAJECTORIES,),
    "keeping_loss": (*config.KEEPING_LOSSES,),
}


def test_what_the_adversary_trains(make_args) -> None:
    for value in ("all", "head", "lora", "last_1", "last_12"):
        assert make_args(adversary_trainable=value).adversary_trainable == value
    for value in ("none", "last", "last_0", "last_-1", "first_2", "LORA"):
        with pytest.raises(ValueError, match=r"must be all, head, lora or last_n \(such as last_2\); got"):
            make_args(adversary_trainable=value)


def test_choices_are_what_their_rooms_know() -> None:
    assert set((*config.BLOCKING_LOSSES,)) == set(losses.BLOCKING_LOSSES)
    assert set((*config.KEEPING_LOSSES,)) == set(keeping.KEEPING_LOSSES)
    assert set((*config.INNER_OPTIMIZERS,)) == set(inner_optimizers.INNER_OPTIMIZERS)
    assert set((*config.HVPS,)) == set(curvature.HVPS)
    assert (*config.TRAJECTORIES,) == trajectory.TRAJECTORIES


@pytest.mark.parametrize("value", ["entropy+", "", "+entropy", "entropy+gradient"])
def test_losses_joined_by_plus_are_all_known(make_args, value) -> None:
    with pytest.raises(ValueError, match=r"blocking_loss must be one of .*; got '(gradient)?'. Join several by \+."):
        make_args(blocking_loss=value)
    joined = make_args(blocking_loss="entropy+gradient_norm", probe_weight=0)
    assert configured_losses(joined) == [losses.Entropy(), losses.GradientNorm()]


@pytest.mark.parametrize("name", CHOICES)
def test_a_misspelt_choice_lists_the_right_ones(make_args, name) -> None:
    for value in CHOICES[name]:
        assert getattr(make_args(**{name: value}), name) == value
    with pytest.raises(ValueError, match=f"{name} must be one of {', '.join(CHOICES[name])}; got 'sgdd'"):
        make_args(**{name: "sgdd"})


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("inner_steps", (-1, 1.5, True), (0, 16)),
        ("adversary_batch_size", (0, -2, 2.5), (1, 8)),
        ("blocking_batch_size", (1, 0, 7.5), (2, 64)),
        ("inner_steps_start", (-1, 0.5), (0, 3)),
        ("inner_steps_every", (0, 1.5), (1, 50)),
        ("blocking_every", (0, True), (1, 4)),
        ("adversary_examples", (0, 2.5), (1, 20)),
        ("adversary_prelude", (-1, 1.5), (0, 4)),
    ],
)
def test_counts(make_args, name, wrong, right) -> None:
    for value in wrong:
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least"):
            make_args(**{name: value})
    for value in right:
        assert getattr(make_args(**{name: value}), name) == value


@pytest.mark.parametrize(
    "name",
    [
        "adversary_learning_rate",
        "adversary_learning_rate_max",
        "adversary_head_learning_rate",
        "keeping_weight",
    ],
)
def test_rates(make_args, name) -> None:
    for value in (0.0, -1e-3, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"{name} must be a positive number; got"):
            make_args(**{name: value})
    assert getattr(make_args(**{name: 1e-3}), name) == 1e-3


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["blocking_weight", "max_blocking_grad_norm"])
def test_weights_and_clips(make_args, name, value) -> None:
    with pytest.raises(ValueError, match=f"{name} must be zero or more"):
        make_args(**{name: value})
    assert getattr(make_args(**{name: 0.0}), name) == 0


def test_drawn_and_learned_rates_exclude_each_other(make_args) -> None:
    with pytest.raises(ValueError, match="exclude each other: give one of them"):
        make_args(adversary_learning_rate_max=1e-2, adversary_learns_rate=True)
    with pytest.raises(ValueError, match=r"adversary_learning_rate_max \(0.001\) is below adversary_learning_rate"):
        make_args(adversary_learning_rate=1e-2, adversary_learning_rate_max=1e-3)
    assert make_args(adversary_learning_rate=1e-3, adversary_learning_rate_max=1e-3).adversary_learns_rate is None


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ({"fp16": True}, "bf16=True"),
        ({"fsdp": True}, "adversary_scope='global' with fsdp=True"),
        ({"fsdp": True, "adversary_scope": "global", "fsdp_config": {"version": 1}}, "set version=2"),
        (
            {"fsdp": True, "adversary_scope": "global", "fsdp_config": {"activation_checkpointing": True}},
            "activation_checkpointing=False",
        ),
        ({"ddp_find_unused_parameters": True}, "ddp_find_unused_parameters=False"),
        ({"hub_strategy": "checkpoint"}, "call trainer.push_to_hub"),
        ({"hub_strategy": "all_checkpoints"}, "hub_strategy='end'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_the_meta_gradient_does_not_survive(make_args, option, cure) -> None:
    with pytest.raises(ValueError, match=cure):
        make_args(**option)


def test_changed_defaults_of_the_base_class(make_args) -> None:
    args = make_args()
    assert args.ddp_find_unused_parameters is False
    assert args.ddp_broadcast_buffers is False
    assert str(getattr(args.hub_strategy, "value", args.hub_strategy)) == "end"
    assert args.blocking_weight == 1.0


def test_from_the_command_line(tmp_path) -> None:
    wanted = {
        "method": "ac",
        "dry_run": True,
        "hvp": "finite_difference",
        "trajectory": "recompute",
        "inner_steps_start": 1,
        "inner_steps_every": 20,
        "blocking_every": 2,
        "adversary_examples": 50,
        "adversary_scope": "global",
        "adversary_prelude": 2,
        "adversary_dropout": True,
        "adversary_carries": 5,
        "keeping_loss": "logit_distillation",
        "keeping_weight": 0.25,
        "max_desired_drop": 0.02,
        "max_blocking_grad_norm": 0.5,
        "meta_gradient": "first_order",
        "inner_steps": 4,
        "blocking_loss": "uniform_kl",
        "blocking_weight": 0.5,
        "blocking_batch_size": 12,
        "blocking_interval": 3,
        "step_weights": "last",
        "adversary_optimizer": "sgd",
        "adversary_learning_rate": 1e-4,
        "adversary_learning_rate_max": 1e-2,
        "adversary_learns_rate": False,
        "adversary_head": "random",
        "adversary_trainable": "head",
        "adversary_batch_size": 3,
        "adversary_head_learning_rate": 0.02,
        "probe_weight": 0.5,
        "keeping_erases": True,
        "erase_directions": 2,
        "merge_words": 2.5,
        "merge_groups": 7,
        "keep_directions": 7,
    }
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = {field.name for field in dataclasses.fields(SelfDestructTrainingArguments)} - inherited
    assert set(wanted) == own
    words = ["--eval_strategy", "steps", "--eval_steps", "5"]
    words += [word for name, value in wanted.items() for word in (f"--{name}", str(value))]
    parser = HfArgumentParser(SelfDestructTrainingArguments)
    base = ["--output_dir", str(tmp_path), "--use_cpu", "True", "--report_to", "none"]
    (args,) = parser.parse_args_into_dataclasses([*base, "--learning_rate", "3e-5", *words])
    for name, value in wanted.items():
        assert getattr(args, name) == value, name
        assert type(getattr(args, name)) is type(value), name
    assert args.learning_rate == 3e-5
    (args,) = parser.parse_args_into_dataclasses(base)
    assert all(getattr(args, name) is None for name in presets.MLAC)
    assert args.method is None
    with pytest.raises(ValueError, match="inner_step_count"):
        parser.parse_args_into_dataclasses([*base, "--inner_step_count", "4"])


def test_every_own_field_has_a_help_text() -> None:
    for field in dataclasses.fields(SelfDestructTrainingArguments):
        if field.name in {**HardeningConfig.__annotations__, **SelfDestructTrainingArguments.__annotations__}:
            assert len(field.metadata["help"]) > 20, field.name


@pytest.mark.parametrize("method", presets.PRESETS)
def test_every_preset_is_accepted_and_leaves_nothing_open(make_args, method) -> None:
    args = make_args(**presets.PRESETS[method], method=method)
    filled = make_args(method=method).filled()
    plain = make_args()
    open_ = {field.name for field in dataclasses.fields(args) if getattr(plain, field.name) is None}
    assert set(presets.PRESETS[method]) <= open_
    for name, value in presets.PRESETS[method].items():
        assert getattr(filled, name) == value == getattr(args, name)
        assert getattr(filled, name) is not None


@pytest.mark.parametrize("method", presets.PRESETS)
def test_presets_fill_only_what_is_missing(make_args, method) -> None:
    given = {
        "meta_gradient": "first_order",
        "inner_steps": 0,
        "adversary_learns_rate": False,
        "step_weights": "last",
        "adversary_learning_rate": 0.5,
    }
    args = make_args(method=method, **given)
    before = {f.name: getattr(args, f.name) for f in dataclasses.fields(args)}
    filled = args.filled()
    assert before == {f.name: getattr(args, f.name) for f in dataclasses.fields(args)}, "the user's own object"
    for name, value in given.items():
        assert getattr(filled, name) == value
    changed = {name for name, value in before.items() if getattr(filled, name) != value}
    # A rate that is given turns a preset's range off.
    assert changed == set(presets.PRESETS[method]) - set(given) - {"adversary_learning_rate_max"}


def test_a_drawn_rate_turns_the_learned_one_off(make_args) -> None:
    args = make_args(method="mlac", adversary_learning_rate_max=1e-2).filled()
    assert args.adversary_learns_rate is False
    args = make_args(method="mlac").filled()
    assert args.adversary_learns_rate is True
