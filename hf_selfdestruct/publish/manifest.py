"""The manifest: hashes of every published file, and the checks against them."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .. import __version__
from ..files import file_hash, read_text, weights_hash, write_whole
from ..report.facts import SplitFacts
from ..report.report import AttackReport
from ..untrusted_json import checked, parse_json
from .card import details_of, render, render_folder
from .layout import (
    CARD,
    LEFT_BY_TRAINER,
    MANIFEST,
    PUBLISHED,
    REPORT,
    SIGNATURE,
    VOCABULARIES,
    config_file,
    is_published,
    published_files,
    strays,
    suspects,
)
from .sentence_files import sentence_problems
from .stock_loading import MOST_BYTES, dangers, parsed_files

__all__ = [
    "LEFT_BY_TRAINER",
    "MANIFEST",
    "PUBLISHED",
    "REPORT",
    "SIGNATURE",
    "VOCABULARIES",
    "Listed",
    "Manifest",
    "config_file",
    "problems",
    "published_files",
    "read_manifest",
    "renew_card",
    "stamp_config",
    "suspects",
    "write_manifest",
]
CURE = "Restore these files, or attack again: trainer.attack() writes new evidence."
# Files that rendering a card replaces; the last two are left by an interrupted write.
RENEWED = ("README.md", CARD, "README.md.part", f"{MANIFEST}.part")


@dataclass(frozen=True)
class Listed:
    """A file in a manifest.

    Attributes:
        sha256: Hash of the file.
        size: Size in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        files: Every published file except the manifest and the signature, by relative POSIX path.
        recipe: Recipe of the report.
        data: Task to the fingerprints of its splits.
        versions: Package versions of the attacks.
        hf_selfdestruct: Version of this package that wrote the manifest.
    """

    files: dict[str, Listed]
    recipe: dict[str, Any]
    data: dict[str, dict[str, SplitFacts]]
    versions: dict[str, str]
    hf_selfdestruct: str


def write_manifest(folder: str | Path) -> Path:
    """Write the hashes of all published files to ``selfdestruct/manifest.json``, atomically and last."""
    folder = Path(folder)
    files = {n: Listed(file_hash(folder / n), (folder / n).stat().st_size) for n in published_files(folder)}
    content = _manifest_of(AttackReport.load(folder / REPORT), files, __version__)
    path = folder / MANIFEST
    write_whole(path, json.dumps(dataclasses.asdict(content), indent=1, sort_keys=True) + "\n")
    return path


def read_manifest(folder: str | Path, *, links: Path | None = None) -> Manifest:
    """Read the manifest of a folder.

    Args:
        folder: The folder.
        links: Folder that the manifest may link to; by default links are refused.

    Raises:
        ValueError: The manifest is missing or invalid, or names a path outside the folder.
    """
    path = Path(folder, MANIFEST)
    for one in (path.parent, path):
        if one.is_symlink() and one.resolve().parent != links:
            raise ValueError(f"{one} is a link to another folder; refused.")
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: it is no hardened folder, or its model was never attacked.")
    try:
        found: Manifest = checked(Manifest, parse_json(read_text(path, MOST_BYTES)), "manifest")
    except ValueError as error:
        raise ValueError(f"{path}: not a manifest: {error}") from None
    for name, facts in found.files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{path}: lists {name!r}, a path outside the folder; refused.")
        if not re.fullmatch("[0-9a-f]{64}", facts.sha256) or facts.size < 0:
            raise ValueError(f"{path}: not a manifest: {name!r} has no valid SHA-256 or size.")
    return found


def stamp_config(folder: str | Path, stamp: dict[str, Any]) -> None:
    """Write ``{"hf_selfdestruct": stamp}`` to the config; stock ``transformers`` preserves this key."""
    path = config_file(folder)
    config = json.loads(path.read_text(encoding="utf-8"))
    config["hf_selfdestruct"] = stamp
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def problems(folder: str | Path, *, alone: bool = False, links: Path | None = None) -> list[str]:
    """List the mismatches of a hardened folder; empty if every check passes.

    A file that the manifest does not list is a problem, except those that :mod:`layout` allows.

    Args:
        folder: A hardened folder.
        alone: Whether files that training leaves on the publisher's machine are problems too.
        links: Folder that links may point to; by default links are refused.

    Returns:
        One line per problem that names the file; untrusted text in it may contain control characters.

    Raises:
        ValueError: The manifest is missing or unreadable, or names a path outside the folder.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, links=links)
    return _changes(folder, manifest, alone=alone, links=links) or _disagreements(folder, manifest)


