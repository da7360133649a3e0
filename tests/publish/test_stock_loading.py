"""Stock loaders read the listed files and no others, and nothing in these has code or other files loaded."""

import ctypes
import json
import os
import shutil
import struct
import sys

import pytest
from made_reports import report_of
from safetensors.numpy import load_file, save_file
from toy_project import make_tokenizer

from hf_selfdestruct.jobs.verification import verify
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.publish.manifest import MANIFEST, REPORT, problems, write_manifest
from hf_selfdestruct.trainer.attack import complete_folder

INDEX = "model.safetensors.index.json"
SHARDS = FIRST, _ = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def put(folder, name, content=b"{}"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def edited(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


# What the files ask for

ASKED = {
    "code": ({"auto_map": {"AutoModel": "x.Evil"}}, "asks for code from the repository (auto_map)"),
    "code, deep": ({"a": [{"b": {"auto_map": {"AutoModel": "x.Evil"}}}]}, "asks for code from the repository"),
    "trust": ({"sub": {"trust_remote_code": True}}, "asks for code from the repository"),
    "attention": ({"attn_implementation": "owner/kernel"}, "asks for code from the Hub (attn_implementation)"),
    "attention, of a part": ({"_attn_implementation": {"": "paged|owner/kernel@main:f"}}, "asks for code from the Hub"),
    "attention, inside": ({"_attn_implementation_internal": "x"}, None),
    "experts": ({"text_config": {"experts_implementation": "a/b"}}, "asks for code from the Hub"),
    "another configuration": (
        {"configuration_files": ["config.4.0.0.json"]},
        "asks for files that are not in the manifest",
    ),
    "other weights": ({"transformers_weights": "sub/x.safetensors"}, "asks for files that are not in the manifest"),
    "another vocabulary": ({"vocab_file": "/etc/passwd"}, "asks for files that are not in the manifest"),
    "other tokenizers": (
        {"fast_tokenizer_files": ["tokenizer.0.0.1.json"]},
        "asks for files that are not in the manifest",
    ),
    "another model": ({"audio_tokenizer": {"audio_tokenizer_name_or_path": "a/b"}}, "asks for another model"),
    "another backbone": ({"backbone": "owner/net"}, "asks for another model"),
    "a library": ({"auto_mapping": {"parent_library": "evil.x"}}, "asks for code of another library"),
    "its own name": ({"_name_or_path": "owner/base", "tokenizer_file": None, "attn_implementation": "sdpa"}, None),
}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("asked", ASKED)
def test_what_a_file_asks_for_is_refused(folder, file, asked):
    content, why = ASKED[asked]
    edited(folder / file, **content)
    write_manifest(folder)
    found = problems(folder)
    assert len(found) == (why is not None)
    assert all(line.startswith(f"{file}: {why}") for line in found)


def test_a_vocabulary_may_hold_any_word(folder):
    edited(folder / "vocab.json", auto_map=7, attn_implementation=8)
    write_manifest(folder)
    assert problems(folder) == []


STRICT = {
    "a name twice": '{"a": 1, "a": 2}',
    "no number": '{"a": NaN}',
    "too deep": '{"a": ' + "[" * 70 + "]" * 70 + "}",
    "too many": "[" + "0," * 4_000_000 + "0]",
    "no text": b"\xff\xfe",
    "a name twice, deep": '[{"a": [{"b": 1, "b": 1}]}]',
}


@pytest.mark.parametrize("file", ["tokenizer_config.json", "vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("content", STRICT)
def test_json_is_read_strictly(folder, file, content):
    content = STRICT[content]
    put(folder, file, content if isinstance(content, bytes) else content.encode())
    write_manifest(folder)
    assert [line.partition(": ")[::2][0] for line in problems(folder)] == [file]
    assert "cannot check it for requests to load code" in problems(folder)[0]


# Weights


@pytest.fixture(scope="module")
def cut(original, tmp_path_factory):
    """The folder with its weights in two files and an index; to be read only."""
    folder = shutil.copytree(original, tmp_path_factory.mktemp("cut") / "hardened")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: SHARDS[number % 2] for number, name in enumerate(sorted(weights))}
    for shard in SHARDS:
        held = {name: tensor for name, tensor in weights.items() if places[name] == shard}
        save_file(held, folder / shard, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    complete_folder(folder, report_of(folder), CardDetails())
    return folder


@pytest.fixture
def sharded(cut, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(cut, tmp_path / "sharded")


def test_sharded_weights_are_the_listed_ones(sharded):
    assert problems(sharded) == []


def moved(change):
    """An index that says something else of the weights."""

    def act(folder):
        mapped = json.loads((folder / INDEX).read_text())["weight_map"]
        (folder / INDEX).write_text(json.dumps({"weight_map": change(mapped)}))

    return act


INDEXED = {
    "another folder": (
        moved(lambda m: {n: f"_x/{p}" for n, p in m.items()}),
        f"_x/{FIRST}: required by stock loaders, but not",
    ),
    "an absolute path": (
        moved(lambda m: dict.fromkeys(m, "/x.safetensors")),
        "/x.safetensors: required by stock loaders",
    ),
    "no map": (moved(list), f"{INDEX}: has no weight_map"),
    "no text": (moved(lambda m: dict.fromkeys(m, 3)), f"{INDEX}: has no weight_map"),
    "a shard is missing": (
        lambda f: (f / FIRST).unlink(),
        f"{FIRST}: required by stock loaders, but not in the manifest",
    ),
    "another tensor": (moved(lambda m: {**m, "x": FIRST}), f"{FIRST}: contains other tensors than"),
    "tensors elsewhere": (
        moved(lambda m: {name: SHARDS[place == FIRST] for name, place in m.items()}),
        f"{FIRST}: contains other tensors than",
    ),
    "whole weights too": (lambda f: save_file({}, f / "model.safetensors"), f"{INDEX}: stock loaders do not read it"),
    "no index": (
        lambda f: (f / INDEX).unlink(),
        "model.safetensors: required by stock loaders, but not in the manifest",
    ),
}


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_names_exactly_the_listed_weights(sharded, name):
    change, why = INDEXED[name]
    change(sharded)
    write_manifest(sharded)
    assert any(line.startswith(why) for line in problems(sharded)), problems(sharded)


WEIGHTS = {
    "none": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: required by stock loaders, but not"),
    "empty": (lambda f: save_file({}, f / "model.safetensors"), "model.safetensors: contains no weights"),
    "more": (
        lambda f: save_file(load_file(f / "model.safetensors"), f / "x.safetensors"),
        "x.safetensors: stock loaders do not read it",
    ),
    "others": (
        lambda f: save_file({n: t + 1 for n, t in load_file(f / "model.safetensors").items()}, f / "model.safetensors"),
        f"{REPORT}: was measured on different weights",
    ),
    "an adapter too": (lambda f: put(f, "adapter_config.json"), "adapter_config.json: lies beside config.json"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_that_the_report_is_of(folder, name):
    change, why = WEIGHTS[name]
    change(folder)
    write_manifest(folder)
    assert any(line.startswith(why) for line in problems(folder)), problems(folder)


@pytest.mark.parametrize(
    ("base", "why"),
    [
        ("owner/base", None),
        ("base", None),
        ("other/base", "names the base 'other/base', but the card states 'owner/base'"),
        *((elsewhere, "must be the base's name on the Hub") for elsewhere in ("/x/base", "../base", "a/b/c", "", None)),
    ],
)
def test_the_base_of_an_adapter_is_the_cards(folder, base, why):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").unlink()
    edited(folder / "adapter_config.json", base_model_name_or_path=base, peft_type="LORA")
    complete_folder(folder, report_of(folder), CardDetails(base_model="" if base == "base" else "owner/base"))
    found = problems(folder)
    assert len(found) == (why is not None)
    assert all(line.startswith("adapter_config.json: ") and why in line for line in found)
    assert ("the adapter's base" in verify(str(folder), files_only=True).lines()[-1]) == (why is None)


# What is opened

IN_OPEN, IS_FOLDER = 0x20, 0x40000000


class Opened:
    """Names of the files of a folder that anything in this process or another opens meanwhile, as Linux says."""

    def __init__(self, folder):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._queue = self._libc.inotify_init1(os.O_NONBLOCK)
        self._folders = {}
        for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            prefix = "" if path == folder else f"{path.relative_to(folder).as_posix()}/"
            self._folders[self._libc.inotify_add_watch(self._queue, os.fsencode(path), IN_OPEN)] = prefix

    def names(self):
        raw, found = os.read(self._queue, 1 << 20), set()
        while raw:
            watch, mask, _, size = struct.unpack_from("iIII", raw)
            if not mask & IS_FOLDER:
                found.add(self._folders[watch] + raw[16 : 16 + size].rstrip(b"\0").decode())
            raw = raw[16 + size :]
        os.close(self._queue)
        return found


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is opened")
@pytest.mark.parametrize("kind", ["whole", "sharded", "beside"])
def test_stock_loaders_open_the_listed_files_and_no_others(folder, sharded, kind):
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    folder = sharded if kind == "sharded" else folder
    make_tokenizer().save_pretrained(folder)
    complete_folder(folder, report_of(folder), CardDetails())
    if kind == "beside":  # what would be read is seen, and refused
        put(folder, "chat_template.jinja", b"x")
    opened = Opened(folder)
    for loader in (AutoConfig, AutoTokenizer, AutoModelForSequenceClassification):
        loader.from_pretrained(folder)
    found, files = opened.names(), {*json.loads((folder / MANIFEST).read_text())["files"]}
    assert found - files == ({"chat_template.jinja"} if kind == "beside" else set())
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= found
    assert {n for n in files if "safetensors" in n} <= found
    assert problems(folder) == (["chat_template.jinja: not in the manifest"] if kind == "beside" else [])
