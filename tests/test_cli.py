"""The command line: exit codes, one clear line per mistake, and the whole job from end to end."""

import json
import re
import shutil
import sqlite3
import time

import datasets
import pytest
import torch
import transformers
from made_reports import made_report
from safetensors.torch import load_file, save_file
from toy_project import make_project, run_cli, write_jsonl
from transformers import BertConfig, BertForSequenceClassification

from hf_selfdestruct.cli import main
from hf_selfdestruct.manifest import problems
from hf_selfdestruct.recipe import begun
from hf_selfdestruct.report import AttackReport
from hf_selfdestruct.tables import comparison_table

PLOTS = ("score_against_examples", "cost_to_recover", "attacks_and_models", "expected_best")
COMMANDS = ("demo", "harden", "attack", "report", "card", "push", "verify")


@pytest.fixture(autouse=True)
def loudness():
    """Commands run in this process silence the libraries; other tests want to hear them."""
    verbosity, bars = transformers.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    yield
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()
    if not bars:
        datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def refused(capsys):
    """Runs a command in this process; returns its one line on standard error, after checking exit code 2."""

    def run(*words, code=2):
        capsys.readouterr()
        assert main([*map(str, words)]) == code
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("hf-selfdestruct: error: ")
        return lines[0]

    return run


# Help


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_instant_and_complete(command, tmp_path):
    words = [command, "--help"] if command else ["--help"]
    code = "import sys\nfrom hf_selfdestruct.cli import main\ntry:\n  main(sys.argv[1:])\nfinally:\n  sys.stderr.write("
    code += "','.join(sorted({'torch', 'transformers', 'numpy'} & {*sys.modules})))"
    start = time.perf_counter()
    done = run_cli(*words, home=tmp_path, code=code)
    seconds = time.perf_counter() - start
    assert done.returncode == 0
    assert done.stderr == "", "a heavy library was loaded"
    assert seconds < 2
    assert "usage: hf-selfdestruct" in done.stdout
    for name in COMMANDS if command is None else ():
        assert re.search(rf"^ +{name} +\S", done.stdout, flags=re.MULTILINE), f"{name} is not explained"


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


def test_report_shows_the_table_and_draws_plots(tmp_path):
    made_report().save(tmp_path / "report.json")
    done = run_cli("report", "report.json", "--plots", "plots", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert made_report().table() in done.stdout
    drawn = [f"plots/{name}_gender.png" for name in PLOTS]
    assert done.stdout.splitlines()[-len(PLOTS) :] == drawn
    assert all((tmp_path / path).stat().st_size > 1000 for path in drawn)


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
    done = run_cli("verify", folder, home=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not forgery" in done.stdout


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


# Wrong configurations


@pytest.fixture
def variant(project, tmp_path):
    """Writes the project's configuration with some text replaced."""

    def write(*changes):
        text = project.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "variant.yaml"
        path.write_text(text.replace("/hardened\n", "/refused\n"))
        return path

    return write


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("model:", "modell:", "'model'"),
        ("  text_column:", "  text_colum:", "'text_column'"),
        ("  max_steps:", "  max_stepz:", "'max_steps'"),
        ("suite: smoke", "suite: thorough", "thorough"),
        ("method: mlac", "method: magic", "magic"),
        ("license: mit", "licence: mit", "licence"),
        ("  learning_rate: 1e-3", "  learning_rate: fast", "learning_rate"),
        ("label_column: origin", "label_column: orgin", "orgin"),
        ("label_column: job", "label_column: jb", "jb"),
        ("text_column: text", "text_column: txt", "txt"),
        ("/data\n", "/nowhere\n", "nowhere"),
        ("- name: origin", "- name: the origin", "the origin"),
        ("max_length: 16", "max_length: many", "max_length"),
        ("blocked_tasks:", "blocked_tasks: [", "YAML"),
        ("/model\n", "/no-model\n", "no-model"),
    ],
)
def test_wrong_configuration_is_one_line(variant, refused, old, new, named):
    assert named in refused("harden", variant((old, new)))


def test_wrong_overrides_are_one_line(project, refused):
    assert "max_steps" in refused("harden", project, "--max_step", "3")
    assert "--name value" in refused("harden", project, "--max_steps")
    assert "max_steps" in refused("harden", project, "--max_steps", "three")
    assert "huge" in refused("harden", project, "--suite", "huge")
    assert "no configuration" in refused("harden", project.with_name("other.yaml"))


def test_attack_refuses_what_it_cannot_use(project, refused, tmp_path):
    options = ("--config", project, "--output", tmp_path / "report.json")
    assert "no-model" in refused("attack", tmp_path / "no-model", *options)
    assert "no-model" in refused("attack", tmp_path / "no-model", *options, "--base", tmp_path / "no-base")
    assert "huge" in refused("attack", tmp_path, *options, "--suite", "huge")
    model = project.parent / "model"
    assert "nonsense" in refused("attack", model, *options, "--storage", "nonsense")
    assert "workers must be at least 1" in refused("attack", model, *options, "--workers", "0")
    assert "workers must be a whole number" in refused("attack", model, *options, "--workers", "many")
    assert not (tmp_path / "report.json").exists()


