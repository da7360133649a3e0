"""Secrets are found however they are written, in every kind of file; honest files pass."""

import html
import json
import struct
import time
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_selfdestruct.publish import leaks as room
from hf_selfdestruct.publish.leaks import TOKENS, leaks

HUB = "hf_" + "aB3" * 11 + "x"
USED = "of-my.own/form=1"
KNOWN = {
    "Hub": HUB,
    "OAuth": "hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzdWIi_OiI2.Zm-9v",
    "organisation": "api_org_" + "aB3" * 11,
    "GitHub": "ghp_" + "aB3" * 12,
    "fine-grained": "github_pat_" + "aB3_" * 12,
    "OpenAI": "sk-proj-" + "aB3_" * 12,
    "older OpenAI": "sk-" + "aB3" * 14,
    "AWS": "AKIA" + "ABCD2345" * 2,
    "in use": USED,
}
WRITTEN = {
    "alone": "{}",
    "after an underscore": "token_{}",
    "after a letter": "x{}",
    "in a word": "({})",
    "after a line break": "first\n{}\nlast",
    "in an address": "https://user:{}@host/",
}


@pytest.fixture(autouse=True)
def _used(monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(room, "get_token", lambda: USED)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(kind, content):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(kind, content) + chunk(b"IEND", b"")


def escaped(text):
    return "".join(f"\\u{ord(c):04x}" for c in text)


def safetensors(path, text):
    save_file({"w": np.zeros(2)}, path, metadata={"note": text})


def written(content):
    return lambda path, text: path.write_bytes(content(text))


FILES = {
    "card": ("README.md", written(lambda t: f"# Card\n\n{t}".encode())),
    "entities": ("README.md", written(lambda t: html.escape(t).replace("_", "&#95;").encode())),
    "escaped Markdown": ("README.md", written(lambda t: t.replace("_", "\\_").encode())),
    "JSON": ("config.json", written(lambda t: json.dumps({"note": [t]}).encode())),
    "a name in JSON": ("config.json", written(lambda t: json.dumps({t: 1}).encode())),
    "escaped JSON": ("report.json", written(lambda t: f'{{"note": "{escaped(t)}"}}'.encode())),
    "slashes": ("report.json", written(lambda t: json.dumps(t).replace("/", "\\/").encode())),
    "JSON in JSON": ("report.json", written(lambda t: json.dumps(json.dumps(f"\n{t}")).encode())),
    "per cent": ("vocab.txt", written(lambda t: quote(t, safe="").replace("_", "%5F").encode())),
    "tokenizer": ("tokenizer.json", written(lambda t: json.dumps({"model": {"vocab": {t: 1}}}).encode())),
    "vocabulary": ("vocab.txt", written(lambda t: f"word\n{t}\n".encode())),
    "binary tokenizer": ("spiece.model", written(lambda t: b"\n\x0e\xff\x00" + t.encode() + b"\xfe\x00")),
    "template": ("chat_template.jinja", written(lambda t: f"{{# {t} #}}".encode())),
    "not quite JSON": ("config.json", written(lambda t: f'{{"note": "{escaped(t)}",'.encode())),
    "safetensors": ("model.safetensors", safetensors),
    "PNG": ("a.png", written(lambda t: png(b"tEXt", b"Comment\0" + t.encode()))),
    "packed PNG": ("a.png", written(lambda t: png(b"zTXt", b"Comment\0\0" + zlib.compress(t.encode())))),
    "international PNG": ("a.png", written(lambda t: png(b"iTXt", b"Comment\0\0\0en\0\0" + t.encode()))),
    "packed international PNG": (
        "a.png",
        written(lambda t: png(b"iTXt", b"Comment\0\1\0en\0Wort\0" + zlib.compress(t.encode()))),
    ),
    "behind a PNG": ("a.png", written(lambda t: png(b"tEXt", b"A\0b") + t.encode())),
}


def found(tmp_path, kind, text, folder=None, **options):
    name, write = FILES[kind]
    write(tmp_path / name, text)
    return leaks([name], tmp_path, folder or tmp_path, **options)


@pytest.mark.parametrize("kind", FILES)
def test_a_token_is_found_in_every_file_however_it_stands(tmp_path, kind):
    for token in KNOWN.values():
        for form in WRITTEN.values():
            lines = found(tmp_path, kind, form.format(token))
            assert lines, (token, form)
            assert lines[0].startswith((f"{FILES[kind][0]}: seems to contain ", f"{FILES[kind][0]}: contains "))
            assert not any(token in line for line in lines)


def test_the_tokens_in_use_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "from-the-environment")
    for token in ("from-the-environment", "an-argument"):
        assert found(tmp_path, "card", token, token="an-argument") == ["README.md: contains the Hub token in use"]
    assert found(tmp_path, "card", "an-argument") == []


@pytest.mark.parametrize("kind", FILES)
def test_a_path_of_this_machine_is_found(tmp_path, kind, monkeypatch):
    folder = tmp_path / "project" / "hardened"
    data = tmp_path / "data"
    for made in (folder, data):
        made.mkdir(parents=True)
    home = tmp_path / "users" / "anna"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(data)
    for path in (folder, folder.parent, home / "models", data, data / "train.jsonl"):
        for form in ("{}", "see\n{}", "path={}", "file://{}", "({}).", "\t{}/x"):
            lines = found(tmp_path, kind, form.format(path), folder)
            assert [line for line in lines if "contains a path of this machine: /" in line], (path, form)


def test_somebody_elses_data_on_this_machine_is_found(tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert found(tmp_path, "JSON", str(other / "gone.csv"), Path("/nowhere/else"))


HONEST = (
    "/", "/tmp", "/home", "/usr/bin/env python", "and/or", "https://huggingface.co/tmp/x", "a / b", "// /// /* */",
    "hf_selfdestruct", "hf_hub_download", "task-blocking-and-other-long-words", "disk-ant-colony",
    "AKIATHIS", "sk-learn", "https://arxiv.org/abs/1907.11274", "\\usepackage{tmp}", "</s>", "/no/such/path/here",
    "a" * 64, "0123456789abcdef" * 4,
)  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_honest_words_pass(tmp_path, kind):
    assert [found(tmp_path, kind, text) for text in HONEST] == [[]] * len(HONEST)


def test_a_hardened_folder_passes_where_it_was_made_elsewhere(original, tmp_path):
    names = [p.relative_to(original).as_posix() for p in original.rglob("*") if p.is_file()]
    assert leaks(names, original, tmp_path) == []


def test_every_committed_card_passes(tmp_path):
    cards = Path(__file__).parents[2] / "model_cards"
    names = [p.relative_to(cards).as_posix() for p in cards.rglob("*") if p.suffix in (".json", ".md", ".png")]
    assert len(names) > 10
    assert leaks(names, cards, tmp_path) == []


def test_a_large_vocabulary_is_searched_in_seconds(tmp_path):
    words = {f"word{i}\\n\u00e9": i for i in range(60_000)}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"vocab": words, "last": HUB}))
    started = time.process_time()
    assert leaks(["tokenizer.json"], tmp_path, tmp_path) == [
        "tokenizer.json: seems to contain a Hugging Face Hub token"
    ]
    assert time.process_time() - started < 10


def test_every_kind_of_token_is_tried():
    assert {*TOKENS} >= {"a Hugging Face Hub token", "a GitHub token", "an API key", "an AWS key"}