def renew_card(folder: str | Path) -> Path:
    """Render ``README.md`` again after an edit of ``selfdestruct/card.json``, and update both in the manifest.

    Raises:
        ValueError: The evidence is missing or unreadable, or another file has changed: a new manifest would declare
            the change genuine.
    """
    folder = Path(folder)
    AttackReport.load(folder / REPORT)
    found = _changes(folder, read_manifest(folder), alone=False, links=None)
    if changes := [line for line in found if not line.startswith(tuple(f"{name}: " for name in RENEWED))]:
        raise ValueError(f"{folder}: evidence has changed, so no new card is rendered: {'; '.join(changes)}. {CURE}")
    card = render_folder(folder)
    write_manifest(folder)
    return card


def _manifest_of(report: AttackReport, files: dict[str, Listed], version: str) -> Manifest:
    data = {task: facts.fingerprints for task, facts in report.tasks.items()}
    return Manifest(files, report.recipe, data, report.versions, version)


def _changes(folder: Path, manifest: Manifest, *, alone: bool, links: Path | None) -> list[str]:
    """Find files that differ from the manifest, and files that the manifest does not list."""
    found = strays(folder, manifest.files, alone=alone, links=links)
    for name, facts in manifest.files.items():
        path = folder / name
        if not is_published(name):
            found[name] = "is in the manifest, but hardened models are not published with this kind of file"
        elif name in found:
            continue
        elif not path.is_file():
            found[name] = "missing"
        elif (size := path.stat().st_size) != facts.size:
            found[name] = f"changed since the manifest was written: has {size} bytes, but {facts.size} are listed"
        elif file_hash(path) != facts.sha256:
            found[name] = "changed since the manifest was written"
    return [f"{name}: {what}" for name, what in sorted(found.items())]


def _disagreements(folder: Path, manifest: Manifest) -> list[str]:
    """Check the listed files against each other: weights, configuration, report, manifest and card."""
    # A file may have been removed together with its entry in the manifest.
    config = config_file(folder).name
    if missing := [name for name in (REPORT, "README.md", config) if name not in manifest.files]:
        return [f"{name}: missing" for name in missing]
    contents, found = parsed_files(folder, manifest.files)
    try:
        report, details = AttackReport.load(folder / REPORT), details_of(folder)
    except ValueError as error:
        return [*found, f"{REPORT}: unreadable: {error}"]
    found += dangers(folder, [*manifest.files], contents, base=details.base_model)
    found += sentence_problems([*manifest.files], contents)
    stamp = contents[config].get("hf_selfdestruct") if isinstance(contents.get(config), dict) else None
    if not isinstance(stamp, dict) or stamp.get("report_sha256") != manifest.files[REPORT].sha256:
        found.append(f"{config}: does not contain the hash of {REPORT}")
    if not report.sha256("hardened") or report.sha256("hardened") != weights_hash(folder):
        found.append(f"{REPORT}: was measured on different weights from those in the folder")
    if _manifest_of(report, manifest.files, manifest.hf_selfdestruct) != manifest:
        found.append(f"{MANIFEST}: recipe, data or versions differ from those in {REPORT}")
    plots = sorted(name for name in manifest.files if name.endswith(".png"))
    if read_text(folder / "README.md", MOST_BYTES) != render(report, details, plots=plots):
        found.append(
            f"README.md: differs from the card rendered from {REPORT} and card.json{_by(manifest.hf_selfdestruct)}"
        )
    return found


def _by(version: str) -> str:
    if version == __version__:
        return ""
    return f" by hf_selfdestruct {__version__}; version {version} wrote it, so verify it with that version"
