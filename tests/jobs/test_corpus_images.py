"""Labelled images: from folders, files and saved data sets, checked before anything is trained."""

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset
from toy_gallery import SPLITS, make_gallery, make_processor
from toy_models import tiny_model
from toy_project import make_tokenizer

from hf_selfdestruct.jobs.config import HardenConfig
from hf_selfdestruct.jobs.images import Pixels, image_batch
from hf_selfdestruct.jobs.job import blocked_tasks
from hf_selfdestruct.jobs.label_order import renumbered
from hf_selfdestruct.jobs.processors import processor_of
from hf_selfdestruct.jobs.sections import DataConfig, TaskConfig
from hf_selfdestruct.jobs.text_data import load_data
from hf_selfdestruct.tasks.blocked_task import content_hashes


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    return make_gallery(tmp_path_factory.mktemp("gallery"))


def config_of(folder, *tasks, **fields):
    data = DataConfig(str(folder), **{"image_column": "image", "label_column": "colour", **fields})
    return HardenConfig("model", data, tasks or (TaskConfig("side", "side"),))


def raw(gallery):
    """The splits as ``datasets`` reads them, images and all."""
    return DatasetDict(
        {s: load_dataset("imagefolder", data_files=str(gallery / s / "**"), split="train") for s in SPLITS}
    )


def saved(gallery, folder, kind, change=lambda rows: rows):
    found = change(raw(gallery))
    if kind == "disk":
        found.save_to_disk(folder)
    else:
        folder.mkdir()
        for split, rows in found.items():
            rows.to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("kind", ["folder", "parquet", "disk"])
def test_every_kind_of_data_gives_the_same_pixels_and_labels(gallery, tmp_path, kind):
    folder = gallery if kind == "folder" else saved(gallery, tmp_path / "data", kind)
    processor, plain = make_processor(), raw(gallery)
    found = load_data(config_of(folder), processor)
    for split, count in SPLITS.items():
        rows = found[split]
        assert (len(rows), {*rows[0]}) == (count, {"pixel_values", "label", "side"})
        images = [image.convert("RGB") for image in plain[split]["image"]]
        expected = processor(images, return_tensors="pt")["pixel_values"]
        assert torch.equal(torch.stack([row["pixel_values"] for row in rows]), expected)
        for column, source, names in (("label", "colour", ["blue", "red"]), ("side", "side", ["left", "right"])):
            assert rows.features[column].names == names
            assert rows.with_format(None)[column][:] == [names.index(one) for one in plain[split][source]]


def test_folders_named_as_classes_are_labels_and_a_blocked_task_may_have_its_own(gallery, tmp_path):
    desired, own = (make_gallery(tmp_path / f"[{by}]", by=by) for by in ("colour", "side"))
    for image in (desired / "test" / "blue").iterdir():  # a split may lack a class
        image.unlink()
    config = config_of(desired, TaskConfig("side", "label", path=str(own)), label_column="label")
    found, expected = (load_data(one, make_processor()) for one in (config, config_of(gallery)))
    assert {*found["test"].with_format(None)["label"]} == {1}
    assert found["train"].features["label"].names == ["blue", "red"]
    (task,) = blocked_tasks(config, found, make_processor())
    for split, name in (("train", "train"), ("validation", "attack"), ("test", "test")):
        known = dict(zip(content_hashes(expected[split], ""), expected[split].with_format(None)["side"], strict=True))
        assert [known[row] for row in task.contents(name)] == task.labels(name).tolist()


def test_other_numbers_for_the_classes_leave_the_pixels(gallery):
    found = load_data(config_of(gallery), make_processor())
    again = renumbered(found, [1, 0])
    assert again["test"].features["label"].names == ["red", "blue"]
    assert [row["label"] for row in again["test"]] == [1 - row["label"] for row in found["test"]]
    assert torch.equal(again["test"][3]["pixel_values"], found["test"][3]["pixel_values"])


def test_an_image_is_the_same_whatever_else_stands_in_its_row(gallery):
    """Leaks between splits are found by the file, in whose row the desired label may differ."""
    rows = raw(gallery)["train"]
    other = rows.map(lambda row: {"colour": "red" if row["colour"] == "blue" else "blue"})
    assert content_hashes(rows, "side") == content_hashes(other, "side")
    assert len({*content_hashes(rows, "side")}) == len(rows)


def test_a_batch_has_labels_under_either_name():
    rows = [{"pixel_values": torch.zeros(3, 2, 2), "label": one, "side": 0} for one in (1, 0)]
    batch = image_batch(rows)
    assert ({*batch}, batch["labels"].tolist()) == ({"pixel_values", "labels"}, [1, 0])
    assert {*image_batch([{"pixel_values": torch.zeros(3, 2, 2)}])} == {"pixel_values"}


def test_a_batch_has_its_channels_last_in_memory():
    rows = [{"pixel_values": torch.randn(3, 4, 5)} for _ in range(2)]
    pixels = image_batch(rows)["pixel_values"]
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, torch.stack([row["pixel_values"] for row in rows]))


