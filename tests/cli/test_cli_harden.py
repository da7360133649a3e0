"""The whole job from the command line: harden, again, attack."""

import json
import re
import sqlite3

import pytest
import torch
from safetensors.torch import load_file
from toy_project import PLOTS, make_project, run_cli, stripped

from hf_selfdestruct.cli.__main__ import main
from hf_selfdestruct.publish.manifest import problems
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.trainer.intact import begun

pytestmark = pytest.mark.usefixtures("loudness")


def without_durations(value):
    if isinstance(value, dict):
        return {k: without_durations(v) for k, v in value.items() if k != "seconds"}
    return [without_durations(v) for v in value] if isinstance(value, list) else value


def report_of(path):
    return without_durations(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def hardened(project):
    done = run_cli("harden", project, "--max_steps", 2, home=project.parent)
    assert done.returncode == 0, done.stderr
    return project.parent / "hardened", done.stdout


@pytest.mark.slow
def test_harden_prints_the_table_and_completes_the_folder(hardened):
    folder, shown = hardened
    report = AttackReport.load(folder / "selfdestruct" / "report.json")
    assert stripped(report.table().partition("desired task")[0]) in stripped(shown)
    assert "desired task on the desired task's test split: undefended" in shown
    assert tuple(report.roles()) == ("base", "undefended", "hardened", "scratch")
    assert {run.status for run in report.runs} == {"ok"}
    assert report.recipe["outer_steps"] == 2
    assert set(report.desired.quality) == {"hardened", "undefended"}
    expected = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    evidence = {"card.json", "manifest.json", "report.json", *(f"{name}_origin.png" for name in PLOTS)}
    assert expected <= {p.name for p in folder.iterdir()}
    assert evidence == {p.name for p in (folder / "selfdestruct").iterdir()}
    stamp = json.loads((folder / "config.json").read_text())["hf_selfdestruct"]
    assert stamp["blocked_tasks"] == ["origin"]
    assert problems(folder) == []
    assert main(["verify", str(folder)]) == 0


@pytest.mark.slow
def test_hardened_folder_is_stock(hardened, tmp_path):
    """It loads, by name of its labels, where importing this package is an error."""
    folder, _ = hardened
    code = (
        "import sys; sys.modules['hf_selfdestruct'] = None\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
        "model, info = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "print(sum(len(v) for v in info.values()), type(model).__name__, sorted(model.config.label2id))\n"
        "batch = AutoTokenizer.from_pretrained(sys.argv[1])('nurse north word1', return_tensors='pt')\n"
        "print(batch['input_ids'].tolist(), model.eval()(**batch).logits.shape)\n"
    )
    done = run_cli(folder, home=tmp_path, code=code)
    assert done.returncode == 0, done.stderr
    facts = done.stdout.splitlines()
    assert facts[0] == "0 BertForSequenceClassification ['cook', 'nurse']"
    assert facts[1] == "[[2, 4, 6, 9, 3]] torch.Size([1, 2])"


def trials(folder):
    with sqlite3.connect(folder / "_attacks.db") as database:
        # What else there is are claims.
        return database.execute("select count(*) from trials where state in ('COMPLETE', 'FAIL')").fetchone()[0]


@pytest.mark.slow
def test_harden_again_repeats_nothing(hardened, project):
    folder, _ = hardened
    kept = ("checkpoint-2/model.safetensors", "_undefended/model.safetensors", "_base/model.safetensors")
    before, count = report_of(folder / "selfdestruct" / "report.json"), trials(folder)
    times = {name: (folder / name).stat().st_mtime_ns for name in kept}
    runs = AttackReport.load(folder / "selfdestruct" / "report.json").runs
    assert count == len(runs)
    stated = json.loads((folder / "_config.json").read_text())
    for later in ("data.kind", "training.adversary.pool"):  # as an earlier version left the folder
        del stated[later]
    (folder / "_config.json").write_text(json.dumps(stated))
    assert (
        main(["harden", str(project), "--max_steps", "2", "--method_options.probe_weight", "0"]) == 0
    )  # as the method has it
    assert report_of(folder / "selfdestruct" / "report.json") == before
    assert AttackReport.load(folder / "selfdestruct" / "report.json").runs == runs
    assert trials(folder) == count
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == times
    assert problems(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "1"], r"training\.seed=0, but the configuration has 1"),
        (["--inner_steps", "1"], r"training\.inner_steps=2, but the configuration has 1"),
        (["--max_steps", "3"], r"training\.max_steps=2, but the configuration has 3"),
        (["--data.max_length", "8"], r"data\.max_length=16, but the configuration has 8"),
    ],
)
def test_another_configuration_does_not_go_on_with_the_run(hardened, project, capsys, words, told):
    folder, _ = hardened
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert main(["harden", str(project), "--max_steps", "2", *words]) == 2
    assert re.search(f"{told}.*--output_dir", capsys.readouterr().err)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_killed_in_its_first_checkpoint_starts_afresh(tmp_path, caplog):
    assert not begun(tmp_path)
    assert not caplog.text
    (tmp_path / "checkpoint-5").mkdir()
    assert not begun(tmp_path)
    assert "training starts afresh" in caplog.text


@pytest.mark.slow
def test_what_is_attacked_again_is_the_best_model_and_not_the_last(tmp_path):
    config = str(make_project(tmp_path))
    saving = [f"--{kind}_{what}" for kind in ("save", "eval") for what in ("strategy", "steps")]
    words = [word for pair in zip(saving, ("steps", "1") * 2, strict=True) for word in pair]
    best = ["--load_best_model_at_end", "true", "--greater_is_better", "true", "--learning_rate", "0.01"]
    command = ["harden", config, "--max_steps", "3", *words, *best]
    assert main(command) == 0
    first = AttackReport.load(tmp_path / "hardened" / "selfdestruct" / "report.json")
    assert main(command) == 0
    again = AttackReport.load(tmp_path / "hardened" / "selfdestruct" / "report.json")
    weights = [load_file(tmp_path / "hardened" / part / "model.safetensors") for part in ("", "checkpoint-3")]
    assert again.models == first.models
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_attack_finds_what_harden_reported(hardened, project, tmp_path):
    """The same model, data and suite in the hands of somebody else give the same numbers."""
    folder, _ = hardened
    output, config = tmp_path / "report.json", tmp_path / "general.yaml"
    general = f"data:\n  keep_path: {project.parent / 'data'}\n  keep_text_column: text\n"
    config.write_text(project.read_text().replace("data:\n", general))
    assert main(["attack", str(folder), "--config", str(config), "--output", str(output)]) == 0
    mine, theirs = report_of(output), report_of(folder / "selfdestruct" / "report.json")
    assert 0.5 < mine["desired"]["quality"]["hardened"]["similarity_rank_correlation"] < 1  # two steps from the base
    assert set(mine["models"]) == {"base", "hardened", "scratch"}
    for role in ("hardened", "base", "scratch"):
        found = [r for r in mine["runs"] if r["role"] == role]
        assert len(found) == 27  # three probes and one of every layer by 4 + 2 runs, fine-tuning by 1 + 2
        assert found == [r for r in theirs["runs"] if r["role"] == role], role
    assert mine["desired"]["quality"]["hardened"]["accuracy"] == theirs["desired"]["quality"]["hardened"]["accuracy"]
    assert mine["tasks"] == theirs["tasks"]
