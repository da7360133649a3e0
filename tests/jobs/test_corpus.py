"""Labelled texts: any of the usual files, checked before anything is trained."""

import json

import datasets
import pytest
from corpus_parts import config_of, save, toy, without
from toy_project import make_tokenizer, sentences

from hf_selfdestruct.jobs.config import DataConfig
from hf_selfdestruct.jobs.sections import SPLITS
from hf_selfdestruct.jobs.sources import check_source
from hf_selfdestruct.jobs.text_data import load_data, load_kept, neutral


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


# What is loaded


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path, tokenizer, kind):
    splits = toy()
    found = load_data(config_of(save(tmp_path / kind, splits, kind)), tokenizer)
    assert set(found) == {*SPLITS}
    for split, rows in splits.items():
        expected = tokenizer([row["text"] for row in rows])["input_ids"]
        assert found[split]["input_ids"][:] == expected
        for column, source, names in (("label", "job", ["cook", "nurse"]), ("origin", "origin", ["north", "south"])):
            assert found[split].features[column].names == names
            assert found[split][column][:] == [names.index(row[source]) for row in rows]
    assert {"input_ids", "attention_mask", "label", "origin"} <= {*found["train"].column_names}
    assert "text" not in found["train"].column_names


@pytest.mark.parametrize("values", [(0, 1), (3, 11), (-1, 1), (True, False), ("10", "9")])
def test_labels_are_numbered_in_order(tmp_path, tokenizer, values):
    splits = toy()
    for rows in splits.values():
        for row in rows:
            row["job"] = values[row["job"] == "nurse"]
    found = load_data(config_of(save(tmp_path / "data", splits)), tokenizer)
    names = sorted({*values})
    assert found["test"].features["label"].names == [str(name) for name in names]
    assert found["test"]["label"][:] == [names.index(row["job"]) for row in splits["test"]]


def test_other_names_of_splits(tmp_path, tokenizer):
    names = {"train": "learn", "validation": "dev", "test": "held"}
    splits = toy()
    folder = save(tmp_path / "data", {names[s]: rows for s, rows in splits.items()})
    found = load_data(config_of(folder, splits=names), tokenizer)
    assert {s: len(rows) for s, rows in found.items()} == {"train": 30, "validation": 20, "test": 10}


def test_long_texts_are_cut(tmp_path, tokenizer):
    found = load_data(config_of(save(tmp_path / "data", toy()), max_length=5), tokenizer)
    assert {len(row) for row in found["train"]["input_ids"][:]} == {5}


def test_only_rows_that_are_wanted(tmp_path, tokenizer):
    splits = toy()
    for rows in splits.values():
        for i, row in enumerate(rows):
            row["kept"] = i % 3 == 0
    found = load_data(config_of(save(tmp_path / "data", splits), only="kept"), tokenizer)
    for split, rows in splits.items():
        assert found[split]["input_ids"][:] == tokenizer([r["text"] for r in rows if r["kept"]])["input_ids"]


def test_words_are_no_filter(tmp_path, tokenizer):
    """A text such as "false" is true to Python; a column of texts must not silently keep every row."""
    splits = toy()
    for rows in splits.values():
        for i, row in enumerate(rows):
            row["kept"] = "true" if i % 3 == 0 else "false"
    try:
        found = load_data(config_of(save(tmp_path / "data", splits), only="kept"), tokenizer)
    except ValueError as error:
        assert "kept" in str(error)  # noqa: PT017
    else:
        assert len(found["train"]) == 10


def test_most_rows_are_some_of_the_rows(tmp_path, tokenizer):
    folder = save(tmp_path / "data", toy())
    whole, some = (load_data(config_of(folder, max_rows=n), tokenizer) for n in (None, 12))
    assert {s: len(rows) for s, rows in some.items()} == {"train": 12, "validation": 12, "test": 10}
    everything = whole["train"]["input_ids"][:]
    assert all(row in everything for row in some["train"]["input_ids"][:])
    assert some["train"]["input_ids"][:] != everything[:12]
    again = load_data(config_of(folder, max_rows=12), tokenizer)
    assert again["train"]["input_ids"][:] == some["train"]["input_ids"][:]


def test_files_changed_on_disk_are_read_anew(tmp_path, tokenizer):
    folder = save(tmp_path / "data", toy())
    before = load_data(config_of(folder), tokenizer)
    save(folder, toy(train=sentences(25, 99)))
    assert len(before["train"]) == 30
    assert len(load_data(config_of(folder), tokenizer)["train"]) == 25


# What is refused


@pytest.mark.parametrize("column", ["text", "job", "origin"])
@pytest.mark.parametrize("splits", [SPLITS, ("validation",)], ids=["everywhere", "in one split"])
def test_missing_column_is_named(tmp_path, tokenizer, column, splits):
    rows = toy()
    rows |= {split: without(rows[split], column) for split in splits}
    with pytest.raises(ValueError, match=rf"(?s)split '{splits[0]}'.*'{column}'"):
        load_data(config_of(save(tmp_path / "data", rows)), tokenizer)


def test_missing_filter_column_is_named(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="'balanced'"):
        load_data(config_of(save(tmp_path / "data", toy()), only="balanced"), tokenizer)


