"""The manifest: hashes of every published file, and what does not agree with them."""

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
CURE = "Put these files back as they were, or attack again: trainer.attack() writes the evidence anew."
# Written anew with a card; the last two are what a write that was killed leaves.
RENEWED = ("README.md", CARD, "README.md.part", f"{MANIFEST}.part")


@dataclass(frozen=True)
class Listed:
    """What a manifest says of a file.

    Attributes:
        sha256: Its hash.
        size: Its size in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        files: Every published file but the manifest and the signature, by its relative POSIX path.
        recipe: The report's.
        data: Blocked task to the fingerprints of its splits.
        versions: Packages that attacked.
        hf_selfdestruct: The version of this package that wrote it.
    """

    files: dict[str, Listed]
    recipe: dict[str, Any]
    data: dict[str, dict[str, SplitFacts]]
    versions: dict[str, str]
    hf_selfdestruct: str


def write_manifest(folder: str | Path) -> Path:
    """Hash every published file into ``selfdestruct/manifest.json``; written last, whole or not at all."""
    folder = Path(folder)
    files = {n: Listed(file_hash(folder / n), (folder / n).stat().st_size) for n in published_files(folder)}
    content = _manifest_of(AttackReport.load(folder / REPORT), files, __version__)
    path = folder / MANIFEST
    write_whole(path, json.dumps(dataclasses.asdict(content), indent=1, sort_keys=True) + "\n")
    return path


def read_manifest(folder: str | Path, *, links: Path | None = None) -> Manifest:
    """The manifest of a folder.

    Args:
        folder: The folder.
        links: Where it may be a link to; by default nowhere.

    Raises:
        ValueError: There is none, it is no manifest, or it names a path outside the folder.
    """
    path = Path(folder, MANIFEST)
    for one in (path.parent, path):
        if one.is_symlink() and one.resolve().parent != links:
            raise ValueError(f"{one} is a link to another folder; refused.")
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: it is not a hardened folder, or was never attacked.")
    try:
        found: Manifest = checked(Manifest, parse_json(read_text(path, MOST_BYTES)), "manifest")
    except ValueError as error:
        raise ValueError(f"{path}: not a manifest: {error}") from None
    for name, facts in found.files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{path}: names {name!r}, a path outside the folder; refused.")
        if not re.fullmatch("[0-9a-f]{64}", facts.sha256) or facts.size < 0:
            raise ValueError(f"{path}: not a manifest: {name!r} has no SHA-256 or size.")
    return found


def stamp_config(folder: str | Path, stamp: dict[str, Any]) -> None:
    """Put ``{"hf_selfdestruct": stamp}`` into the config, where stock ``transformers`` carries it along."""
    path = config_file(folder)
    config = json.loads(path.read_text(encoding="utf-8"))
    config["hf_selfdestruct"] = stamp
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def problems(folder: str | Path, *, alone: bool = False, links: Path | None = None) -> list[str]:
    """What does not agree in a hardened folder; empty when everything does.

    Whatever the manifest does not list is a problem, but for what :mod:`layout` names.

    Args:
        folder: A hardened folder.
        alone: Whether what training leaves on the publisher's machine is a problem too.
        links: Where links of its files may point to; by default nowhere.

    Returns:
        One line per problem, naming the file; strangers' words in it may hold control characters.

    Raises:
        ValueError: The folder has no readable manifest, or one that names a path outside the folder.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, links=links)
    return _changes(folder, manifest, alone=alone, links=links) or _disagreements(folder, manifest)


def renew_card(folder: str | Path) -> Path:
    """Render ``README.md`` again, after an edit of ``selfdestruct/card.json``, and list both in the manifest.

    Raises:
        ValueError: The folder holds no readable evidence, or another file has changed: a new manifest
            would declare the change genuine.
    """
    folder = Path(folder)
    AttackReport.load(folder / REPORT)
    found = _changes(folder, read_manifest(folder), alone=False, links=None)
    if changes := [line for line in found if not line.startswith(tuple(f"{name}: " for name in RENEWED))]:
        raise ValueError(f"{folder}: no new card beside changed evidence: {'; '.join(changes)}. {CURE}")
    card = render_folder(folder)
    write_manifest(folder)
    return card


def _manifest_of(report: AttackReport, files: dict[str, Listed], version: str) -> Manifest:
    data = {task: facts.fingerprints for task, facts in report.tasks.items()}
    return Manifest(files, report.recipe, data, report.versions, version)


def _changes(folder: Path, manifest: Manifest, *, alone: bool, links: Path | None) -> list[str]:
    """Files that are not as the manifest lists them, and files that stand there beside those."""
    found = strays(folder, manifest.files, alone=alone, links=links)
    for name, facts in manifest.files.items():
        path = folder / name
        if not is_published(name):
            found[name] = "is in the manifest, and no kind of file that a hardened model is published with"
        elif name in found:
            continue
        elif not path.is_file():
            found[name] = "missing"
        elif (size := path.stat().st_size) != facts.size:
            found[name] = f"changed since the manifest was written: has {size} bytes, and {facts.size} are listed"
        elif file_hash(path) != facts.sha256:
            found[name] = "changed since the manifest was written"
    return [f"{name}: {what}" for name, what in sorted(found.items())]


def _disagreements(folder: Path, manifest: Manifest) -> list[str]:
    """What the listed files say of each other: weights, configuration, report, manifest and card."""
    # A file may have been removed together with its entry in the manifest.
    config = config_file(folder).name
    if missing := [name for name in (REPORT, "README.md", config) if name not in manifest.files]:
        return [f"{name}: missing" for name in missing]
    contents, found = parsed_files(folder, manifest.files)
    try:
        report, details = AttackReport.load(folder / REPORT), details_of(folder)
    except ValueError as error:
        return [*found, f"{REPORT}: cannot be read: {error}"]
    found += dangers(folder, [*manifest.files], contents, base=details.base_model)
    found += sentence_problems([*manifest.files], contents)
    stamp = contents[config].get("hf_selfdestruct") if isinstance(contents.get(config), dict) else None
    if not isinstance(stamp, dict) or stamp.get("report_sha256") != manifest.files[REPORT].sha256:
        found.append(f"{config}: does not carry the hash of {REPORT}")
    if not report.sha256("hardened") or report.sha256("hardened") != weights_hash(folder):
        found.append(f"{REPORT}: was measured on other weights than the folder's")
    if _manifest_of(report, manifest.files, manifest.hf_selfdestruct) != manifest:
        found.append(f"{MANIFEST}: says other things of the recipe, the data or the versions than {REPORT}")
    plots = sorted(name for name in manifest.files if name.endswith(".png"))
    if read_text(folder / "README.md", MOST_BYTES) != render(report, details, plots=plots):
        found.append(f"README.md: is not what {REPORT} and card.json render{_by(manifest.hf_selfdestruct)}")
    return found


def _by(version: str) -> str:
    if version == __version__:
        return ""
    return f" in hf_selfdestruct {__version__}; {version} wrote it: verify it with that version"
