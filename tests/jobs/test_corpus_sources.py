"""Where examples may come from: parts of splits, subsets, pairs of texts, and data sets of a task's own."""

import datasets
import pytest
import torch
from corpus_parts import config_of, save, toy, without
from datasets import ClassLabel, Dataset, DatasetDict
from toy_project import CONFIG, make_tokenizer, sentences
from transformers import DataCollatorWithPadding

from hf_selfdestruct.attacks import Target
from hf_selfdestruct.jobs import sources
from hf_selfdestruct.jobs.config import DataConfig, HardenConfig, TaskConfig, load_config
from hf_selfdestruct.jobs.earlier_run import _deciding
from hf_selfdestruct.jobs.job import _accuracy, blocked_tasks
from hf_selfdestruct.jobs.sources import check_sources
from hf_selfdestruct.jobs.text_data import load_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_a_split_may_be_part_of_a_file(tmp_path, tokenizer):
    rows = toy()
    folder = save(tmp_path / "data", {"train": rows["train"], "extra-rows": rows["test"]})
    splits = {"train": "train[:60%]", "validation": "train[60%:]", "test": "extra-rows"}
    found = load_data(config_of(folder, splits=splits), tokenizer)
    inputs = {split: tokenizer([row["text"] for row in rows[split]])["input_ids"] for split in rows}
    assert found["train"]["input_ids"][:] == inputs["train"][:18]
    assert found["validation"]["input_ids"][:] == inputs["train"][18:]
    assert found["test"]["input_ids"][:] == inputs["test"]


@pytest.mark.parametrize("part", ["train[:6", "train[:200%]", "train[a:b]", "train[:5]+extra"])
def test_what_is_no_part_of_a_split_is_named(tmp_path, tokenizer, part):
    folder = save(tmp_path / "data", toy())
    with pytest.raises(ValueError, match=r"train\[|extra\.parquet"):
        load_data(config_of(folder, splits={"validation": part}), tokenizer)


def test_a_subset_and_a_revision_are_asked_of_the_hub(tmp_path, tokenizer, monkeypatch):
    asked = []

    def load(path, name=None, *, revision=None):
        asked.append((path, name, revision))
        return DatasetDict({split: Dataset.from_list(rows) for split, rows in toy().items()})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "load_dataset", load)
    splits = {"validation": "train[25:]", "train": "train[:25]"}
    found = load_data(config_of("somebody/bios", name="small", revision="v1", splits=splits), tokenizer)
    assert asked == [("somebody/bios", "small", "v1")]
    assert {split: len(rows) for split, rows in found.items()} == {"train": 25, "validation": 5, "test": 10}
    with pytest.raises(ValueError, match="subset and revision apply only to the Hub"):
        load_data(config_of(tmp_path, name="small"), tokenizer)


def test_pairs_of_texts_are_tokenised_together(tmp_path, tokenizer):
    rows = toy()
    for some in rows.values():
        for row in some:
            row["second"] = " ".join(reversed(row["text"].split()))
    found = load_data(config_of(save(tmp_path / "data", rows), text_pair_column="second"), tokenizer)
    pairs = [[row[column] for row in rows["test"]] for column in ("text", "second")]
    assert found["test"]["input_ids"][:] == tokenizer(*pairs, truncation=True, max_length=16)["input_ids"]
    assert not {"text", "second"} & {*found["test"].column_names}


