"""The YAML: every key known, every value checked, the nearest name told."""

import itertools
import time
from pathlib import Path

import pytest
from toy_project import CONFIG

from hf_selfdestruct.jobs.config import DataConfig, TaskConfig, load_config, training_arguments
from hf_selfdestruct.jobs.strict_yaml import parse_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def write(tmp_path):
    """Writes a configuration, with some text replaced."""

    def write(*changes, text=None):
        text = CONFIG.format(folder=tmp_path) if text is None else text
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# What is read


def test_everything_is_read(write, tmp_path):
    config = load_config(write())
    assert config.model == f"{tmp_path}/model"
    assert config.data == DataConfig(f"{tmp_path}/data", text_column="text", label_column="job", max_length=16)
    assert config.blocked_tasks == (TaskConfig("origin", "origin", 1.0),)
    assert config.suite == "smoke"
    assert config.card == {"title": "Toy", "license": "mit"}
    args = training_arguments(config)
    assert (args.max_steps, args.method, args.use_cpu) == (20, "mlac", True)
    assert args.output_dir == f"{tmp_path}/hardened"


def test_numbers_yaml_takes_for_text_are_numbers(write):
    """YAML reads 1e-4 as text."""
    args = training_arguments(load_config(write()))
    assert (args.adversary_settings.learning_rate, args.learning_rate) == (1e-4, 1e-3)


@pytest.mark.parametrize(
    ("name", "word", "value"),
    [
        ("max_steps", "0100", 100),
        ("max_steps", "1_000", 1000),
        ("learning_rate", "1e-1", 0.1),
        ("learning_rate", "2.5E-3", 0.0025),
        ("learning_rate", "1", 1.0),
        ("eval_strategy", "no", "no"),
        ("bf16", "no", False),
        ("use_cpu", "true", True),
    ],
)
def test_a_word_means_the_same_in_the_file_and_on_the_command_line(write, name, word, value):
    text = f"model: m\ndata: {{path: d}}\nblocked_tasks: [{{name: a, label_column: b}}]\ntraining:\n  {name}: "
    in_file = training_arguments(load_config(write(text=f"{text}{word}\n")))
    typed = training_arguments(load_config(write(text=text), [f"--{name}", word]))
    assert getattr(in_file, name) == getattr(typed, name) == value


@pytest.mark.parametrize(("word", "value"), [("0100", 100), ("-5", -5), ("1e2", 100.0), (".5", 0.5), ("no", "no")])
def test_plain_words_are_read_as_on_the_command_line(word, value):
    assert parse_yaml(f"key: {word}") == {"key": value}
    assert type(parse_yaml(word)) is type(value)


@pytest.mark.parametrize("word", ["yes", "off", "0x10", "0o7", "1:30", "9_", "1.2.3", "e5"])
def test_other_words_are_text(word):
    assert parse_yaml(word) == word


def test_optional_parts_may_be_missing(write):
    text = "model: m\ndata: {path: d}\nblocked_tasks: [{name: a, label_column: b}]\n"
    config = load_config(write(text=text))
    assert (config.suite, config.training, config.card) == ("default", {}, {})
    assert config.data == DataConfig("d")
    for name in ("training", "card"):
        assert load_config(write(text=f"{text}{name}:\n")).data == DataConfig("d"), f"an empty {name}"


def test_control_tasks_and_workers_are_read_and_checked(write):
    more = "suite: smoke\nworkers: 2\ncontrol_tasks:\n  - name: mood\n    label_column: mood"
    config = load_config(write(("suite: smoke", more)))
    assert config.control_tasks == (TaskConfig("mood", "mood"),)
    assert config.workers == 2
    assert load_config(write(), ["--workers", "3"]).workers == 3
    for wrong, named in (("control_tasks: mood", "control_tasks must be a list"), ("workers: 0", "at least 1")):
        with pytest.raises(ValueError, match=named):
            load_config(write(("suite: smoke", wrong)))
    with pytest.raises(ValueError, match=r"control_tasks\[0\]: 'label_column' is missing"):
        load_config(write(("suite: smoke", "control_tasks: [{name: mood}]")))


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda p: p.name)
def test_examples_are_valid(path):
    assert load_config(path).blocked_tasks


