"""A configuration to start from is a configuration, explains every key, and replaces nothing."""

import dataclasses
import re

import pytest

from hf_selfdestruct.cli.__main__ import main
from hf_selfdestruct.jobs.config import load_config, training_arguments
from hf_selfdestruct.jobs.sections import DataConfig, TaskConfig, words_of
from hf_selfdestruct.jobs.starter import STARTS, starter
from hf_selfdestruct.publish.card_details import CardDetails

KINDS = pytest.mark.parametrize("kind", STARTS)


@KINDS
def test_what_init_writes_can_be_read(tmp_path, kind, capsys):
    file = tmp_path / "new.yaml"
    assert main(["init", "--kind", kind, str(file)]) == 0
    assert f"hf-selfdestruct harden {file}" in capsys.readouterr().out
    config = load_config(file)
    assert config.model == STARTS[kind]["model"]
    assert training_arguments(config).output_dir == "hardened"
    assert [task.name for task in config.blocked_tasks] == ["blocked"]


@KINDS
def test_it_explains_every_key_and_shows_its_default(tmp_path, kind):
    """Once every comment that shows a key is a line, the configuration is the same."""
    text = starter(kind)
    plain = " ".join(re.sub(r"^ *#? *", "", line) for line in text.splitlines())
    for section in (DataConfig, TaskConfig, CardDetails):
        for field in dataclasses.fields(section):
            assert f"{words_of(section)[field.name]} {field.name}:" in plain
    files = [tmp_path / name for name in ("short.yaml", "long.yaml")]
    for file, content in zip(files, (text, re.sub(r"^( *)# (\w+:)", r"\1\2", text, flags=re.MULTILINE)), strict=True):
        file.write_text(content)
    assert files[0].read_text() != files[1].read_text()
    short, long = map(load_config, files)
    assert short == dataclasses.replace(long, card=short.card, training=short.training)
    assert CardDetails.from_dict(short.card) == CardDetails.from_dict({k: v for k, v in long.card.items() if v})


def test_init_overwrites_nothing(tmp_path, refused):
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    assert f"{file} already exists and is not overwritten" in refused("init", file)
    assert file.read_text() == "mine"
    line = refused("init", "--kind", "language", tmp_path / "other.yaml")
    assert "--kind language is not supported: choose text or image" in line
    assert "new.yaml (No such file or directory); pass another path" in refused(
        "init", tmp_path / "nowhere" / "new.yaml"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
