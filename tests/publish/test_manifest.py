"""The manifest: every published file, nothing else, and any change to one is named."""

import hashlib
import json

import pytest

from hf_selfdestruct.publish.manifest import MANIFEST, problems, published_files, stamp_config, write_manifest

PUBLISHED = {
    "README.md",
    "config.json",
    "model.safetensors",
    "selfdestruct/attacks_and_models_gender.png",
    "selfdestruct/expected_best_gender.png",
    "selfdestruct/card.json",
    "selfdestruct/cost_to_recover_gender.png",
    "selfdestruct/report.json",
    "selfdestruct/score_against_examples_gender.png",
    "tokenizer.json",
}


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def listed(folder):
    return json.loads((folder / MANIFEST).read_text())


def rewrite(folder, **entries):
    content = listed(folder)
    content["files"].update(entries)
    (folder / MANIFEST).write_text(json.dumps(content))


def test_untouched_folder_has_no_problems(folder):
    assert problems(folder) == []


def test_manifest_lists_every_published_file_with_its_hash(folder):
    files = listed(folder)["files"]
    assert set(files) == PUBLISHED
    for name, facts in files.items():
        content = (folder / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


CHANGES = {
    "one bit of the weights": (lambda f: flip_a_bit(f / "model.safetensors"), "model.safetensors"),
    "one digit of the report": (
        lambda f: edit(f / "selfdestruct/report.json", '"accuracy": 0.52', '"accuracy": 0.51'),
        "selfdestruct/report.json",
    ),
    "a line of the card": (lambda f: edit(f / "README.md", "no guarantee", "a guarantee"), "README.md"),
    "a new weights file": (lambda f: (f / "model-2.safetensors").write_bytes(b"x"), "model-2.safetensors"),
    "a missing plot": (
        lambda f: (f / "selfdestruct/score_against_examples_gender.png").unlink(),
        "selfdestruct/score_against_examples_gender.png",
    ),
    "an edited stamp": (lambda f: stamp_config(f, {"report_sha256": "0" * 64}), "config.json"),
    "the user's words": (lambda f: edit(f / "selfdestruct/card.json", "mit", "gpl"), "selfdestruct/card.json"),
    "the tokenizer": (lambda f: (f / "tokenizer.json").write_text("[]"), "tokenizer.json"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_named(folder, change):
    act, name = CHANGES[change]
    act(folder)
    (line,) = problems(folder)
    assert line.startswith(f"{name}: ")


FORGED = {
    "report": (lambda f: edit(f / "selfdestruct/report.json", '"accuracy": 0.52', '"accuracy": 0.51'), "config.json"),
    "card": (lambda f: edit(f / "README.md", "no guarantee", "a guarantee"), "README.md"),
    "stamp": (lambda f: stamp_config(f, {"report_sha256": "0" * 64}), "config.json"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_files_that_disagree_are_named_even_with_a_new_manifest(folder, forged):
    act, name = FORGED[forged]
    act(folder)
    write_manifest(folder)
    assert any(line.startswith(f"{name}: ") for line in problems(folder))


def test_several_changes_are_all_named(folder):
    flip_a_bit(folder / "model.safetensors")
    (folder / "tokenizer.json").unlink()
    assert [line.split(":")[0] for line in problems(folder)] == ["model.safetensors", "tokenizer.json"]


# What is refused


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../x", "..\\x", "..", "C:\\x"])
def test_paths_outside_the_folder_are_refused(folder, name):
    rewrite(folder, **{name: {"sha256": "0" * 64, "size": 1}})
    with pytest.raises(ValueError, match="outside the folder"):
        problems(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", '{"files": []}', '{"files": {"a": 3}}', '{"files": null}', "[" * 100_000, "\xff"],
)
def test_broken_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"manifest\.json: not a manifest"):
        problems(folder)


LIES = {
    "another size": (lambda m: m["files"]["README.md"].update(size=1), "README.md: changed since the manifest was"),
    "an unknown field": (lambda m: m["files"]["README.md"].update(mode=7), "unknown fields: mode"),
    "no size": (lambda m: m["files"]["README.md"].pop("size"), "missing fields: size"),
    "a negative size": (lambda m: m["files"]["README.md"].update(size=-1), "'README.md' has no valid SHA-256 or size"),
    "no hash": (lambda m: m["files"]["README.md"].update(sha256="x"), "'README.md' has no valid SHA-256 or size"),
    "an unknown name": (lambda m: m.update(signed=True), "unknown fields: signed"),
    "another recipe": (lambda m: m["recipe"].update(method="none"), f"{MANIFEST}: recipe, data or versions differ"),
    "other data": (lambda m: m["data"].update(more={}), f"{MANIFEST}: recipe, data or versions differ"),
    "other versions": (lambda m: m["versions"].update(torch="1"), f"{MANIFEST}: recipe, data or versions differ"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(folder, lie):
    change, why = LIES[lie]
    content = listed(folder)
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))
    try:
        found = problems(folder)
    except ValueError as error:
        found = [str(error)]
    assert len(found) == 1
    assert why in found[0]


def test_a_name_that_stands_twice_in_a_manifest_is_refused(folder):
    edit(folder / MANIFEST, '"files": {', '"files": {}, "files": {')
    with pytest.raises(ValueError, match=r"not a manifest: duplicate name 'files'"):
        problems(folder)


def test_folder_without_manifest_is_refused(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"no selfdestruct/manifest\.json"):
        problems(folder)


@pytest.mark.parametrize("name", ["config.json", "selfdestruct/report.json", "README.md"])
def test_file_missing_from_disk_and_manifest_is_missed(folder, name):
    """Who removes a file and its entry removes the evidence, not the problem."""
    content = listed(folder)
    del content["files"][name]
    (folder / MANIFEST).write_text(json.dumps(content))
    (folder / name).unlink()
    try:
        found = problems(folder)
    except (ValueError, OSError) as error:
        found = [str(error)]
    assert any(name in line for line in found)


@pytest.mark.parametrize("config", ["[]", '{"hf_selfdestruct": "x"}', '{"hf_selfdestruct": null}', "{"])
def test_config_of_another_kind_is_named(folder, config):
    (folder / "config.json").write_text(config)
    write_manifest(folder)
    try:
        found = problems(folder)
    except ValueError as error:
        found = [str(error)]
    assert any("config.json" in line for line in found)


# What is published

LEFT_BY_TRAINING = (
    "training_args.bin", "trainer_state.json", "eval_results.json", "checkpoint-7/model.safetensors",
    "checkpoint-7/config.json", "checkpoint-7/rng_state_0.pth", "_private/README.md", "_base/config.json",
    "_undefended/checkpoint-3/optimizer.pt", "_attacks.db", "_config.json", "runs/now/events.out.tfevents.1.host",
    "selfdestruct/report.json.part",
)  # fmt: skip
PRIVATE = (
    "optimizer.pt", "pytorch_model.bin", "tokenizer.pkl", "vocab.pickle", "tokenizer_code.py", "vocab.pt", ".env",
    "selfdestruct/log.txt", "runs/model.safetensors", "sub/eval_results.json", "selfdestruct/_x.png/x",
    "fingerprint.json",
)  # fmt: skip


@pytest.mark.parametrize("name", [*LEFT_BY_TRAINING, *PRIVATE])
def test_private_files_are_never_published(folder, name):
    """What training leaves may lie there; all else is named."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\x80\x04K\x01.")
    assert set(published_files(folder)) == PUBLISHED
    found = problems(folder)
    assert len(found) == (name in PRIVATE)
    assert all(line.startswith(f"{name}: ") for line in found)
    assert f"{name}: " in "\n".join(problems(folder, alone=True))


@pytest.mark.parametrize(
    "name",
    ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer_config.json", "vocab.txt",
     "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer.model", "generation_config.json",
     "preprocessor_config.json", "chat_template.jinja"],
)  # fmt: skip
def test_what_a_stock_loader_needs_is_published(folder, name):
    (folder / name).write_bytes(b"x")
    assert name in published_files(folder)


def test_failed_write_leaves_the_old_manifest(folder):
    before = (folder / MANIFEST).read_bytes()
    (folder / f"{MANIFEST}.part").mkdir()
    with pytest.raises(OSError, match="part"):
        write_manifest(folder)
    assert (folder / MANIFEST).read_bytes() == before


def test_stamp_keeps_the_rest_of_the_config(folder):
    before = json.loads((folder / "config.json").read_text())
    stamp_config(folder, {"version": "9"})
    after = json.loads((folder / "config.json").read_text())
    assert after.pop("hf_selfdestruct") == {"version": "9"}
    stamp = before.pop("hf_selfdestruct")
    assert after == before
    assert set(stamp) == {"version", "method", "blocked_tasks", "report_sha256"}
