"""Arguments are checked when made, come from the command line, and presets fill only what is missing."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_selfdestruct.adversaries.adversary import HEADS
from hf_selfdestruct.adversaries.optimizers import INNER_OPTIMIZERS
from hf_selfdestruct.adversaries.pool import PRECISIONS, STORAGES
from hf_selfdestruct.hardening import presets
from hf_selfdestruct.hardening.adversary_settings import AdversarySettings
from hf_selfdestruct.hardening.config import HardeningConfig
from hf_selfdestruct.hardening.defaults import configured_losses
from hf_selfdestruct.hardening.kinds import check_ceiling
from hf_selfdestruct.hardening.method_options import MethodOptions
from hf_selfdestruct.losses import blocking as losses
from hf_selfdestruct.losses.blocking import BLOCKING_LOSSES
from hf_selfdestruct.losses.keeping import KEEPING_LOSSES
from hf_selfdestruct.meta_gradient.hessian import HVPS
from hf_selfdestruct.meta_gradient.in_place_episode import EPISODES
from hf_selfdestruct.meta_gradient.methods import META_GRADIENTS
from hf_selfdestruct.meta_gradient.outer_loss import STEP_WEIGHTS
from hf_selfdestruct.meta_gradient.trajectory import TRAJECTORIES
from hf_selfdestruct.trainer.training_args import SelfDestructTrainingArguments


@pytest.fixture
def make_args(tmp_path):
    return lambda **fields: SelfDestructTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **fields)


# Of each field, and of each key behind ``adversary`` and ``method_options``, the names that it may have.
CHOICES = {
    "method": presets.PRESETS,
    "adversary": presets.PRESETS,
    "meta_gradient": META_GRADIENTS,
    "blocking_loss": BLOCKING_LOSSES,
    "keeping_loss": KEEPING_LOSSES,
    "adversary.optimizer": INNER_OPTIMIZERS,
    "adversary.head": HEADS,
    "adversary.scope": ("local", "global"),
    "adversary.pool_storage": STORAGES,
    "adversary.pool_precision": PRECISIONS,
    "method_options.hvp": HVPS,
    "method_options.trajectory": TRAJECTORIES,
    "method_options.episode": EPISODES,
    "method_options.step_weights": STEP_WEIGHTS,
}


def given(name: str, value) -> dict:
    """A field by its name, or one key of a nested one."""
    field, dot, key = name.partition(".")
    return {field: {key: value} if dot else value}


def found(args, name: str):
    field, _, key = name.partition(".")
    if key:
        return getattr(args.adversary_settings if field == "adversary" else args.options, key)
    return getattr(args, name)


def test_what_the_adversary_trains(make_args) -> None:
    for value in ("all", "head", "lora", "last_1", "last_12"):
        assert make_args(adversary={"trainable": value}).adversary_settings.adversary().trainable == value
    for value in ("none", "last", "last_0", "last_-1", "first_2", "LORA"):
        with pytest.raises(ValueError, match=r"adversary: trainable must be all, head, last_n, lora .*; got"):
            make_args(adversary={"trainable": value})


@pytest.mark.parametrize("value", ["entropy+", "", "+entropy", "entropy+gradient"])
def test_losses_joined_by_plus_are_all_known(make_args, value) -> None:
    with pytest.raises(ValueError, match=r"blocking_loss must be one of .*; got '(gradient)?'. Join several by \+."):
        make_args(blocking_loss=value)
    joined = make_args(blocking_loss="entropy+gradient_norm", method_options={"probe_weight": 0})
    assert configured_losses(joined) == [losses.Entropy(), losses.GradientNorm()]


def test_a_ceiling_is_that_of_the_loss_which_has_one(make_args) -> None:
    args = make_args(blocking_loss="entropy+negative_cross_entropy", method_options={"blocking_ceiling": 5}).filled()
    assert configured_losses(args)[:2] == [losses.Entropy(), losses.NegativeCrossEntropy(ceiling=5.0)]
    for others in ([losses.Entropy()], [losses.NegativeCrossEntropy()]):
        with pytest.raises(ValueError, match="blocking_ceiling=5 is for blocking_loss='negative_cross_entropy'; got"):
            check_ceiling(args, others)
    check_ceiling(args, configured_losses(args))


@pytest.mark.parametrize("name", CHOICES)
def test_a_misspelt_choice_lists_the_right_ones(make_args, name) -> None:
    for value in CHOICES[name]:
        settings = given(name, value)
        if value == "probe":  # which is of all layers
            settings["adversary"]["reads"] = "all_layers"
        assert found(make_args(**settings), name) == value
    told = name.replace("adversary.", "adversary: ").rpartition("method_options.")[2]
    with pytest.raises(ValueError, match=f"^{told}.* must be one of {', '.join(CHOICES[name])}; got 'sgdd'"):
        make_args(**given(name, "sgdd"))


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("inner_steps", (-1, 1.5, True), (0, 16)),
        ("blocking_batch_size", (1, 0, 7.5), (2, 64)),
        ("adversary.batch_size", (0, -2, 2.5), (1, 8)),
        ("adversary.examples", (0, 2.5), (1, 20)),
        ("adversary.prelude", (-1, 1.5), (0, 4)),
        ("adversary.pool", (-1, 1.5), (0, 8)),
        ("adversary.horizon", (0, 1.5), (1, 800)),
        ("adversary.pool_patience", (-1, 1.5), (0, 100)),
        ("method_options.blocking_every", (0, True, "4"), (1, 4)),
        ("method_options.unlearn_steps", (-1, 1.5, True), (0, 200)),
        ("method_options.selective_steps", (-1, 1.5), (0, 40)),
        ("method_options.merge_groups", (-1, 0.5), (0, 7)),
    ],
)
def test_counts(make_args, name, wrong, right) -> None:
    for value in wrong:
        with pytest.raises(ValueError, match=f"{name.rpartition('.')[2]} must be a whole number of at least"):
            make_args(**given(name, value))
    for value in right:
        assert found(make_args(**given(name, value)), name) == value


@pytest.mark.parametrize("name", ["adversary.learning_rate", "adversary.head_learning_rate", "keeping_weight"])
def test_rates(make_args, name) -> None:
    for value in (0.0, -1e-3, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"{name.rpartition('.')[2]}.* must be (a )?positive numbers?; got"):
            make_args(**given(name, value))
    assert found(make_args(**given(name, 1e-3)), name) == 1e-3


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["blocking_weight", "method_options.max_blocking_grad_norm"])
def test_weights_and_clips(make_args, name, value) -> None:
    with pytest.raises(ValueError, match=f"{name.rpartition('.')[2]} must be zero or more"):
        make_args(**given(name, value))
    assert found(make_args(**given(name, 0.0)), name) == 0


@pytest.mark.parametrize(
    ("option", "cure"),
    [
        ({"fp16": True}, "bf16=True"),
        ({"fsdp": True}, "adversary={'scope': 'global'} with fsdp=True"),
        ({"fsdp": True, "adversary": {"scope": "global"}, "fsdp_config": {"version": 1}}, "set version=2"),
        (
            {
                **{"fsdp": True, "adversary": {"scope": "global"}, "method_options": {"episode": "in_place"}},
                "gradient_accumulation_steps": 4,
            },
            "'sync_each_batch': True}}, or gradient_accumulation_steps=1; got 4",
        ),
        (
            {"fsdp": True, "adversary": {"scope": "global"}, "fsdp_config": {"activation_checkpointing": True}},
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
    assert args.blocking_weight is None  # the method's
    assert args.filled("tar").blocking_weight == 4.0
    assert make_args(blocking_weight=2.0).filled("relearn").blocking_weight == 2.0


def test_from_the_command_line(tmp_path) -> None:
    wanted = {
        "method": "ac",
        "adversary": {"learning_rate": {"low": 1e-4, "high": 1e-2}, "head": "random", "steps": [2, 4], "dropout": True},
        "method_options": {"hvp": "finite_difference", "probe_weight": 0.5, "keeping_erases": True},
        "dry_run": True,
        "keeping_loss": "logit_distillation",
        "keeping_weight": 0.25,
        "max_desired_drop": 0.02,
        "meta_gradient": "first_order",
        "blocking_loss": "uniform_kl",
        "blocking_weight": 0.5,
        "blocking_batch_size": 12,
        "inner_steps": None,
    }
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = {field.name for field in dataclasses.fields(SelfDestructTrainingArguments)} - inherited
    assert set(wanted) == own
    assert len(own) <= 12
    words = ["--eval_strategy", "steps", "--eval_steps", "5"]
    for name, value in wanted.items():
        if value is not None:
            words += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    parser = HfArgumentParser(SelfDestructTrainingArguments)
    base = ["--output_dir", str(tmp_path), "--use_cpu", "True", "--report_to", "none"]
    (args,) = parser.parse_args_into_dataclasses([*base, "--learning_rate", "3e-5", *words])
    for name, value in wanted.items():
        assert getattr(args, name) == value, name
        assert type(getattr(args, name)) is type(value), name
    assert args.learning_rate == 3e-5
    (args,) = parser.parse_args_into_dataclasses([*base, "--adversary", "booster", "--inner_steps", "3"])
    found = args.adversary_settings
    assert (args.adversary, found.optimizer, found.steps) == ("booster", "normalized_sgd", 3)
    (args,) = parser.parse_args_into_dataclasses(base)
    assert all(getattr(args, name) is None for name in presets.MLAC)
    assert args.method is None
    with pytest.raises(ValueError, match="inner_step_count"):
        parser.parse_args_into_dataclasses([*base, "--inner_step_count", "4"])


def test_every_own_field_has_a_help_text() -> None:
    for field in dataclasses.fields(SelfDestructTrainingArguments):
        if field.name in {**HardeningConfig.__annotations__, **SelfDestructTrainingArguments.__annotations__}:
            assert len(field.metadata["help"]) > 20, field.name


def test_every_key_of_a_nested_field_has_a_help_text() -> None:
    for kind in (AdversarySettings, MethodOptions):
        for field in dataclasses.fields(kind):
            assert len(field.metadata["help"]) > 20, field.name


@pytest.mark.parametrize("method", presets.PRESETS)
def test_every_preset_is_accepted_and_leaves_nothing_open(make_args, method) -> None:
    args = make_args(**presets.PRESETS[method], method=method)
    filled, plain = make_args(method=method).filled(), make_args()
    open_ = {field.name for field in dataclasses.fields(args) if getattr(plain, field.name) is None}
    assert set(presets.PRESETS[method]) <= open_
    for name, value in presets.PRESETS[method].items():
        if name in ("adversary", "method_options"):
            settings = args.adversary_settings if name == "adversary" else args.options
            assert dataclasses.asdict(settings).items() >= value.items()
        else:
            assert getattr(filled, name) == value == getattr(args, name)
    assert (filled.adversary_settings, filled.options) == (args.adversary_settings, args.options)


@pytest.mark.parametrize("method", presets.PRESETS)
def test_presets_fill_only_what_is_missing(make_args, method) -> None:
    top = {"meta_gradient": "first_order", "inner_steps": 0}
    rate, options = {"learning_rate": 0.5, "learns_rate": False}, {"step_weights": "last"}
    args = make_args(method=method, adversary=rate, method_options=options, **top)
    before = {f.name: copy.deepcopy(getattr(args, f.name)) for f in dataclasses.fields(args)}
    filled = args.filled()
    assert before == {f.name: getattr(args, f.name) for f in dataclasses.fields(args)}, "the user's own object"
    assert {name: getattr(filled, name) for name in top} == top
    changed = {name for name, value in before.items() if getattr(filled, name) != value}
    assert changed == set(presets.PRESETS[method]) - {*top, "adversary", "method_options"}
    preset = {**presets.PRESETS[method]["adversary"], **rate, "steps": 0}
    assert dataclasses.asdict(filled.adversary_settings).items() >= preset.items()
    preset = {**presets.PRESETS[method]["method_options"], **options}
    assert dataclasses.asdict(filled.options).items() >= preset.items()


def test_drawn_and_learned_rates_exclude_each_other() -> None:
    drawn = {"learning_rate": {"low": 1e-4, "high": 1e-2}}
    assert HardeningConfig(method="mlac").adversary_settings.learns_rate is True
    assert HardeningConfig(method="mlac", adversary=drawn).adversary_settings.learns_rate is False
    learned = HardeningConfig(method="mlac_fast", adversary={"learns_rate": True}).adversary_settings
    assert (learned.learns_rate, learned.learning_rate) == (True, 1e-4)  # where the preset's range starts
    with pytest.raises(ValueError, match="adversary: a learned rate has no schedule: set learns_rate=False, or"):
        HardeningConfig(method="mlac", adversary={"schedule": "linear"})
    with pytest.raises(ValueError, match="adversary: a learned rate starts from one number"):
        HardeningConfig(adversary={**drawn, "learns_rate": True})


def test_gradients_that_are_summed_in_each_micro_step_go_with_sharded_episodes_in_place(tmp_path):
    args = SelfDestructTrainingArguments(
        str(tmp_path),
        use_cpu=True,
        gradient_accumulation_steps=4,
        fsdp=True,
        adversary={"scope": "global"},
        method_options={"episode": "in_place"},
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    )
    assert args.options.episode == "in_place"
