"""`verify --rerun`: the worst recorded attack gives the recorded number again, or the command says that it does not."""

import json

import pytest
from toy_project import make_data, make_project, run_cli

from hf_selfdestruct.config import load_config
from hf_selfdestruct.manifest import REPORT
from hf_selfdestruct.rerun import rerun


@pytest.fixture(scope="module")
def hardened(tmp_path_factory):
    """A toy job, done."""
    home = tmp_path_factory.mktemp("job")
    config = make_project(home)
    done = run_cli("harden", config, home=home)
    assert done.returncode == 0, done.stderr
    return home, config


def test_the_number_stands(hardened):
    home, config = hardened
    done = run_cli("verify", home / "hardened", "--rerun", "--config", config, home=home)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "recorded" in line]
    assert "the number stands" in line
    (found,) = rerun(home / "hardened", load_config(config))
    assert found.accuracy == found.recorded  # the same machine and number of threads
    report = json.loads((home / "hardened" / REPORT).read_text())
    reached = [r["test"]["accuracy"] for r in report["runs"] if r["role"] == "hardened" and r["chosen"]]
    assert found.recorded <= max(reached)


def test_another_number_does_not_stand(hardened, monkeypatch):
    home, config = hardened
    from hf_selfdestruct import rerun as room

    (found,) = rerun(home / "hardened", load_config(config))
    for shift, stands in ((0.0, True), (room.TOLERANCE * 1.5, False), (-room.TOLERANCE * 1.5, False)):
        other = room.Rerun(found.run, found.recorded + shift, found.accuracy)
        assert other.stands is stands
        assert ("THE NUMBER DOES NOT STAND" in other.line()) is not stands


def test_other_data_is_refused(hardened, tmp_path):
    home, config = hardened
    make_data(tmp_path / "data", rows=(60, 150, 100))
    (tmp_path / "config.yaml").write_text(config.read_text().replace(f"{home}/data", f"{tmp_path}/data"))
    done = run_cli("verify", home / "hardened", "--rerun", "--config", tmp_path / "config.yaml", home=home)
    assert done.returncode == 2
    assert "these are not the rows" in done.stderr


def test_rerun_needs_the_data(hardened):
    home, _ = hardened
    done = run_cli("verify", home / "hardened", "--rerun", home=home)
    assert done.returncode == 2
    assert "--config" in done.stderr