def test_values_of_every_kind_reach_the_training_arguments(write):
    more = "  bf16: false\n  save_total_limit: null\n  lr_scheduler_kwargs: {num_cycles: 2}\n  report_to: [none]\n"
    args = training_arguments(load_config(write(("  report_to: none\n", more))))
    assert args.bf16 is False
    assert args.save_total_limit is None
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}
    assert args.report_to in ("none", ["none"], [])


# Overrides


def test_overrides_go_where_they_belong(write):
    words = ["--max_steps", "3", "--data.path", "elsewhere", "--suite", "default", "--model=other"]
    words += ["--data.max_rows=5", "--learning-rate", "2e-5", "--data.replace_pronouns", "true"]
    config = load_config(write(), words)
    args = training_arguments(config)
    assert (config.model, config.suite, config.data.path) == ("other", "default", "elsewhere")
    assert (config.data.max_rows, config.data.replace_pronouns) == (5, True)
    assert (args.max_steps, args.learning_rate, args.method) == (3, 2e-5, "mlac")


def test_overrides_leave_the_rest(write):
    plain, changed = load_config(write()), load_config(write(), ["--max_steps", "3"])
    assert changed.training == {**plain.training, "max_steps": "3"}
    assert changed.data == plain.data


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--max_step", "3"], "'max_step'.*'max_steps'"),
        (["--data.pth", "x"], r"'data\.pth'.*'data\.path'"),
        (["--suit", "smoke"], "'suit'.*'suite'"),
        (["--max_steps"], "--name value"),
        (["max_steps", "3"], "--name value"),
        (["--max_steps", "3", "4"], "--name value"),
        (["--max_steps", "three"], "max_steps"),
        (["--suite", "huge"], "huge"),
        (["--data.max_length", "many"], "max_length"),
        (["--data.splits", "[a]"], "splits"),
        (["--data.only", "[: a"], "only"),
    ],
)
def test_wrong_overrides_are_named(write, words, named):
    with pytest.raises(ValueError, match=named):
        load_config(write(), words)


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("suite: smoke", "siute: smoke", r"config\.yaml: unknown key 'siute'; did you mean 'suite'"),
        ("  max_length:", "  max_lenght:", "data: unknown key 'max_lenght'; did you mean 'max_length'"),
        ("    label_column: origin", "    label: origin", r"blocked_tasks\[0\]: unknown key 'label'.*'label_column'"),
        ("  inner_steps:", "  inner_step:", "training: unknown key 'inner_step'; did you mean 'inner_steps'"),
        ("  license:", "  licence:", "card: unknown.*licence.*license"),
        ("  max_length: 16", "  splits: {training: a}", "splits: unknown key 'training'; did you mean 'train'"),
        ("suite: smoke", "5: smoke", "unknown key 5"),
    ],
)
def test_unknown_key_names_the_nearest(write, old, new, named):
    with pytest.raises(ValueError, match=named):
        load_config(write((old, new)))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("model: ", "# ", "'model' is missing"),
        ("  path: ", "  # ", "'path' is missing"),
        ("  - name: origin\n    label_column: origin", "  - name: origin", "'label_column' is missing"),
        ("  - name: origin\n    label_column: origin", "  []", "at least one task"),
        ("  - name: origin\n    label_column: origin", "  origin", "must be a list"),
        ("  - name: origin\n    label_column: origin", "  - origin", r"blocked_tasks\[0\]: expected keys"),
    ],
)
def test_missing_key_is_named(write, old, new, named):
    with pytest.raises(ValueError, match=named):
        load_config(write((old, new)))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("suite: smoke", "suite: thorough", "suite.*'thorough'"),
        ("suite: smoke", "suite: [smoke]", "suite"),
        ("method: mlac", "method: magic", "method.*'magic'"),
        ("learning_rate: 1e-3", "learning_rate: fast", "learning_rate"),
        ("max_steps: 20", "max_steps: 2.5", "max_steps"),
        ("max_length: 16", "max_length: many", "max_length"),
        ("max_length: 16", "max_length: 0", "max_length"),
        ("max_length: 16", "max_rows: -1", "max_rows"),
        ("max_length: 16", "splits: 5", "splits"),
        ("max_length: 16", "replace_pronouns: 'no'", "replace_pronouns"),
        ("text_column: text", "text_column: 5", "text_column"),
        ("label_column: origin", "label_column: origin\n    weight: heavy", "weight"),
        ("label_column: origin", "label_column: origin\n    weight: -1", "weight"),
        ("label_column: origin", "label_column: job", "task 'origin'.*'job' collides with the desired"),
        ("label_column: origin", "label_column: labels", "'labels' collides with the desired"),
        ("label_column: origin", "label_column: label_ids", "'label_ids' collides with the desired"),
        (
            "label_column: origin",
            "label_column: label",
            "task 'origin'.*'job' is renamed to 'label'.*rename the blocked column",
        ),
        ("suite: smoke", "control_tasks: [{name: again, label_column: origin}]", "the label_column 'origin'"),
        (
            "suite: smoke",
            "control_tasks: [{name: origin, label_column: mood}]",
            "the name 'origin'; make each name unique",
        ),
        (
            "suite: smoke",
            "control_tasks: [{name: again, label_column: job}]",
            "task 'again'.*rename the blocked column",
        ),
        ("  title: Toy", "  title: 5", "card.*title"),
        ("  title: Toy", "  datasets: 5", "card.*datasets"),
        ("license: mit", "license: mit\nmodel: [a]", "model"),
    ],
)
def test_wrong_value_is_named(write, old, new, named):
    with pytest.raises(ValueError, match=named):
        load_config(write((old, new)))