# What is refused


def as_texts(found):
    return found.map(lambda row: {"words": "a text"}, remove_columns=["image"]).rename_column("words", "image")


def without_one(found):
    rows = found["train"].cast_column("image", Image(decode=False)).to_list()
    rows[7]["image"] = None
    features = found["train"].features
    return DatasetDict({**found, "train": Dataset.from_list(rows, features=features)})


def test_what_holds_no_images_is_refused(gallery, tmp_path):
    folder = saved(gallery, tmp_path / "texts", "parquet", as_texts)
    with pytest.raises(
        ValueError, match=r"split 'train': column 'image' contains string, not images: convert it with datasets"
    ):
        load_data(config_of(folder), make_processor())
    with pytest.raises(ValueError, match="split 'train': no column 'picture'; the columns are image, colour, side"):
        load_data(config_of(gallery, image_column="picture"), make_processor())
    with pytest.raises(ValueError, match=r"contains no train\.parquet, .*, and no image folder train"):
        load_data(config_of(tmp_path), make_processor())
    with pytest.raises(ValueError, match=r"contains no train\.parquet, train\.jsonl, train\.json or train\.csv\.$"):
        load_data(HardenConfig("model", DataConfig(str(gallery)), (TaskConfig("side", "side"),)), make_tokenizer())


@pytest.mark.parametrize("break_it", ["missing", "cut short", "no image"])
def test_a_broken_image_is_named_before_training(gallery, tmp_path, break_it):
    if break_it == "missing":
        folder, row = saved(gallery, tmp_path / "data", "parquet", without_one), 7
    else:
        folder = make_gallery(tmp_path / "data")
        file, row = folder / "train" / "7.png", r"\d+"
        file.write_bytes(file.read_bytes()[:300] if break_it == "cut short" else b"words")
    with pytest.raises(ValueError, match=rf"'train', column 'image', row {row}: the image is missing or unreadable"):
        load_data(config_of(folder), make_processor())


def test_images_of_several_sizes_are_refused_where_nothing_resizes_them(gallery, tmp_path):
    folder, processor = make_gallery(tmp_path / "data"), make_processor()
    file = folder / "validation" / "3.png"
    Image().decode_example({"path": str(file), "bytes": None}).resize((9, 8)).save(file)
    assert load_data(config_of(folder), processor)["validation"][3]["pixel_values"].shape == (3, 16, 16)
    processor.do_resize = False
    assert load_data(config_of(gallery), processor)["train"][0]["pixel_values"].shape == (3, 20, 20)
    with pytest.raises(ValueError, match=r"row \d+: the pixels have shape \(3, 8, 9\).*do_resize"):
        load_data(config_of(folder), processor)


def test_grey_images_and_those_with_transparency_become_pixels(gallery):
    image = raw(gallery)["train"][0]["image"]
    pixels = Pixels(make_processor(), "image")
    for mode in ("L", "RGBA", "P", "1"):
        (made,) = pixels({"image": [image.convert(mode)], "label": [1]})["pixel_values"]
        assert made.shape == (3, 16, 16)
    assert pixels({"label": [1]}) == {"label": [1]}


@pytest.mark.parametrize(("reads", "data"), [("vit", {}), ("bert", {"image_column": "image"})])
def test_a_model_of_the_other_kind_is_refused(tmp_path, reads, data):
    tiny_model(reads).save_pretrained(tmp_path)
    reading = {"vit": "reads images, but the examples are texts", "bert": "reads texts, but the examples are images"}
    with pytest.raises(ValueError, match=f"{reading[reads]}: use another model, or .* image_column for images"):
        processor_of(str(tmp_path), DataConfig("data", **data))


@pytest.mark.parametrize("of_texts", [{"text_column": "text"}, {"text_pair_column": "b"}, {"keep_path": "kept"}])
def test_what_is_of_texts_is_refused_beside_images(of_texts):
    with pytest.raises(ValueError, match=f"image_column .* {next(iter(of_texts))} is for texts: remove one of them"):
        DataConfig("data", image_column="image", **of_texts)
    assert DataConfig("data", image_column="image").text_column is None
    assert DataConfig("data").text_column == "text"
    with pytest.raises(ValueError, match="text_column is for texts"):
        config_of("data", TaskConfig("side", "label", path="own", text_column="text"))


def test_classes_of_saved_data_stay_in_their_order(gallery, tmp_path):
    names = ["red", "blue"]
    folder = saved(gallery, tmp_path / "d", "disk", lambda found: found.cast_column("colour", ClassLabel(names=names)))
    assert load_data(config_of(folder), make_processor())["test"].features["label"].names == names
    with pytest.raises(ValueError, match="splits: no column 'dev'; the columns are train, validation, test"):
        load_data(config_of(folder, splits={"validation": "dev"}), make_processor())
    np.testing.assert_equal(len(load_data(config_of(folder, splits={"test": "test[:5]"}), make_processor())["test"]), 5)
