"""The whole job on images from the command line: harden, again, verify, rerun, attack, fingerprint."""

import json

import pytest
from toy_gallery import make_image_project

from hf_selfdestruct.cli.__main__ import main
from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.fingerprint import Fingerprint, check, folder_answers, make
from hf_selfdestruct.jobs.job import harden
from hf_selfdestruct.jobs.served import served
from hf_selfdestruct.report.report import AttackReport

pytestmark = pytest.mark.usefixtures("loudness")


@pytest.fixture(scope="module")
def hardened(tmp_path_factory):
    home = tmp_path_factory.mktemp("images")
    config = make_image_project(home)
    harden(load_config(config, ["--max_steps", "2"]))  # the command would silence the libraries for all tests
    return home / "hardened", config


@pytest.mark.slow
def test_the_folder_is_complete_and_harden_again_repeats_nothing(hardened):
    folder, config = hardened
    report = AttackReport.load(folder / "selfdestruct" / "report.json")
    assert {run.status for run in report.runs} == {"ok"}
    assert tuple(report.roles()) == ("base", "undefended", "hardened", "scratch")
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {"height": 16, "width": 16}
    assert "preprocessor_config.json" in json.loads((folder / "selfdestruct" / "manifest.json").read_text())["files"]
    kept = ("checkpoint-2/model.safetensors", "_undefended/model.safetensors", "model.safetensors")
    times = {name: (folder / name).stat().st_mtime_ns for name in kept}
    assert main(["harden", str(config), "--max_steps", "2"]) == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == times
    assert AttackReport.load(folder / "selfdestruct" / "report.json").runs == report.runs


@pytest.mark.slow
def test_it_is_verified_and_its_numbers_stand(hardened, capsys):
    folder, config = hardened
    words = ["verify", str(folder), "--rerun", "3", "--rerun-seed", "5", "--config", str(config)]
    assert main(words) == 0
    assert capsys.readouterr().out.count(": reproduced") == 3


@pytest.mark.slow
def test_somebody_elses_attack_finds_the_same(hardened, tmp_path):
    """By the same ledger: nothing is run again where data, models and judge are the same."""
    folder, config = hardened
    before, ledger = (folder / "_attacks.db").read_bytes(), tmp_path / "attacks.db"
    ledger.write_bytes(before)
    storage = ["--storage", f"sqlite:///{ledger}"]
    assert main(["attack", str(folder), "--config", str(config), "--output", str(tmp_path / "r.json"), *storage]) == 0
    mine, theirs = (AttackReport.load(path) for path in (tmp_path / "r.json", folder / "selfdestruct" / "report.json"))
    assert [*mine.runs] == [run for run in theirs.runs if run.role != "undefended"]
    assert mine.desired.of("hardened")["accuracy"] == theirs.desired.of("hardened")["accuracy"]


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_a_fingerprint_of_a_classifier_of_images_knows_it(tmp_path, architecture):
    for name in ("one", "other"):
        make_image_project(tmp_path / name, architecture=architecture, seed=len(name))
    certified, other = (tmp_path / name / "model" for name in ("one", "other"))
    made = make(certified, probes=12, seed=1)
    made.save(tmp_path / "f.json")
    made = Fingerprint.load(tmp_path / "f.json")
    assert made.false_alarms == 0
    assert check(made, folder_answers(certified, made.labels)).same
    assert not check(made, folder_answers(other, made.labels)).same
    assert len({*made.probes}) == 12
    assert (served(certified, made.probes, 12, False, "eager", 1)[0].std(0) > 0).all()
