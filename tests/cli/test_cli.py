"""Help, and the commands that read what is there."""

import dataclasses
import io
import re
import time

import pytest
from made_reports import made_report
from safetensors.torch import load_file, save_file
from toy_project import PLOTS, run_cli, run_fresh, stripped

from hf_selfdestruct import __version__
from hf_selfdestruct.cli.__main__ import main
from hf_selfdestruct.cli.parser import spelled
from hf_selfdestruct.hardening.adversary_settings import AdversarySettings
from hf_selfdestruct.hardening.config import HardeningConfig
from hf_selfdestruct.hardening.method_options import MethodOptions
from hf_selfdestruct.jobs.sections import DataConfig, TaskConfig, words_in, words_of
from hf_selfdestruct.publish.card_details import CardDetails, Gate, ReleaseConsiderations
from hf_selfdestruct.publish.manifest import problems
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.report.tables import comparison_table

OF_HARDENING = {
    ("hardening/config.py", "HardeningConfig"): HardeningConfig,
    ("hardening/adversary_settings.py", "AdversarySettings"): AdversarySettings,
    ("hardening/method_options.py", "MethodOptions"): MethodOptions,
}
COMMANDS = ("demo", "init", "harden", "attack", "report", "card", "push", "verify", "view")


pytestmark = pytest.mark.usefixtures("loudness")


# Help


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_instant_and_complete(command, tmp_path):
    words = [command, "--help"] if command else ["--help"]
    code = "import sys\nfrom hf_selfdestruct.cli.__main__ import main\n"
    code += "try:\n  main(sys.argv[1:])\nfinally:\n  sys.stderr.write("
    code += "','.join(sorted({'torch', 'transformers', 'numpy'} & {*sys.modules})))"
    start = time.perf_counter()
    done = run_fresh(*words, home=tmp_path, code=code)
    seconds = time.perf_counter() - start
    assert done.returncode == 0
    assert done.stderr == "", "a heavy library was loaded"
    assert seconds < 2
    assert "usage: hf-selfdestruct" in done.stdout
    for name in COMMANDS if command is None else ():
        assert re.search(rf"^ +{name} +\S", done.stdout, flags=re.MULTILINE), f"{name} is not explained"


def test_help_of_harden_says_what_can_be_given(tmp_path):
    help_ = run_cli("harden", "--help", home=tmp_path, COLUMNS="100").stdout
    assert len(help_.splitlines()) <= 150, "longer than three screens"
    shown = " ".join(help_.split())
    for name in ("--model", "--suite", "--data.KEY", "--output_dir", "--seed", "again to resume"):
        assert name in shown
    for kind in (DataConfig, TaskConfig, CardDetails, ReleaseConsiderations, Gate):
        for field in dataclasses.fields(kind):
            words = words_of(kind)[field.name]
            assert words, f"{kind.__name__}.{field.name} has no words in the docstring"
            assert f" {field.name} {words}" in shown
    for (file, name), kind in OF_HARDENING.items():
        for field in dataclasses.fields(kind):
            words = words_in(file, name)[field.name]
            assert field.metadata["help"].startswith(words.rstrip("."))
            assert f" {field.name} {words}" in shown
    assert run_cli("--version", home=tmp_path).stdout.split() == ["hf_selfdestruct", __version__]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "COMMAND"),
        (("hardn",), "hardn"),
        (("harden",), "CONFIG.yaml"),
        (("attack", "m"), "--config"),
        (("report", "r.json", "--plot", "x"), "--plot"),
        (("verify", "x", "--deep"), "--deep"),
        (("push", "x"), "REPO_ID"),
    ],
)
def test_misused_arguments_exit_with_2(words, named, tmp_path):
    done = run_cli(*words, home=tmp_path)
    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]
    assert done.stderr.count("error:") == 1
    assert done.stdout == ""


# Report, card, verify


def test_options_may_be_spelled_as_those_of_transformers(tmp_path):
    """With underscores; values stay as they are, and so do the overrides of harden, which name keys."""
    words = ["demo", "--output_dir", "my_folder", "--kind=te_xt", "-h"]
    assert spelled(words) == ["demo", "--output-dir", "my_folder", "--kind=te_xt", "-h"]
    assert spelled(["harden", "c.yaml", "--max_steps=1"]) == ["harden", "c.yaml", "--max_steps=1"]
    done = run_cli("demo", "--output_dir", tmp_path / "made", "--kind", "audio", home=tmp_path)
    assert (done.returncode, "audio" in done.stderr, "unknown option" in done.stderr) == (2, True, False)


