"""Files are read without surprises, weights hashed once, and a folder is one process's at a time."""

import os
import stat

import pytest
from sources import in_fresh_python

from hf_selfdestruct import files
from hf_selfdestruct.files import file_hash, locked, printable, read_text, weights_hash, write_whole


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


@pytest.mark.parametrize("change", ["content", "content of the same time", "size", "another file", "replaced"])
def test_changed_weights_are_read_again(tmp_path, change):
    part = tmp_path / "a.safetensors"
    part.write_bytes(b"12345678")
    os.utime(part, ns=(1, 1))
    before = weights_hash(tmp_path)
    if change == "content":
        part.write_bytes(b"12345679")
    elif change == "content of the same time":
        part.write_bytes(b"12345679")
        os.utime(part, ns=(1, 1))
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


@pytest.mark.parametrize("read", [lambda p: read_text(p, 10), file_hash])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        read(tmp_path / "pipe")


def test_a_private_file_is_its_owners_alone(tmp_path):
    write_whole(tmp_path / "secret", "x", private=True)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    other = f"from hf_selfdestruct.files import locked\nwith locked({str(tmp_path)!r}): print('mine')"
    with locked(tmp_path), locked(tmp_path), pytest.raises(AssertionError, match="another process is using"):
        in_fresh_python(other)
    assert in_fresh_python(other) == "mine"


def test_a_lock_follows_no_link(tmp_path):
    (tmp_path / "_lock").symlink_to(tmp_path / "elsewhere")
    with locked(tmp_path):
        assert not (tmp_path / "elsewhere").exists()


def test_control_characters_never_reach_a_terminal():
    assert printable("a\x1b[2J\u202eé\n") == "a\\x1b[2J\\u202eé\\n"
