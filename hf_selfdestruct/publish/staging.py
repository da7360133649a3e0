"""Copy the files to publish and check the copy, so that exactly the checked files are sent."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..files import file_hash, locked, read_text
from ..untrusted_json import checked, parse_json
from .card import details_of
from .card_details import Gate
from .leaks import leaks
from .manifest import CURE, MANIFEST, MOST_BYTES, REPORT, SIGNATURE, problems, published_files, renew_card
from .signing import sign

STAGING = "_staging-"
WAIT = 120.0  # seconds for another process to copy the same folder
Plan = dict[str, tuple[int, str]]


@contextmanager
def staged(
    folder: str | Path, *, gated: str | None = None, key: str | Path | None = None, token: str | None = None
) -> Iterator[Path]:
    """Copy a folder's published files and manifest, apply the gate, verify and sign the copy; delete it on exit.

    An allow-list: pickles, optimizer states, logs and checkpoints are not copied. Each call has its own copy, so
    several processes may stage a folder at once.

    Args:
        folder: A hardened folder.
        gated: ``auto`` or ``manual``: gate to set in the copy's card.
        key: Private key to sign the copy with.
        token: The Hub token in use, which no file may contain.

    Yields:
        The copy.

    Raises:
        ValueError: The folder has no evidence, does not match its manifest, has a token or a path of this machine in a
            file to publish, or is in use by another process.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; check the path.")
    with ExitStack() as held:
        with locked(folder, wait=WAIT):
            copy = held.enter_context(_own_place(folder)) / "copy"
            _fill(copy, folder, gated, key)
            if found := problems(copy) + leaks(staged_files(copy), copy, folder, token=token):
                raise ValueError(f"{folder} was not published: {'; '.join(found)}.")
            if key is not None:
                sign(copy, key)
        yield copy


@contextmanager
def _own_place(folder: Path) -> Iterator[Path]:
    """Create a temporary directory on the folder's disk; its lock marks it as in use for other processes."""
    own = f"{STAGING}{os.getpid()}-"
    for left in folder.glob(f"{STAGING}*"):
        # Left by killed pushes; a link is untrusted, and a locked directory is in use.
        if left.is_dir() and not left.is_symlink() and not left.name.startswith(own):
            with suppress(ValueError, OSError), locked(left):
                shutil.rmtree(left, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=own, dir=folder))
    try:
        with locked(place):
            yield place
    finally:
        # Not while another process lists the folder; if that takes too long, the next push removes the directory.
        with suppress(ValueError), locked(folder, wait=5.0):
            shutil.rmtree(place, ignore_errors=True)


def _fill(copy: Path, folder: Path, gated: str | None, key: str | Path | None) -> None:
    if found := problems(folder):
        raise ValueError(f"{folder} was not published: {'; '.join(found)}. {CURE}")
    for name in (*published_files(folder), MANIFEST, *([SIGNATURE] if (folder / SIGNATURE).is_file() else [])):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, copy / name)
    if gated is not None:
        _gate(copy, gated)
        if key is None and (copy / SIGNATURE).is_file():
            raise ValueError(f"{folder}: {SIGNATURE} covers a card without this gate; sign again with --sign KEY.")


def staged_files(copy: str | Path) -> dict[str, int]:
    """List every file of a staged copy by relative POSIX path, with its size in bytes."""
    found = (path for path in Path(copy).rglob("*") if path.is_file())
    return {path.relative_to(copy).as_posix(): path.stat().st_size for path in sorted(found)}


def plan_of(copy: str | Path) -> Plan:
    """Return the size and the SHA-256 of every file that a push must send.

    Returns:
        The manifest's files, the manifest itself, and the signature if there is one.

    Raises:
        ValueError: The copy has no manifest, or the manifest lists no complete model.
    """
    copy = Path(copy)
    content = checked(dict[str, Any], parse_json(read_text(copy / MANIFEST, MOST_BYTES)), "manifest")
    files = checked(dict[str, dict[str, Any]], content.get("files"), "files")
    plan = {name: (facts["size"], facts["sha256"]) for name, facts in files.items()}
    missing = [name for name in (REPORT, "README.md") if name not in plan]
    if missing or not any(name.endswith(".safetensors") for name in plan):
        raise ValueError(f"{MANIFEST} lists no {missing[0] if missing else 'weights'}; nothing was published.")
    beside = [name for name in (MANIFEST, SIGNATURE) if (copy / name).is_file()]
    return plan | {name: ((copy / name).stat().st_size, file_hash(copy / name)) for name in beside}


def _gate(copy: Path, mode: str) -> None:
    details = details_of(copy)
    gate = Gate(mode, details.gate.prompt, details.gate.fields)
    (copy / "selfdestruct" / "card.json").write_text(
        dataclasses.replace(details, gate=gate).to_json(), encoding="utf-8"
    )
    renew_card(copy)
