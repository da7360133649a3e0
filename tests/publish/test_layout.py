"""Beside the files of the manifest stands nothing but what training and downloads leave, and nothing is followed."""

import hashlib
import json
import os
import socket

import pytest

from hf_selfdestruct.publish.manifest import MANIFEST, REPORT, problems, write_manifest


def put(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"{}")


def listed(folder, *names):
    """The manifest of a publisher who lists what he likes."""
    write_manifest(folder)
    content = json.loads((folder / MANIFEST).read_text())
    for name in names:
        raw = (folder / name).read_bytes()
        content["files"][name] = {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    (folder / MANIFEST).write_text(json.dumps(content))


# Files

STRANGERS = (
    "config.4.0.0.json", "tokenizer.0.0.1.json", "additional_chat_templates/x.jinja", "chat_template.json",
    "sub/model.safetensors", "video_preprocessor_config.json", "1_Dense/config.json",
    "1_Pooling/model.safetensors", "tekken.json", "tokenizer.model.v3", "model.fp16.safetensors.index.json.part",
)  # fmt: skip
UNLISTED = (
    "chat_template.jinja", "vocab.json", "generation_config.json", "model.safetensors.index.json",
    "adapter_config.json", "model.sig.bak", "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip
EXECUTABLE = (
    "x.so", "x.so.1", "x.pyc", "x.joblib", "x.h5", "x.gguf", "X.GGUF", "x.msgpack", "_x/x.onnx", "_x.py",
    "checkpoint-1/model.bin", ".cache/huggingface/x.py", "runs/events.out.tfevents.1.pkl",
)  # fmt: skip


@pytest.mark.parametrize("name", [*STRANGERS, *UNLISTED])
def test_what_the_manifest_does_not_list_is_refused(folder, name):
    put(folder, name)
    assert problems(folder) == [f"{name}: not in the manifest"]


@pytest.mark.parametrize("name", EXECUTABLE)
def test_executable_and_pickled_kinds_are_refused_wherever_they_lie(folder, name):
    put(folder, name)
    assert problems(folder) == [f"{name}: can run code or hide weights, and is not part of a hardened model"]


@pytest.mark.parametrize("name", [*STRANGERS, *EXECUTABLE])
def test_a_manifest_lists_only_kinds_that_are_published(folder, name):
    put(folder, name)
    listed(folder, name)
    assert any(line.startswith(f"{name}: ") for line in problems(folder))


@pytest.mark.parametrize("name", [".gitattributes", ".cache/huggingface/download/config.json.metadata"])
def test_what_a_download_leaves_is_no_part_of_the_model(folder, name):
    put(folder, name)
    assert problems(folder) == []


PIPES = {"pipe": os.mkfifo, "socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))}


@pytest.mark.parametrize("name", ["model.safetensors", "README.md", "config.json", "x", "_x", "checkpoint-1/x"])
@pytest.mark.parametrize("kind", [*PIPES, "link", "linked folder"])
def test_what_is_no_file_is_refused_and_not_read(folder, tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(folder)  # names of sockets must be short
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind in PIPES:
        PIPES[kind](path)
    else:
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere" if "folder" in kind else tmp_path / "none")
    # A link that a lock or a staged copy replaces is not followed.
    expected = (
        [] if name == "_x" and "link" in kind else [f"{name}: is {'a link' if 'link' in kind else 'not a regular'}"]
    )
    assert [line.split(" file;")[0].split(";")[0] for line in problems(folder)] == expected


def told(folder):
    try:
        return "".join(problems(folder))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", [MANIFEST, REPORT])
def test_a_pipe_as_evidence_is_refused_and_not_read(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert name in told(folder)
