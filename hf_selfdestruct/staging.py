"""A copy of what will be published, checked where it lies, so that what was checked is what is sent."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .card import details_of
from .details import Gate
from .manifest import MANIFEST, SIGNATURE, VOCABULARIES, problems, published_files, renew_card
from .signing import sign

STAGING = "_staging"
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
TEXTS = (".json", ".md", ".jinja", ".txt")


@contextmanager
def staged(folder: str | Path, *, gated: str | None = None, key: str | Path | None = None) -> Iterator[Path]:
    """A folder's published files and manifest, copied, changed as asked, and verified; gone afterwards.

    An allow-list: no pickle, optimizer state, log or checkpoint gets here.

    Args:
        folder: A hardened folder.
        gated: ``auto`` or ``manual``: the card in the copy asks for it.
        key: Private key to sign the copy with.

    Yields:
        The copy.

    Raises:
        ValueError: The folder has no evidence, does not agree with its manifest, or holds a token or a path of this
            machine in a file that would be published.
    """
    folder = Path(folder)
    if found := problems(folder):
        raise ValueError(f"{folder} is not published: {'; '.join(found)}.")
    copy = folder / STAGING
    if copy.is_symlink():  # a stranger's: what it points to is neither ours to fill nor to publish
        copy.unlink()
    elif copy.exists():  # of a push that was killed
        shutil.rmtree(copy)
    try:
        for name in (*published_files(folder), MANIFEST, *([SIGNATURE] if (folder / SIGNATURE).is_file() else [])):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        if gated is not None:
            _gate(copy, gated)
            if key is None and (copy / SIGNATURE).is_file():
                raise ValueError(f"{folder}: {SIGNATURE} signs a card without this gate; sign again with --sign KEY.")
        if found := problems(copy) + _secrets(copy, folder):
            raise ValueError(f"{folder} is not published: {'; '.join(found)}.")
        if key is not None:
            sign(copy, key)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def staged_files(copy: str | Path) -> dict[str, int]:
    """Every file of a staged copy, as relative POSIX paths, with its size in bytes."""
    found = (path for path in Path(copy).rglob("*") if path.is_file())
    return {path.relative_to(copy).as_posix(): path.stat().st_size for path in sorted(found)}


def _gate(copy: Path, mode: str) -> None:
    details = details_of(copy)
    gate = Gate(mode, details.gate.prompt, details.gate.fields)
    (copy / "selfdestruct" / "card.json").write_text(
        dataclasses.replace(details, gate=gate).to_json(), encoding="utf-8"
    )
    renew_card(copy)


def _secrets(copy: Path, folder: Path) -> list[str]:
    """Files that would tell more than they should."""
    found = []
    for name in staged_files(copy):
        if not name.endswith(TEXTS) or name in VOCABULARIES:
            continue
        text = (copy / name).read_text(encoding="utf-8", errors="replace")
        if TOKEN.search(text):
            found.append(f"{name}: holds what looks like a Hub token")
        for path in {str(folder.resolve()), str(Path.home()), str(Path.cwd())} - {"/"}:
            if re.search(rf"(?<![\w.]){re.escape(path)}(?!\w)", text):
                found.append(f"{name}: holds a path of this machine: {path}")
    return sorted(found)
