"""Files: hashed, and written whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

MOST_TOLD = 400  # characters of somebody else's error


def reason(error: BaseException) -> str:
    """What an error has to say, on one line, or its name where that is nothing."""
    words = " ".join(str(error).split())
    return (words if len(words) <= MOST_TOLD else f"{words[:MOST_TOLD]} ...") or type(error).__name__


def file_hash(*paths: str | Path) -> str:
    """SHA-256 of the contents of files, one after the other; none is held in memory."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def weights_hash(folder: str | Path) -> str:
    """SHA-256 of a folder's safetensors; empty where it has none.

    They may be many gigabytes and are asked for often: a process reads them again only once they have changed.
    """
    found = [(str(file), file.stat()) for file in sorted(Path(folder).glob("*.safetensors"))]
    return _hash_of(tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in found)) if found else ""


@functools.lru_cache(maxsize=64)
def _hash_of(files: tuple[tuple[str, int, int, int], ...]) -> str:
    return file_hash(*(name for name, *_ in files))


def read_text(path: str | Path, most: int) -> str:
    """The text of a file from a stranger.

    Raises:
        ValueError: It is missing, has more bytes than ``most``, or is not UTF-8; the caller says which file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError("no such file.")
    if (size := path.stat().st_size) > most:
        raise ValueError(f"has {size} bytes; at most {most} are read.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start}).") from None


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file; a reader, or a kill half-way, never meets half of it, and no link is followed."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.write_text(text, encoding="utf-8", newline="")
    os.replace(part, path)