def test_report_shows_the_table_and_draws_plots(tmp_path):
    made_report().save(tmp_path / "report.json")
    done = run_cli("report", "report.json", "--plots", "plots", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert made_report().table() in done.stdout
    drawn = [f"plots/{name}_gender.png" for name in PLOTS]
    assert done.stdout.splitlines()[-len(PLOTS) :] == drawn
    assert all((tmp_path / path).stat().st_size > 1000 for path in drawn)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_cannot_show_a_character_shows_another(tmp_path, monkeypatch, encoding):
    made_report().save(tmp_path / "report.json")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["report", str(tmp_path / "report.json")]) == 0
    terminal.flush()
    assert "gender" in terminal.buffer.getvalue().decode(encoding)


def test_a_hardened_folder_stands_for_its_report(tmp_path, capsys):
    made_report().save(tmp_path / "selfdestruct" / "report.json")
    assert main(["report", str(tmp_path)]) == 0
    assert stripped(capsys.readouterr().out) == stripped(made_report().table())


def test_several_reports_are_put_side_by_side(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for path in paths:
        made_report().save(path)
    assert main(["report", *paths]) == 0
    shown, reports = capsys.readouterr().out, [AttackReport.load(path) for path in paths]
    assert shown == comparison_table(reports, paths)
    assert "strongest attack on each model" in shown


def test_plots_of_several_reports_are_refused(tmp_path, refused):
    made_report().save(tmp_path / "a.json")
    line = refused("report", tmp_path / "a.json", tmp_path / "a.json", "--plots", tmp_path / "plots")
    assert "--plots" in line
    assert not (tmp_path / "plots").exists()


def test_reports_without_a_common_task_are_refused(tmp_path, refused):
    made_report().save(tmp_path / "a.json")
    made_report(tasks={"age": made_report().tasks["gender"]}, runs=()).save(tmp_path / "b.json")
    assert "no blocked task in common" in refused("report", tmp_path / "a.json", tmp_path / "b.json")


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "no report at"), ("{", "not a report"), ("[" * 100_000, "not a report"), ('{"x": 1}', "unknown fields: x")],
)
def test_wrong_report_is_one_line(tmp_path, content, named):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    done = run_cli("report", "report.json", home=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hf-selfdestruct: error: ")
    assert named in line
    assert "report.json" in line


def test_verify_passes_and_says_what_it_does_not_prove(folder):
    done = run_cli("verify", folder, "--files-only", home=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not forgery" in done.stdout
    assert "not checked against its suite's plan" in done.stdout


def test_verify_holds_the_report_against_its_suites_plan(folder, capsys):
    assert main(["verify", str(folder)]) == 1
    assert "suite 'smoke' version 1 is not shipped with this version" in capsys.readouterr().out


def test_verify_fails_and_names_the_file(folder, capsys):
    (folder / "tokenizer.json").write_text("[]")
    assert main(["verify", str(folder)]) == 1
    assert "tokenizer.json: changed" in capsys.readouterr().out


def test_verify_of_something_else_is_one_line(tmp_path, refused):
    assert "manifest.json" in refused("verify", tmp_path)
    assert "owner/name" in refused("verify", tmp_path / "nowhere")
    assert "no report at" in refused("card", tmp_path)


def test_card_follows_the_users_words(folder, capsys):
    path = folder / "selfdestruct" / "card.json"
    path.write_text(path.read_text().replace('"contact": ""', '"contact": "security@example.org"'))
    assert main(["card", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    assert "security@example.org" in (folder / "README.md").read_text()
    assert problems(folder) == []
    path.write_text(path.read_text().replace("contact", "kontact"))
    assert main(["card", str(folder)]) == 2
    assert "kontact" in capsys.readouterr().err


def weights_changed(folder):
    weights = load_file(folder / "model.safetensors")
    weights[sorted(weights)[0]].view(-1)[0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def report_changed(folder):
    path = folder / "selfdestruct" / "report.json"
    path.write_text(path.read_text().replace('"accuracy": 0.5,', '"accuracy": 0.25,', 1))


@pytest.mark.parametrize(
    ("change", "name"), [(weights_changed, "model.safetensors"), (report_changed, "selfdestruct/report.json")]
)
def test_card_does_not_cover_up_changed_evidence(folder, capsys, change, name):
    """A new card must not come with a new manifest that declares edited weights or results genuine."""
    change(folder)
    before = (folder / "selfdestruct" / "manifest.json").read_bytes()
    assert main(["card", str(folder)]) in (1, 2)
    captured = capsys.readouterr()
    assert name in captured.err + captured.out
    assert (folder / "selfdestruct" / "manifest.json").read_bytes() == before
    assert main(["verify", str(folder)]) == 1
