"""The committed profiles of accelerate: its launcher takes every key, and hardening what they ask for."""

import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from hf_selfdestruct import SelfDestructTrainingArguments

ROOT = Path(__file__).parents[2]
KINDS = {"single_gpu": DistributedType.NO, "ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP}
FILES = {name: ROOT / "examples" / "accelerate" / f"{name}.yaml" for name in KINDS}


def launched(name: str):
    return launch_command_parser().parse_args(["--config_file", str(FILES[name]), "train.py"])


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_s_launcher_reads_every_key(name):
    loaded = load_config_from_file(str(FILES[name]))  # refuses unknown keys of the first level
    assert loaded.distributed_type == KINDS[name]
    known = vars(launched(name))
    assert {*loaded.fsdp_config} <= {*known}
    args, _, _ = _validate_launch_command(launched(name))
    assert (args.num_processes, args.multi_gpu, args.use_fsdp) == (
        1 if name == "single_gpu" else 8,
        name == "ddp",
        name == "fsdp2",
    )
    assert args.mixed_precision == "no"
    for key, value in loaded.fsdp_config.items():
        assert getattr(args, key) == value


def test_hardening_accepts_what_the_sharded_profile_sets(tmp_path):
    given = {k.removeprefix("fsdp_"): v for k, v in load_config_from_file(str(FILES["fsdp2"])).fsdp_config.items()}
    asked = {"version": given["version"], "activation_checkpointing": given["activation_checkpointing"]}
    arguments = {"fsdp": True, "adversary": {"scope": "global"}, "report_to": "none", "use_cpu": True}
    SelfDestructTrainingArguments(str(tmp_path), fsdp_config=dict(asked), **arguments)
    with pytest.raises(ValueError, match="set version=2"):
        SelfDestructTrainingArguments(str(tmp_path), fsdp_config={**asked, "version": 1}, **arguments)


@pytest.mark.parametrize("name", KINDS)
def test_profile_and_documentation_name_the_same_command(name):
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    comments = [
        line.removeprefix("#") for line in FILES[name].read_text(encoding="utf-8").splitlines() if line[:1] == "#"
    ]
    command = re.search(r"accelerate launch .*?(?=\n [A-Z])", "\n".join(comments), re.DOTALL)
    assert command is not None
    assert " ".join(command[0].replace("\\", "").split()) in " ".join(text.replace("\\", "").split())
    assert {*FILES[name].parent.glob("*.yaml")} == {*FILES.values()}