def test_a_model_for_pairs_is_measured_with_all_its_inputs(tmp_path, tiny_bert, tokenizer):
    """Labels are the model's own answers; which text is the second one decides them."""
    model = tiny_bert(num_labels=2).eval()
    rows = [
        {"input_ids": [2, i // 2, 3], "attention_mask": [1] * 3, "token_type_ids": [0, i // 8, 1]} for i in range(16)
    ]
    batch = tokenizer.pad(rows, return_tensors="pt")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(30 if weight.dim() > 1 else 1)
        model.classifier.bias -= model(**batch).logits.mean(0)
        answers = model(**batch).logits.argmax(-1)
        assert (model(**{**batch, "token_type_ids": None}).logits.argmax(-1) != answers).any()
    model.save_pretrained(tmp_path)
    data = Dataset.from_list([{**row, "label": int(one)} for row, one in zip(rows, answers, strict=True)])
    data = data.cast_column("label", ClassLabel(names=["LABEL_0", "LABEL_1"]))
    target = Target("hardened", str(tmp_path))
    assert _accuracy(target, data, DataCollatorWithPadding(tokenizer)) == {"accuracy": 1.0}


def test_a_task_may_have_a_data_set_of_its_own(tmp_path, tokenizer):
    desired = {split: without(rows, "origin") for split, rows in toy().items()}
    own = {
        split: [{"words": r["text"], "label": r["origin"]} for r in sentences(25, 9 + i)]
        for i, split in enumerate(desired)
    }
    data = DataConfig(str(save(tmp_path / "data", desired)), label_column="job", max_length=16)
    named = {"path": str(save(tmp_path / "own", own)), "text_column": "words"}
    config = HardenConfig("model", data, (TaskConfig("origin", "label", **named),))
    check_sources(config)
    (task,) = blocked_tasks(config, load_data(config, tokenizer), tokenizer)
    for split, rows in zip(("train", "attack", "test"), own.values(), strict=True):
        assert task.splits()[split]["input_ids"][:] == tokenizer([row["words"] for row in rows])["input_ids"]
        assert task.labels(split).tolist() == [["north", "south"].index(row["label"]) for row in rows]
    with pytest.raises(ValueError, match="no folder '/nowhere'"):
        check_sources(HardenConfig("model", data, (TaskConfig("origin", "label", path="/nowhere"),)))


def test_more_of_a_data_set_that_is_not_named_is_refused():
    with pytest.raises(ValueError, match="text_column describes the task's own data set: set path"):
        TaskConfig("origin", "origin", text_column="words")


@pytest.mark.parametrize("own", [False, True])
def test_a_task_is_cut_by_the_documents_of_its_data_set(tmp_path, tokenizer, own):
    rows = {split: sentences(60, 9 + i) for i, split in enumerate(toy())}
    paged = {split: [{**row, "page": i // 3} for i, row in enumerate(found)] for split, found in rows.items()}
    path = str(save(tmp_path / "paged", paged))
    desired = str(save(tmp_path / "data", toy())) if own else path
    task = TaskConfig(
        "origin", "origin", path=path if own else None, development=0.4, document_column="page", readings="a/b.jsonl"
    )
    config = HardenConfig("model", DataConfig(desired, label_column="job", max_length=16), (task,))
    (made,) = blocked_tasks(config, load_data(config, tokenizer), tokenizer)
    parts = [made.splits()[split] for split in ("test", "development")]
    assert sorted(page for part in parts for page in part["page"]) == [row["page"] for row in paged["test"]]
    assert {*parts[0]["page"]}.isdisjoint(parts[1]["page"])
    assert (made.development, made.document_column, made.readings) == (0.4, "page", "a/b.jsonl")


def test_a_missing_document_column_is_refused(tmp_path, tokenizer):
    task = TaskConfig("origin", "origin", development=0.4, document_column="page")
    data = DataConfig(str(save(tmp_path / "data", toy())), label_column="job")
    with pytest.raises(ValueError, match="split 'train': no column 'page'; the columns are"):
        load_data(HardenConfig("model", data, (task,)), tokenizer)


def test_a_run_begun_before_there_were_development_rows_is_the_same_run():
    names = {"development", "document_column", "readings"}
    assert not names & {*_deciding(TaskConfig("origin", "origin"))}
    task = TaskConfig("origin", "origin", development=0.4, document_column="page")
    assert {*_deciding(task)} & names == names - {"readings"}


def test_development_rows_are_configured_and_checked(tmp_path):
    def task_of(lines):
        text = CONFIG.format(folder=tmp_path)
        path = tmp_path / "config.yaml"
        path.write_text(text.replace("    label_column: origin\n", f"    label_column: origin\n{lines}"))
        (task,) = load_config(path).blocked_tasks
        return task

    cut = {"development": 0.3, "document_column": "page", "readings": "a.jsonl"}
    lines = "".join(f"    {name}: {value}\n" for name, value in cut.items())
    assert task_of(lines) == TaskConfig("origin", "origin", **cut)
    for wrong, named in (
        ("development: 1", r"blocked_tasks\[0\]: development must be a share .* got 1\."),
        ("document_column: page", r"blocked_tasks\[0\]: document_column 'page' .*set development"),
        ("development: third", r"blocked_tasks\[0\]: development must be a number; got 'third'"),
    ):
        with pytest.raises(ValueError, match=named):
            task_of(f"    {wrong}\n")
