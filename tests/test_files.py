"""Weights are hashed once, and again when they change."""

import os

import pytest

from hf_selfdestruct import files
from hf_selfdestruct.files import file_hash, weights_hash


@pytest.fixture
def reads(monkeypatch):
    """The paths that were hashed, in order."""
    seen = []
    monkeypatch.setattr(files, "file_hash", lambda *paths: seen.append(paths) or file_hash(*paths))
    return seen


def test_weights_are_read_once(tmp_path, reads):
    parts = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for number, part in enumerate(parts):
        part.write_bytes(bytes([number] * 8))
    assert weights_hash(tmp_path) == weights_hash(str(tmp_path)) == file_hash(*parts)
    assert len(reads) == 1


@pytest.mark.parametrize("change", ["content", "size", "another file", "replaced"])
def test_changed_weights_are_read_again(tmp_path, change):
    part = tmp_path / "a.safetensors"
    part.write_bytes(b"12345678")
    os.utime(part, ns=(1, 1))
    before = weights_hash(tmp_path)
    if change == "content":
        part.write_bytes(b"12345679")
    elif change == "size":
        part.write_bytes(b"1234567")
        os.utime(part, ns=(1, 1))
    elif change == "another file":
        (tmp_path / "b.safetensors").write_bytes(b"0")
    else:  # as downloads and atomic writes do
        (tmp_path / "new").write_bytes(b"12345679")
        os.utime(tmp_path / "new", ns=(1, 1))
        (tmp_path / "new").replace(part)
    assert weights_hash(tmp_path) != before
    assert weights_hash(tmp_path) == file_hash(*sorted(tmp_path.glob("*.safetensors")))


def test_a_folder_without_weights_has_no_hash(tmp_path):
    assert weights_hash(tmp_path) == weights_hash(tmp_path / "nowhere") == ""
