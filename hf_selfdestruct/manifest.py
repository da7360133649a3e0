"""The manifest: hashes of every published file, and their verification."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from .card import card_of
from .files import file_hash, read_text, write_whole
from .report import AttackReport
from .schema import checked, parse_json

MANIFEST = "selfdestruct/manifest.json"
REPORT = "selfdestruct/report.json"
# Exact names, because `tokenizer*` would also match code and pickles.
PUBLISHED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes",
    "spiece.model", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm",
    "special_tokens_map.json", "added_tokens.json", "preprocessor_config.json", "processor_config.json",
    "chat_template.jinja", "README.md", "selfdestruct/report.json", "selfdestruct/card.json", "selfdestruct/*.png",
)  # fmt: skip
CODE = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")  # what would have transformers run code
MOST_BYTES = 16 * 1024 * 1024  # of a manifest or a config
SUSPECT = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.py", "modules.json")  # the last names code
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")  # any word may stand there, and many
SIGNATURE = "model.sig"  # signs the manifest too, so that it is not in it
LEFT_BY_TRAINER = "training_args.bin"
LEFT_IN_FOLDERS = (LEFT_BY_TRAINER, "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth")
# By training, beside the model; never published.
LEFT = (LEFT_BY_TRAINER, *(f"{folder}/{name}" for folder in ("checkpoint-*", "_*") for name in LEFT_IN_FOLDERS))


def published_files(folder: str | Path) -> list[str]:
    """Files of a hardened folder that are published, as relative POSIX paths, sorted.

    An allow-list: checkpoints, pickles, logs and folders whose name starts with ``_`` never match.
    """
    folder = Path(folder)
    found = {p.relative_to(folder).as_posix() for pattern in PUBLISHED for p in folder.glob(pattern) if p.is_file()}
    return sorted(found)


def suspects(names: Iterable[str]) -> list[str]:
    """Those of some paths in a folder or a repository that can run code or hide weights, sorted."""
    return sorted(name for name in names if any(fnmatch(PurePosixPath(name).name, pattern) for pattern in SUSPECT))


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
    write_whole(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
    return path


def stamp_config(folder: str | Path, stamp: dict[str, Any]) -> None:
    """Put ``{"hf_selfdestruct": stamp}`` into the config, where stock ``transformers`` carries it along."""
    path = config_file(folder)
    config = json.loads(path.read_text(encoding="utf-8"))
    config["hf_selfdestruct"] = stamp
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def config_file(folder: str | Path) -> Path:
    """The folder's ``config.json``, or the ``adapter_config.json`` of a folder that holds only an adapter."""
    whole, adapter = Path(folder, "config.json"), Path(folder, "adapter_config.json")
    return adapter if adapter.is_file() and not whole.is_file() else whole


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
    return _changes(folder) or _disagreements(folder)


def renew_card(folder: str | Path) -> Path:
    """Render ``README.md`` again, after an edit of ``selfdestruct/card.json``, and list both in the manifest.

    Raises:
        ValueError: The folder holds no readable evidence, or another file has changed: a new manifest
            would declare the change genuine.
    """
    folder = Path(folder)
    text = card_of(folder)
    if changes := [c for c in _changes(folder) if not c.startswith(("README.md: ", "selfdestruct/card.json: "))]:
        raise ValueError(f"{folder}: no new card beside changed evidence: {'; '.join(changes)}.")
    card = folder / "README.md"
    write_whole(card, text)
    write_manifest(folder)
    return card


def _changes(folder: Path) -> list[str]:
    """Files that are not as the manifest lists them, and files that it should not stand beside."""
    listed = _listed(folder)
    found = []
    for name, facts in sorted(listed.items()):
        if not (folder / name).is_file():
            found.append(f"{name}: missing")
        elif file_hash(folder / name) != facts.get("sha256"):
            found.append(f"{name}: changed since the manifest was written")
    found += [f"{name}: not in the manifest" for name in published_files(folder) if name not in listed]
    beside = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = [name for name in beside if not any(fnmatch(name, left) for left in LEFT)]
    return found + [f"{n}: can run code or hide weights, and is no part of a hardened model" for n in suspects(names)]


def _disagreements(folder: Path) -> list[str]:
    """The config must carry the report's hash, and the card be what the report renders."""
    # A file may have been removed together with its entry in the manifest.
    config = config_file(folder).name
    if missing := [name for name in (REPORT, "README.md", config) if not (folder / name).is_file()]:
        return [f"{name}: missing" for name in missing]
    found = _dangers(folder)
    if _stamped_hash(folder) != file_hash(folder / REPORT):
        found.append(f"{config}: does not carry the hash of {REPORT}")
    if (folder / "README.md").read_bytes() != card_of(folder).encode():
        found.append(f"README.md: is not what {REPORT} and card.json render")
    return found


def _dangers(folder: Path) -> list[str]:
    """Files that ask for code of their own, or whose headers lie."""
    found = []
    for path in [p for p in sorted(folder.glob("*.json")) if p.name not in VOCABULARIES]:
        try:
            content = _object_in(path)
        except ValueError as error:
            found.append(f"{path.name}: cannot be searched for requests for code: {error}")
        else:
            found += [f"{path.name}: asks for code from the repository ({key})" for key in CODE if content.get(key)]
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            found.append(f"{path.name}: not safetensors ({error})")
    return found


def _stamped_hash(folder: Path) -> Any:
    """The report's hash in the config; ``None`` where there is none."""
    try:
        stamp = _object_in(config_file(folder)).get("hf_selfdestruct")
    except ValueError:  # told among the dangers
        return None
    return stamp.get("report_sha256") if isinstance(stamp, dict) else None


def _object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file of others, which may hold infinities; an empty one where it holds something else.

    Raises:
        ValueError: It is too large, no text or no JSON.
    """
    try:
        content = json.loads(read_text(path, MOST_BYTES))
    except RecursionError:
        raise ValueError("nested too deeply.") from None
    return content if isinstance(content, dict) else {}


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if path.parent.is_symlink():
        raise ValueError(f"{path.parent} is a link to another folder; refused.")
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: it is not a hardened folder, or was never attacked.")
    try:
        content = checked(dict[str, Any], parse_json(read_text(path, MOST_BYTES)), "manifest")
        entries: dict[str, dict[str, Any]] = checked(dict[str, dict[str, Any]], content.get("files"), "files")
    except ValueError as error:
        raise ValueError(f"{path}: not a manifest: {error}") from None
    for name in entries:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{path}: names {name!r}, a path outside the folder; refused.")
    return entries
