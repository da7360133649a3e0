"""Files: safe reading, hashing, locking, and atomic writing."""

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

MOST_TOLD = 400  # characters of another library's error message
LOCK = "_lock"


def printable(text: str) -> str:
    """Escape the control characters of untrusted text, line breaks included, to protect the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: BaseException) -> str:
    """Return an error's message on one line with control characters escaped, or its type if it has no message."""
    words = printable(" ".join(str(error).split()))
    return (words if len(words) <= MOST_TOLD else f"{words[:MOST_TOLD]} ...") or type(error).__name__


@contextmanager
def locked(folder: str | Path, *, wait: float = 0.0) -> Iterator[None]:
    """Lock a folder, so that only this process writes into it; one process may nest locks.

    Args:
        folder: An existing folder. The lock is its file ``_lock``; it is released when the process ends.
        wait: Seconds to wait for another process.

    Raises:
        ValueError: Another process has locked the folder.
    """
    path = Path(folder, LOCK)
    if path.is_symlink():  # untrusted: the lock would be created where the link points
        path.unlink()
    lock = FileLock(path, timeout=wait, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is using {folder}: wait for it to end, or stop it, then retry.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened(path: str | Path) -> Iterator[BufferedReader]:
    """Open an untrusted regular file for reading; reading a pipe or a device might never end.

    Raises:
        ValueError: The path is not a regular file.
        OSError: The file cannot be opened.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{Path(path).name} is not a regular file; refused.")
        yield file


def file_hash(*paths: str | Path) -> str:
    """Return the SHA-256 of the concatenated contents of regular files, read in chunks."""
    digest = hashlib.sha256()
    for path in paths:
        with opened(path) as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def weights_hash(folder: str | Path) -> str:
    """Return the SHA-256 of a folder's safetensors files; empty if there are none.

    The files may have many gigabytes, so the hash is cached and computed again only after a file has changed.
    """
    found = [(str(file), file.stat()) for file in sorted(Path(folder).glob("*.safetensors"))]
    times = ((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found)
    return _hash_of(tuple(times)) if found else ""


@functools.lru_cache(maxsize=64)
def _hash_of(files: tuple[tuple[str, int, int, int, int], ...]) -> str:
    return file_hash(*(name for name, *_ in files))


def read_text(path: str | Path, most: int) -> str:
    """Read the text of an untrusted file.

    Raises:
        ValueError: The file is missing, not regular, larger than ``most`` bytes, or not UTF-8; the caller adds the
            file's name to the message.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError("no such file.")
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"file has {path.stat().st_size} bytes; the limit is {most}.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start}).") from None


def write_whole(path: str | Path, text: str, *, private: bool = False) -> None:
    """Write a text file atomically, without following links.

    Args:
        path: The file.
        text: The content.
        private: Whether only the file's owner may read it.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb") as file:
        file.write(text.encode())
    os.replace(part, path)