@pytest.mark.parametrize("split", SPLITS)
def test_missing_split_is_named(tmp_path, tokenizer, split):
    folder = save(tmp_path / "data", toy())
    (folder / f"{split}.jsonl").unlink()
    with pytest.raises(ValueError, match=rf"{split}\.parquet"):
        load_data(config_of(folder), tokenizer)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_missing_folder_is_named(tokenizer, path):
    with pytest.raises(ValueError, match=f"no folder '{path}'"):
        load_data(config_of(path), tokenizer)


def test_missing_hub_data_is_one_line(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="'somebody/bios' is neither a local folder nor a data set on the Hub"
    ) as caught:
        load_data(config_of("somebody/bios"), tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["job", "origin"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_label_unseen_in_train_is_named(tmp_path, tokenizer, column, split):
    rows = toy()
    rows[split][4][column] = "pilot"
    with pytest.raises(ValueError, match=rf"split '{split}', column '{column}': label 'pilot' does not occur in train"):
        load_data(config_of(save(tmp_path / "data", rows)), tokenizer)


@pytest.mark.parametrize("split", SPLITS)
def test_missing_label_is_named(tmp_path, tokenizer, split):
    rows = toy()
    rows[split][4]["job"] = None
    with pytest.raises(ValueError, match=rf"split '{split}', column 'job', row 4: the label is missing"):
        load_data(config_of(save(tmp_path / "data", rows)), tokenizer)


def test_nothing_left_after_the_filter_is_named(tmp_path, tokenizer):
    rows = toy()
    for split, some in rows.items():
        for row in some:
            row["kept"] = split != "validation"
    with pytest.raises(ValueError, match="split 'validation': no rows where kept"):
        load_data(config_of(save(tmp_path / "data", rows), only="kept"), tokenizer)


@pytest.mark.parametrize("content", ["{not json\n", "\x00\x01", json.dumps({"text": 5, "job": [1]}) + "\n"])
def test_broken_file_is_a_value_error(tmp_path, tokenizer, content):
    folder = save(tmp_path / "data", toy())
    (folder / "train.jsonl").write_text(content)
    with pytest.raises(ValueError, match="train"):
        load_data(config_of(folder), tokenizer)


def test_missing_text_is_named(tmp_path, tokenizer):
    rows = toy()
    rows["train"][3]["text"] = None
    with pytest.raises(ValueError, match=r"'train'.*'text'.*3"):
        load_data(config_of(save(tmp_path / "data", rows)), tokenizer)


# Pronouns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She sold her boat; His was new.", "They sold their boat; Their was new."),
        ("he him himself", "they their themselves"),
        ("Hers, HERSELF.", "Their, Themselves."),
        ("The shepherd cherishes heritage, history and this theme.",) * 2,
        ("he's (she) “her”", "they's (they) “their”"),
        ("", ""),
    ],
)
def test_pronouns_are_neutral(text, expected):
    assert neutral(text) == expected


def test_pronouns_are_replaced_on_request(tmp_path, tokenizer):
    rows = toy()
    for some in rows.values():
        for i, row in enumerate(some):
            row["text"] += " she" if i % 2 else " he"
    folder = save(tmp_path / "data", rows)
    for replaced in (True, False):
        found = load_data(config_of(folder, replace_pronouns=replaced), tokenizer)
        texts = [neutral(r["text"]) if replaced else r["text"] for r in rows["test"]]
        assert found["test"]["input_ids"][:] == tokenizer(texts, truncation=True, max_length=16)["input_ids"]


# Texts to keep general use on


def test_kept_texts_are_tokenised_and_have_no_labels(tmp_path, tokenizer) -> None:
    folder = save(tmp_path / "kept", {s: [{"words": r["text"], "n": 1} for r in toy()[s]] for s in ("train", "test")})
    data = DataConfig(str(tmp_path), max_length=6, keep_path=str(folder), keep_text_column="words")
    kept = load_kept(data, tokenizer)
    assert {*kept["train"].column_names} <= {"input_ids", "attention_mask", "token_type_ids"}
    assert (len(kept["train"]), len(kept["test"])) == (30, 10)
    assert max(map(len, kept["train"]["input_ids"])) == 6
    assert load_kept(DataConfig(str(tmp_path)), tokenizer) is None


def test_wrong_kept_texts_are_refused(tmp_path, tokenizer) -> None:
    folder = save(tmp_path / "data", toy())
    with pytest.raises(ValueError, match=r"keep_path: no folder '\./nowhere'"):
        check_source(DataConfig(str(folder), keep_path="./nowhere"))
    half = save(tmp_path / "half", {"train": toy()["train"]})
    with pytest.raises(ValueError, match=r"contains no test\.parquet"):
        check_source(DataConfig(str(folder), keep_path=str(half)))
    with pytest.raises(ValueError, match="'words'"):
        load_kept(DataConfig(str(folder), keep_path=str(folder), keep_text_column="words"), tokenizer)
    numbers = save(tmp_path / "numbers", {s: [{"text": 1}] for s in ("train", "test")})
    with pytest.raises(ValueError, match="row 0: expected text, got 1"):
        load_kept(DataConfig(str(folder), keep_path=str(numbers)), tokenizer)
