"""The manifest: hashes of every published file, and their verification."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from .card import CardDetails, render
from .report import AttackReport

MANIFEST = "selfdestruct/manifest.json"
REPORT = "selfdestruct/report.json"
PUBLISHED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "vocab*",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model", "preprocessor_config.json",
    "chat_template.jinja", "README.md", "selfdestruct/report.json", "selfdestruct/card.json", "selfdestruct/*.png",
)  # fmt: skip


def published_files(folder: str | Path) -> list[str]:
    """Files of a hardened folder that are published, as relative POSIX paths, sorted.

    An allow-list: checkpoints, pickles, logs and folders whose name starts with ``_`` never match.
    """
    folder = Path(folder)
    found = {p.relative_to(folder).as_posix() for pattern in PUBLISHED for p in folder.glob(pattern) if p.is_file()}
    return sorted(found)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: str | Path) -> Path:
    """Hash every published file into ``selfdestruct/manifest.json``; written last, whole or not at all."""
    folder = Path(folder)
    report = AttackReport.load(folder / REPORT)
    content = {
        "files": {
            name: {"sha256": file_hash(folder / name), "size": (folder / name).stat().st_size}
            for name in published_files(folder)
        },
        "recipe": report.recipe,
        "data": {task: facts.get("fingerprints", {}) for task, facts in report.tasks.items()},
        "versions": report.versions,
        "hf_selfdestruct": importlib.metadata.version("hf-selfdestruct"),
    }
    path = folder / MANIFEST
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def stamp_config(folder: str | Path, stamp: dict[str, Any]) -> None:
    """Put ``{"hf_selfdestruct": stamp}`` into ``config.json``, where stock ``transformers`` carries it along."""
    path = Path(folder, "config.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    config["hf_selfdestruct"] = stamp
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)


def problems(folder: str | Path) -> list[str]:
    """What does not agree in a hardened folder; empty when everything does.

    Args:
        folder: A hardened folder.

    Returns:
        One line per problem, naming the file.

    Raises:
        ValueError: The folder has no readable manifest, or one that names a path outside the folder.
    """
    folder = Path(folder)
    listed = _listed(folder)
    found = []
    for name, facts in sorted(listed.items()):
        if not (folder / name).is_file():
            found.append(f"{name}: missing")
        elif file_hash(folder / name) != facts.get("sha256"):
            found.append(f"{name}: changed since the manifest was written")
    found += [f"{name}: not in the manifest" for name in published_files(folder) if name not in listed]
    return found or _disagreements(folder)


def _disagreements(folder: Path) -> list[str]:
    """The config must carry the report's hash, and the card be what the report renders."""
    found = []
    stamp = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("hf_selfdestruct", {})
    if stamp.get("report_sha256") != file_hash(folder / REPORT):
        found.append("config.json: carries the hash of another report")
    report = AttackReport.load(folder / REPORT)
    card = folder / "selfdestruct" / "card.json"
    details = CardDetails.from_dict(json.loads(card.read_text(encoding="utf-8"))) if card.is_file() else CardDetails()
    plots = [name for name in published_files(folder) if name.endswith(".png")]
    if (folder / "README.md").read_text(encoding="utf-8") != render(report, details, plots=plots):
        found.append("README.md: is not what selfdestruct/report.json and card.json render")
    return found


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: it is not a hardened folder, or was never attacked.")
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["files"]
        entries = {str(name): dict(facts) for name, facts in listed.items()}
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise ValueError(f"{path}: not a manifest: {error}.") from None
    for name in entries:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{path}: names {name!r}, a path outside the folder; refused.")
    return entries
