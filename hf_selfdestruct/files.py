"""Files: read without surprises, hashed, locked, and written whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from filelock import FileLock, Timeout

MOST_TOLD = 400  # characters of somebody else's error
LOCK = "_lock"


def printable(text: str) -> str:
    """A stranger's text with control characters escaped, line breaks included: a terminal obeys none of them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: BaseException) -> str:
    """The message of an error on one line, control characters escaped; the error's name where it has no message."""
    words = printable(" ".join(str(error).split()))
    return (words if len(words) <= MOST_TOLD else f"{words[:MOST_TOLD]} ...") or type(error).__name__


@contextmanager
def locked(folder: str | Path, *, wait: float = 0.0) -> Iterator[None]:
    """The only process that writes into a folder; nested uses by one process are allowed.

    Args:
        folder: An existing folder; the lock is its file ``_lock``, and ends with the process that has it.
        wait: Seconds to wait for another process.

    Raises:
        ValueError: Another process works in the folder.
    """
    path = Path(folder, LOCK)
    if path.is_symlink():  # a stranger's: the lock would be made where the link points to
        path.unlink()
    lock = FileLock(path, timeout=wait, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process works in {folder}: wait until it ends, or stop it, and try again.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened(path: str | Path) -> Iterator[BufferedReader]:
    """A regular file of a stranger, opened for reading; a pipe or a device would be read for ever.

    Raises:
        ValueError: It is no regular file.
        OSError: It cannot be opened.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{Path(path).name} is not a regular file; refused.")
        yield file


def file_hash(*paths: str | Path) -> str:
    """SHA-256 of the contents of regular files, one after the other, read in pieces."""
    digest = hashlib.sha256()
    for path in paths:
        with opened(path) as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def weights_hash(folder: str | Path) -> str:
    """SHA-256 of a folder's safetensors; empty where it has none.

    They may be many gigabytes and are asked for often: a process reads them again only once they have changed.
    """
    found = [(str(file), file.stat()) for file in sorted(Path(folder).glob("*.safetensors"))]
    times = ((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found)
    return _hash_of(tuple(times)) if found else ""


@functools.lru_cache(maxsize=64)
def _hash_of(files: tuple[tuple[str, int, int, int, int], ...]) -> str:
    return file_hash(*(name for name, *_ in files))


def read_text(path: str | Path, most: int) -> str:
    """The text of a file from a stranger.

    Raises:
        ValueError: It is missing, no regular file, has more bytes than ``most``, or is not UTF-8; the caller says
            which file.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError("no such file.")
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"has {path.stat().st_size} bytes; at most {most} are read.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start}).") from None


def write_whole(path: str | Path, text: str, *, private: bool = False) -> None:
    """Write a text file; a reader, or a kill half-way, never meets half of it, and no link is followed.

    Args:
        path: The file.
        text: Its content.
        private: Whether nobody but its owner may read it.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb") as file:
        file.write(text.encode())
    os.replace(part, path)
