"""Find secrets in files before they are published: tokens and paths of this machine, escaped or not."""

from __future__ import annotations

import html
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import get_token

from ..files import opened

# No word boundary before a token: an escaped line break or an underscore would be part of the word.
TOKENS = {
    "a Hugging Face Hub token": r"hf_(?:oauth|jwt)_[\w.-]{16,}|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}",
    "a GitHub token": r"gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,}",
    "a GitLab token": r"glpat-[\w-]{20,}",
    "an API key": r"sk-[A-Za-z0-9]{20,}|sk-(?:proj|ant|svcacct|admin)-(?=[\w-]*\d)[\w-]{20,}|AIza[\w-]{35}",
    "an AWS key": r"A(?:KIA|SIA)[A-Z0-9]{16}",
    "a Slack token": r"xox[abeprs]-[\w-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
SHORTEST = 8  # minimum characters of a token in use: a shorter one also occurs in ordinary text
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
LINES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
ROUNDS = 4  # of unescaping: the card may show JSON inside JSON strings
PATH = re.compile(r"(?<![\w.])/[^\s\"'`<>|:;,()\[\]{}*?\\]+")
# Folders of every machine reveal nothing about this one.
EVERYWHERE = ("bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr", "var", "System", "Library")
MOST_HEADER = 128 * 1024 * 1024  # maximum bytes of a safetensors header; safetensors itself reads at most 100 MB
MOST_PACKED = 16 * 1024 * 1024  # maximum bytes of one decompressed text in a PNG


def leaks(names: Iterable[str], copy: str | Path, folder: str | Path, *, token: str | None = None) -> list[str]:
    """List the secrets that files would reveal; an empty list means they may be published.

    The search covers texts, tokenizers, the headers of safetensors and the texts in PNGs, as written and unescaped.
    It does not cover the weights and the pixels.

    Args:
        names: Files to search, relative to ``copy``.
        copy: Folder with the files.
        folder: Folder that the files were copied from.
        token: The token in use, in addition to those of ``hf auth login`` and ``HF_TOKEN``.

    Returns:
        One line for each file and kind of secret, sorted; a line shows no secret except for paths.
    """
    given = (token, get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"))
    used = {one for one in given if isinstance(one, str) and len(one) >= SHORTEST}
    own = _own_paths(Path(folder))
    found = set()
    for name in names:
        for text in _texts(Path(copy, name)):
            for form in _forms(text):
                found |= {f"{name}: seems to contain {kind}" for kind, p in TOKENS.items() if re.search(p, form)}
                found |= {f"{name}: contains the Hub token in use" for one in used if one in form}
                found |= {f"{name}: contains a path of this machine: {path}" for path in _paths(form, own)}
    return sorted(found)


def _forms(text: str) -> Iterator[str]:
    """Yield a text as written, and unescaped like JSON, HTML and URLs."""
    for _ in range(ROUNDS):
        yield text
        before, text = text, html.unescape(unquote(ESCAPE.sub(_undone, text)))
        if text == before:
            return
    yield text


def _undone(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else LINES.get(match[3], match[3])


def _own_paths(folder: Path) -> dict[str, str]:
    """Return paths that reveal this machine's user or work, with patterns that match them."""
    own = {folder.absolute(), folder.resolve(), folder.resolve().parent, Path.home(), Path.cwd()}
    patterns = {}
    for path in own:
        # `/root` alone may be a word of a vocabulary; a path below it belongs to this machine.
        end = r"(?!\w)" if len(path.parts) > 2 else r"[/\\]+\w" if path == Path.home() and len(path.parts) > 1 else None
        for name in {str(path), path.as_posix()} if end else ():
            patterns[name] = rf"(?<![\w.]){re.escape(name)}{end}".replace("\\ ", r"\s+")
    return patterns


def _paths(text: str, own: dict[str, str]) -> list[str]:
    """Find a path of this machine in a text: one of its user, or another that exists."""
    if found := [name for name, pattern in own.items() if re.search(pattern, text)]:
        return [max(found, key=len)]
    for path in sorted({*PATH.findall(text)}):
        first, *more = [part for part in path.rstrip(".").split("/") if part] or [""]
        if more and first not in EVERYWHERE and os.path.lexists(f"/{first}/{more[0]}"):
            return [f"/{first}/{more[0]}"]
    return []


def _texts(path: Path) -> Iterator[str]:
    """Yield the texts in a file."""
    with opened(path) as file:
        if path.suffix == ".safetensors":
            parts: Iterable[bytes] = [file.read(min(int.from_bytes(file.read(8), "little"), MOST_HEADER))]
        else:
            parts = _png_texts(file.read()) if path.suffix == ".png" else [file.read()]
    yield from (part.decode("utf-8", errors="replace") for part in parts)


def _png_texts(content: bytes) -> Iterator[bytes]:
    """Yield all chunks of a PNG but its pixels, and decompress compressed texts."""
    place, kind = 8, b""
    while place < len(content) and kind != b"IEND":
        size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        chunk = content[place + 8 : place + 8 + size]
        place += 12 + size
        if kind != b"IDAT":
            yield chunk
        rest = chunk.partition(b"\0")[2]  # after the keyword
        # Skip the compression method; in iTXt also the compression flag, the language and the translated keyword.
        packed = rest[2:].partition(b"\0")[2].partition(b"\0")[2] if kind == b"iTXt" else rest[1:]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            try:
                yield zlib.decompressobj().decompress(packed, MOST_PACKED)
            except zlib.error:  # not compressed, or unreadable
                continue
    yield content[place:]
