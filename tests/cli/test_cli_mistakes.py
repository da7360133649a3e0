"""Wrong configurations and wrong models are one line each."""

import json
import shutil

import pytest
from toy_project import write_jsonl
from transformers import BertConfig, BertForSequenceClassification

from hf_selfdestruct.cli.__main__ import main

pytestmark = pytest.mark.usefixtures("loudness")


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
        ("/model\n", "/no-model\n", "no-model' (no such folder here"),
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


def test_places_that_cannot_be_written_are_one_line(project, refused, tmp_path, monkeypatch):
    """Before any training: the models would be loaded next, and there are none."""
    file, model = tmp_path / "file", project.parent / "model"
    file.write_text("")
    long = tmp_path / ("long" * 100)
    for place in (file, file / "inside", long):
        line = refused("harden", project, "--output_dir", place, "--model", tmp_path / "none")
        assert f"{tmp_path}/" in line
        assert "pass another path" in line
    assert "(File name too long); pass another path" in refused("harden", f"{long}.yaml")
    options = ("--config", project, "--output")
    assert f"{file}" in refused("attack", tmp_path / "none", *options, file / "report.json")
    for folder in (tmp_path, "."):
        assert "is a folder; pass a file name" in refused("attack", tmp_path / "none", *options, folder)
    for url in (f"sqlite:///{tmp_path}/nowhere/a.db", f"sqlite:///{tmp_path}", "postgresql://u:secret@nowhere/db", "x"):
        line = refused("attack", model, *options, tmp_path / "report.json", "--storage", url)
        assert "cannot be used" in line
        assert "secret" not in line


def test_attack_refuses_references_of_another_architecture(project, refused, tmp_path):
    """Their numbers would say nothing about this model, so no attack is started."""
    other = shutil.copytree(project.parent / "model", tmp_path / "other")
    config = BertConfig.from_pretrained(other)
    config.num_hidden_layers = 2
    BertForSequenceClassification(config).save_pretrained(other)
    options = ("--config", project, "--output", tmp_path / "report.json")
    for reference in ("--undefended", "--base", "--filtered"):
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


def test_quantized_weights_are_one_line(project, refused, tmp_path):
    folder = shutil.copytree(project.parent / "model", tmp_path / "quantized")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    for words in (("harden", project, "--model", folder), ("attack", folder, "--config", project)):
        out = ("--output_dir", tmp_path / "out") if words[0] == "harden" else ("--output", tmp_path / "report.json")
        assert "is quantized (bitsandbytes)" in refused(*words, *out)


def test_an_empty_data_file_is_one_line(variant, refused, project, tmp_path):
    data = shutil.copytree(project.parent / "data", tmp_path / "emptied")
    (data / "train.jsonl").write_text("")
    assert "train.jsonl (StopIteration)" in refused("harden", variant((f"{project.parent}/data\n", f"{data}\n")))


def test_a_long_error_of_somebody_elses_is_told_on_one_line(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    told = refused("fingerprint", "make", tmp_path / "empty", tmp_path / "made.json")
    assert len(told) > 60, "more than its first line"


def test_an_interrupted_command_says_how_to_go_on(project, capsys, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_selfdestruct.jobs.job.harden", interrupted)
    assert main(["harden", str(project)]) == 130
    assert capsys.readouterr().err.endswith("interrupted. Run the same command again to resume.\n")