@pytest.mark.parametrize("section", ["training", "data", "card", "adapter"])
@pytest.mark.parametrize("value", ["5", "abc", "[a, b]", "[[a, 1]]"])
def test_section_of_another_kind_is_named(write, section, value):
    text = f"model: m\nblocked_tasks: [{{name: a, label_column: b}}]\n{section}: {value}\n"
    if section != "data":
        text += "data: {path: d}\n"
    with pytest.raises(ValueError, match=section):
        load_config(write(text=text))


@pytest.mark.parametrize(
    "text",
    ["a: [", "\t- x", "a: b: c", "!!python/object/apply:os.system ['exit 1']", "\x00", "- a\n- b", "", "7", "[" * 5000],
)
def test_what_is_not_yaml_is_named(write, text):
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        load_config(write(text=text))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ValueError, match="no configuration at"):
            load_config(path)


def test_code_in_a_configuration_is_not_run(write, tmp_path):
    trap = tmp_path / "trap"
    with pytest.raises(ValueError, match="not YAML"):
        load_config(write(text=f"model: !!python/object/apply:os.mkdir ['{trap}']\n"))
    assert not trap.exists()


LAUGHS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefgh"))
LARGER = {
    "aliases of aliases": (LAUGHS, r"not YAML: aliases.*line 2"),
    "an alias": ("model: &m x\nsuite: *m\n", r"not YAML: aliases.*line 2"),
    "a key twice": ("model: x\nsuite: smoke\nmodel: y\n", r"duplicate key 'model'.*line 3"),
    "a key twice inside": ("data: {path: x, path: y}\n", r"duplicate key 'path'"),
    "lists in lists": ("model: " + "[" * 50_000, "nested too deeply"),
    "keys in keys": ("? " * 50_000, "nested too deeply"),
    "too large": ("model: x\n" + "# words\n" * 20_000, "160009 bytes; the limit is 100000"),
    "a long key": (f"? {'x' * 99_000}\n: 1\n", r"unknown key 'x{3,}\.\.\.x+'; did you mean"),
    "a long value": (f"model: [{'x, ' * 9_000}]\ndata: {{path: d}}\nblocked_tasks: [3]\n", r"blocked_tasks\[0\]: exp"),
    "a long list": ("- x\n" * 9_000, r"expected keys and values, got \['x', 'x', 'x', 'x', 'x', 'x', \.\.\.\]"),
}


@pytest.mark.parametrize("name", LARGER)
def test_a_file_is_as_large_as_it_looks(tmp_path, name):
    text, named = LARGER[name]
    path, start = tmp_path / "config.yaml", time.process_time()
    path.write_text(text)
    with pytest.raises(ValueError, match=named) as caught:
        load_config(path)
    assert time.process_time() - start < 10
    assert len(str(caught.value)) < 1000
