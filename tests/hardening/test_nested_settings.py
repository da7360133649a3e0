"""``adversary`` and ``method_options`` change a method by key, in plain values; old names say the new ones."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from peft import LoraConfig
from toy_project import CONFIG
from transformers import HfArgumentParser

from hf_selfdestruct import Adversary, HardeningConfig, SelfDestructTrainingArguments
from hf_selfdestruct.adversaries import SGD, Adam, BetaShare, Range, Schedule
from hf_selfdestruct.adversaries.optimizers import INNER_OPTIMIZERS
from hf_selfdestruct.hardening.adversary_settings import AdversarySettings
from hf_selfdestruct.hardening.method_options import NOTHING, MethodOptions
from hf_selfdestruct.hardening.renamed import RENAMED
from hf_selfdestruct.jobs.config import load_config, training_arguments

NESTED = {"adversary": {"learning_rate": {"low": 1e-4, "high": 1e-3}, "head": ["random", "learned"]}}
OBJECTS = [
    Adversary(),
    Adversary(learning_rate=Range(1e-4, 1e-3), steps=Schedule(1, 4), batch_size=(4, 8), examples=20),
    Adversary(optimizer=(INNER_OPTIMIZERS["nesterov"], Adam()), trainable=("all", "lora"), head="random", prelude=0),
    Adversary(prelude=(0, BetaShare(6, 3)), batch_size=Range(2, 8)),
    Adversary(optimizer=SGD(momentum=0.5), trainable=LoraConfig(r=2), dropout=True, learns_rate=True),
]


def settings_of(config):
    return config.adversary_settings, config.options


@pytest.fixture
def make_args(tmp_path):
    return lambda **fields: SelfDestructTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **fields)


# What can be given


@pytest.mark.parametrize("adversary", OBJECTS, ids=str)
def test_an_adversary_in_python_is_the_same_in_plain_values(make_args, adversary) -> None:
    args = make_args(method="sophon", adversary=adversary)
    assert args.adversary_settings.adversary() == adversary
    assert isinstance(args.adversary, dict)
    json.loads(args.to_json_string())
    if adversary is not OBJECTS[-1]:  # whose optimizer and adapters have no name
        again = HardeningConfig(method="mlac", adversary=json.dumps(args.adversary))
        assert again.adversary_settings.adversary() == adversary


def test_a_presets_adversary_is_taken_alone() -> None:
    config = HardeningConfig(method="mlac", adversary="sophon")
    assert config.adversary_settings == HardeningConfig(method="sophon").adversary_settings
    assert config.options == HardeningConfig(method="mlac").options != HardeningConfig(method="sophon").options


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"adversary": {"lerning_rate": 1}}, "adversary: unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        (
            {"method_options": {"merge_word": 1}},
            "method_options: unknown key 'merge_word'; did you mean 'merge_words'?",
        ),
        ({"adversary": {"learning_rate": {"low": 1e-3}}}, r"adversary: learning_rate: a range is \{low: 1e-4, high"),
        ({"adversary": {"learning_rate": {"low": "a", "high": 1}}}, r"adversary: learning_rate: a range is"),
        ({"adversary": {"learning_rate": {"low": 2, "high": 1}}}, "adversary: learning_rate: a Range needs"),
        ({"adversary": {"steps": {"first": 3, "last": 2}}}, "adversary: steps: a Schedule needs"),
        ({"adversary": {"prelude": {"beta": [6]}}}, r"prelude: a share of the steps is \{beta: \[6, 3\]\}; got beta"),
        ({"adversary": {"prelude": {"beta": [6, 0]}}}, "adversary: prelude: a BetaShare needs two positive numbers"),
        ({"adversary": {"steps": {"beta": [6, 3]}}}, "adversary: steps: a range is"),
        ({"adversary": {"dropout": "no"}}, "adversary: dropout must be true or false; got 'no'"),
        ({"adversary": '{"steps": 3'}, r"adversary: expected keys and values in JSON \("),
        ({"adversary": [1]}, r"adversary: expected keys and values; got \[1\]"),
        (
            {"adversary": {"carries": 3}},
            r"adversary\.carries=3 is now adversary=\{'pool': 1, 'horizon': 3 \* inner_steps",
        ),
        (
            {"adversary": {"pool": 2, "pool_storage": "disc"}},
            "adversary: pool_storage must be one of device, cpu, disk",
        ),
        ({"method_options": "magic"}, "method_options: expected keys and values in JSON"),
        ({"method_options": {"keeping_erases": 1}}, "keeping_erases must be true or false; got 1"),
        ({"inner_steps": 3, "adversary": {"steps": 4}}, r"inner_steps=3 and adversary=\{'steps': 4\} are the same"),
        ({"inner_steps": 3, "adversary": Adversary(steps=4)}, "are the same setting: give one of them"),
    ],
)
def test_what_is_wrong_is_named(fields, told) -> None:
    with pytest.raises(ValueError, match=told):
        HardeningConfig(**fields)


def test_arguments_go_there_and_back(make_args, tmp_path) -> None:
    args = make_args(method="general", **NESTED, method_options={"hvp": "finite_difference"})
    parser = HfArgumentParser(SelfDestructTrainingArguments)
    own = [f.name for f in dataclasses.fields(HardeningConfig)]
    for given in (args.to_dict(), json.loads(args.to_json_string())):
        assert {name: given[name] for name in own} == {name: getattr(args, name) for name in own}
    fields = {name: value for name, value in args.to_dict().items() if name in (*own, "output_dir", "use_cpu")}
    (parsed,) = parser.parse_dict(fields)
    for again in (parsed, copy.deepcopy(args), copy.copy(args), dataclasses.replace(args), args.filled().filled()):
        assert settings_of(again) == settings_of(args)
        assert again.adversary == args.adversary


def test_what_is_changed_while_training_is_seen_at_once(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.args.method_options = {"blocking_interval": 2}
    assert [trainer.objective.blocks(step) for step in range(3)] == [True, False, True]
    trainer.args.blocking_weight = 0.0
    assert not trainer.objective.blocks(0)


def test_nothing_is_left_to_an_undefended_sibling() -> None:
    config = HardeningConfig(method="general", method_options={"merge_groups": 7, "probe_weight": 0.5})
    sibling = config.undefended()
    assert config.hardens
    assert not sibling.hardens
    assert dataclasses.asdict(sibling.options) == {**dataclasses.asdict(config.options), **NOTHING}
    assert {*NOTHING} < {f.name for f in dataclasses.fields(MethodOptions)}


# Old names


def test_every_old_name_says_the_new_one(make_args) -> None:
    known = {**dict.fromkeys(f.name for f in dataclasses.fields(AdversarySettings))}
    known |= dict.fromkeys(f.name for f in dataclasses.fields(MethodOptions))
    assert len(RENAMED) == 12 - 1 + 2 + 3 + 12
    for name, (field, key, _) in RENAMED.items():
        assert key in known
        for made in (HardeningConfig, make_args):
            with pytest.raises(TypeError, match=rf"^{name}=1 is now {field}=\{{'{key}': .*\}}\.$"):
                made(**{name: 1})


def test_several_old_names_are_said_in_one_line() -> None:
    with pytest.raises(TypeError) as caught:
        HardeningConfig(method="mlac", adversary_learning_rate=1e-3, adversary_learning_rate_max=1e-2, hvp="x")
    assert str(caught.value) == (
        "adversary_learning_rate=0.001 is now adversary={'learning_rate': 0.001}; adversary_learning_rate_max=0.01 is "
        "now adversary={'learning_rate': {'low': ..., 'high': 0.01}}; hvp='x' is now method_options={'hvp': 'x'}."
    )


def test_old_names_in_a_file_and_on_the_command_line(tmp_path, refused) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(folder=tmp_path).replace("  max_steps:", "  adversary_head: random\n  max_steps:"))
    told = "training: adversary_head='random' is now adversary={'head': 'random'}."
    assert told in refused("harden", path)
    path.write_text(CONFIG.format(folder=tmp_path))
    told = "command line: --adversary_learning_rate 1e-3 is now --adversary.learning_rate 1e-3."
    assert told in refused("harden", path, "--adversary_learning_rate", "1e-3")
    told = "--adversary.carries 3 is now --adversary.pool 1 --adversary.horizon 3*inner_steps."
    assert told in refused("harden", path, "--adversary.carries", "3")
    told = "--inner_steps_start 2 is now --adversary.steps '{first: 2, last: ...}'."
    assert told in refused("harden", path, "--inner-steps-start=2")


def test_the_command_line_changes_single_keys(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    words = ["--adversary.learning_rate", "{low: 1e-4, high: 1e-3}", "--method-options.blocking_every", "2"]
    args = training_arguments(load_config(path, words))
    assert args.adversary == {"batch_size": 4, "learning_rate": {"low": 1e-4, "high": 1e-3}}
    assert args.method_options == {"blocking_every": 2}
    whole = training_arguments(load_config(path, ["--adversary", '{"head": "random"}', "--use_cpu", "true"]))
    assert whole.adversary == {"head": "random"}
    with pytest.raises(ValueError, match=r"unknown key 'adversary\.hed'; did you mean 'adversary\.head'"):
        load_config(path, ["--adversary.hed", "random"])
    with pytest.raises(ValueError, match="adversary: expected keys and values, got 'sophon'"):
        load_config(path, ["--adversary", "sophon", "--adversary.head", "random"])
