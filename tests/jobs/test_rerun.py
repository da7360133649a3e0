"""`verify --rerun`: recorded attacks give the recorded numbers again, or the command says that they do not."""

import json
import shutil
from collections import Counter

import pytest
from made_reports import made_run
from safetensors.torch import load_file, save_file
from toy_project import make_data, make_project, run_cli

from hf_selfdestruct.attacks.suites.audit import plan_problems
from hf_selfdestruct.files import weights_hash
from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.rerun import Rerun, drawn, rerun
from hf_selfdestruct.publish.manifest import REPORT
from hf_selfdestruct.report.report import AttackReport


@pytest.fixture(scope="module")
def hardened(tmp_path_factory):
    """A toy job, done."""
    home = tmp_path_factory.mktemp("job")
    config = make_project(home)
    done = run_cli("harden", config, home=home)
    assert done.returncode == 0, done.stderr
    return home, config


def test_the_numbers_stand(hardened):
    home, config = hardened
    words = ("verify", home / "hardened", "--rerun", "4", "--rerun-seed", "5", "--config", config)
    done = run_cli(*words, home=home)
    assert done.returncode == 0, done.stderr
    *lines, last = [line for line in done.stdout.splitlines() if "recorded" in line or "repeated" in line]
    assert len(lines) == 4
    assert all(": reproduced" in line for line in lines)
    report = AttackReport.load(home / "hardened" / REPORT)
    assert plan_problems(report) == []
    among = sum(run.role != "undefended" for run in report.runs)
    assert f"repeated 4 of {len(report.runs)} runs, drawn with --rerun-seed 5 from the {among} " in last
    assert "1 of 100 numbers passes this check with probability 0.96" in last
    again = rerun(home / "hardened", load_config(config), count=4, seed=5)
    assert all(one.now == one.recorded for one in again.found)  # the same machine and number of threads
    assert [one.line() for one in again.found] == lines
    assert rerun(home / "hardened", load_config(config), count=1).seed != 5


def test_runs_are_drawn_from_the_whole_plan_and_those_that_matter_more_often(hardened):
    report = AttackReport.load(hardened[0] / "hardened" / REPORT)
    runs = [run for run in report.runs if run.role != "undefended"]
    assert sorted(map(id, drawn(report, runs, 10**6, 0))) == sorted(map(id, runs)), "each once"
    counts = Counter(id(run) for seed in range(1000) for run in drawn(report, runs, 3, seed))
    assert {*counts} == {*map(id, runs)}
    named = [run for n in report.budgets("origin") for run in report.strongest_runs("origin", n, "hardened")]
    others = [run for run in runs if not run.chosen]
    assert min(counts[id(run)] for run in named) > max(counts[id(run)] for run in others)


@pytest.mark.parametrize(("shift", "stands"), [(0.0, True), (0.03, False), (-0.03, False)])
@pytest.mark.parametrize("split", [0, 1])
def test_another_number_does_not_stand(split, shift, stands):
    found = Rerun(made_run(accuracy=0.6), tuple(0.6 + shift * (i == split) for i in (0, 1)))
    assert found.stands is stands
    assert ("NOT REPRODUCED" in found.line()) is not stands


def test_what_failed_on_record_fails_again():
    assert Rerun(made_run(failed=True), ()).stands
    assert not Rerun(made_run(failed=True), (0.6, 0.6)).stands
    assert not Rerun(made_run(), ()).stands
    assert Rerun(made_run(failed=True, rung=0.6), ()).stands, "after a short run that did not"


def test_short_runs_are_repeated_too():
    kept = made_run(accuracy=0.6, rung=0.4)
    assert Rerun(kept, (0.6, 0.6, 0.4)).stands
    assert not any(Rerun(kept, now).stands for now in ((0.6, 0.6, 0.9), (0.6, 0.6)))


@pytest.fixture
def forged(hardened, tmp_path):
    """The folder with another one's weights, or with a report that was changed; nobody checks the manifest."""
    home, config = hardened
    folder = shutil.copytree(home / "hardened", tmp_path / "hardened", ignore=shutil.ignore_patterns("_*", "check*"))

    def forged(weights=None, change=lambda raw: None):
        if weights:
            shutil.copy(weights / "model.safetensors", folder)
        raw = json.loads((folder / REPORT).read_text())
        change(raw)
        (folder / REPORT).write_text(json.dumps(raw))
        return rerun(folder, load_config(config), count=10**6, seed=0)

    return forged


def test_weights_of_the_base_under_the_hardened_evidence_are_found(hardened, forged, tmp_path):
    home, _ = hardened
    with pytest.raises(ValueError, match="the weights differ from those that the report's attacks were run on"):
        forged(home / "model")
    tampered = shutil.copytree(home / "hardened" / "_undefended", tmp_path / "sibling")
    weights = load_file(tampered / "model.safetensors")
    save_file({name: value + 1e-6 for name, value in weights.items()}, tampered / "model.safetensors")
    known = weights_hash(tampered)
    done = forged(tampered, lambda raw: raw["models"]["hardened"].update(sha256=known))
    fallen = [one for one in done.found if not one.stands]
    assert fallen
    assert {one.run.role for one in fallen} == {"hardened"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda raw: raw.update(checks=["none"]),
            "departs from its plan, so no run is repeated: checks: the report states 1 doubts",
        ),
        (lambda raw: raw["models"]["base"].update(sha256="0" * 64), "is not the base of the report"),
        (lambda raw: raw["suite"].update(desired=False), "report has desired=False, .* rows imply True"),
    ],
)
def test_a_report_that_departs_from_its_plan_or_from_the_configuration_is_refused(forged, change, named):
    with pytest.raises(ValueError, match=named):
        forged(change=change)


def test_other_data_is_refused(hardened, tmp_path):
    home, config = hardened
    make_data(tmp_path / "data", rows=(60, 150, 100))
    (tmp_path / "config.yaml").write_text(config.read_text().replace(f"{home}/data", f"{tmp_path}/data"))
    done = run_cli("verify", home / "hardened", "--rerun", "--config", tmp_path / "config.yaml", home=home)
    assert done.returncode == 2
    assert "the rows differ from those of the report's attacks" in done.stderr


def test_rerun_needs_the_data(hardened):
    home, _ = hardened
    done = run_cli("verify", home / "hardened", "--rerun", home=home)
    assert done.returncode == 2
    assert "--config" in done.stderr