def test_attack_refuses_references_of_another_architecture(project, refused, tmp_path):
    """Their numbers would say nothing about this model, so no attack is started."""
    other = shutil.copytree(project.parent / "model", tmp_path / "other")
    config = BertConfig.from_pretrained(other)
    config.num_hidden_layers = 2
    BertForSequenceClassification(config).save_pretrained(other)
    options = ("--config", project, "--output", tmp_path / "report.json")
    for reference in ("--undefended", "--base"):
        line = refused("attack", project.parent / "model", *options, reference, other)
        assert "num_hidden_layers is 2" in line
        assert reference.removeprefix("--") in line
    assert not (tmp_path / "report.json").exists()


def test_attack_refuses_what_the_data_lacks(project, refused, tmp_path):
    """Wrong label column, labels that only one split has, rows of one split in another: before any attack."""
    data = project.parent / "data"
    rows = {s: [json.loads(line) for line in (data / f"{s}.jsonl").open()] for s in ("train", "validation", "test")}
    model = project.parent / "model"

    def with_rows(name, **changed):
        for split, found in {**rows, **changed}.items():
            write_jsonl(tmp_path / name / f"{split}.jsonl", found)
        path = tmp_path / f"{name}.yaml"
        path.write_text(project.read_text().replace(str(data), str(tmp_path / name)))
        return refused("attack", model, "--config", path, "--output", tmp_path / "report.json")

    leaked = with_rows("leaked", test=[*rows["test"], rows["validation"][3]])
    assert "is also row 3 of split 'attack'" in leaked
    strange = with_rows("strange", test=[*rows["test"][1:], {**rows["test"][0], "origin": "west"}])
    assert "label 'west' does not occur in train" in strange
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(project.read_text().replace("label_column: origin", "label_column: orign"))
    line = refused("attack", model, "--config", wrong, "--output", tmp_path / "report.json")
    assert "orign" in line
    assert not (tmp_path / "report.json").exists()


def test_pickled_weights_are_never_loaded(project, capsys, tmp_path):
    """A folder whose only weights are pickled is refused, and the pickle is not run."""
    folder = shutil.copytree(project.parent / "model", tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    trap = b"cos\nsystem\n(S'touch " + str(tmp_path / "trap").encode() + b"'\ntR."
    (folder / "pytorch_model.bin").write_bytes(trap)
    attack = ["attack", folder, "--config", project, "--output", tmp_path / "report.json"]
    for words in (attack, ["harden", project, "--model", folder, "--output_dir", tmp_path / "out"]):
        assert main([*map(str, words)]) == 2
        assert "model.safetensors" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "trap").exists()


# The whole job


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
    assert report.table().partition("desired task")[0] in shown
    assert "desired task on the desired task's test split: undefended" in shown
    assert tuple(report.roles()) == ("base", "undefended", "hardened", "scratch")
    assert {run.status for run in report.runs} == {"ok"}
    assert report.recipe["outer_steps"] == 2
    assert set(report.desired) == {"dataset", "hardened", "undefended"}
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
    assert main(["harden", str(project), "--max_steps", "2", "--probe_weight", "0"]) == 0  # as the method has it
    assert report_of(folder / "selfdestruct" / "report.json") == before
    assert AttackReport.load(folder / "selfdestruct" / "report.json").runs == runs
    assert trials(folder) == count
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == times
    assert problems(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "1"], r"training\.seed=0, and now it is 1"),
        (["--inner_steps", "1"], r"training\.inner_steps=2, and now it is 1"),
        (["--max_steps", "3"], r"training\.max_steps=2, and now it is 3"),
        (["--data.max_length", "8"], r"data\.max_length=16, and now it is 8"),
    ],
)
def test_another_configuration_does_not_go_on_with_the_run(hardened, project, capsys, words, told):
    folder, _ = hardened
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert main(["harden", str(project), "--max_steps", "2", *words]) == 2
    assert re.search(f"{told}.*--output_dir", capsys.readouterr().err)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_killed_in_its_first_checkpoint_starts_afresh(tmp_path, caplog):
    assert begun(str(tmp_path)) is None
    assert not caplog.text
    (tmp_path / "checkpoint-5").mkdir()
    assert begun(str(tmp_path)) is None
    assert "was written to its end: training starts afresh" in caplog.text


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
    assert 0.5 < mine["desired"]["hardened"]["similarity_rank_correlation"] < 1  # two steps from the base
    assert set(mine["models"]) == {"base", "hardened", "scratch"}
    for role in ("hardened", "base", "scratch"):
        found = [r for r in mine["runs"] if r["role"] == role]
        assert len(found) == 28  # three probes and one of every layer by 4 + 2 runs, fine-tuning by 2 + 2
        assert found == [r for r in theirs["runs"] if r["role"] == role], role
    assert mine["desired"]["hardened"]["accuracy"] == theirs["desired"]["hardened"]["accuracy"]
    assert mine["tasks"] == theirs["tasks"]
