"""Layout of a hardened folder: the published files, and the files allowed beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

MANIFEST = "selfdestruct/manifest.json"
REPORT = "selfdestruct/report.json"
CARD = "selfdestruct/card.json"
SIGNATURE = "model.sig"  # not listed in the manifest, which it signs
# Files of a sentence encoder. The first one names classes; sentence_files checks them.
MODULES = "modules.json"
SENTENCE_FILES = ("sentence_bert_config.json", "config_sentence_transformers.json")
SENTENCE_FOLDERS = ("[0-9]_Pooling/config.json", "[0-9]_Normalize/config.json")
# Exact names, because `tokenizer*` would also match code and pickles.
PUBLISHED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes",
    "spiece.model", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm",
    "special_tokens_map.json", "added_tokens.json", "preprocessor_config.json", "processor_config.json",
    "chat_template.jinja", "README.md", REPORT, CARD, "selfdestruct/*.png", MODULES, *SENTENCE_FILES,
    *SENTENCE_FOLDERS,
)  # fmt: skip
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")  # large, with arbitrary words as keys
# Executable and pickled files, and weights in other formats than safetensors; the last name can run code.
SUSPECT = (
    "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.dill", "*.joblib", "*.npy", "*.npz", "*.h5", "*.keras",
    "*.gguf", "*.ggml", "*.msgpack", "*.onnx", "*.pb", "*.tflite", "*.ot", "*.nemo", "*.distcp", "*.llamafile",
    "*.py", "*.pyc", "*.pyo", "*.pyd", "*.pyz", "*.ipynb", "*.so", "*.so.*", "*.dll", "*.dylib", "*.exe",
    "*.sh", "*.bat", "*.jar", "*.whl", "*.egg", "*.zip", "*.tar", "*.tar.*", "*.tgz", "*.7z", MODULES,
)  # fmt: skip

# Only these files may lie beside the published ones:
# 1. on the publisher's machine, files that training leaves; no stock loader reads them.
LEFT_BY_TRAINER = "training_args.bin"
LEFT_FILES = ("_*", LEFT_BY_TRAINER, "trainer_state.json", "*_results.json")
LEFT_IN_FOLDERS = ("_*/**", "checkpoint-*/**", "runs/**/events.out.tfevents.*")
LEFT_BY_KILLED_WRITES = tuple(
    f"{n}.part" for n in ("README.md", "config.json", "adapter_config.json", REPORT, MANIFEST)
)
# Pickles that Trainer writes; its folders must not contain any others.
TRAINERS_PICKLES = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth")
# 2. beside a download, files of Git and of the Hub's client.
LEFT_BY_DOWNLOADS = (".gitattributes", ".cache/huggingface/**")


def is_published(name: str) -> bool:
    """Whether files with this relative POSIX path are published."""
    return _matches(name, PUBLISHED)


def published_files(folder: str | Path) -> list[str]:
    """List the published files of a hardened folder as relative POSIX paths, sorted.

    An allow-list: checkpoints, pickles, logs and folders whose name starts with ``_`` never match.
    """
    folder = Path(folder)
    found = {p.relative_to(folder).as_posix() for pattern in PUBLISHED for p in folder.glob(pattern) if p.is_file()}
    return sorted(found)


def suspects(names: Iterable[str]) -> list[str]:
    """Return the paths that can run code or hide weights, sorted."""
    return sorted(n for n in names if any(fnmatchcase(PurePosixPath(n).name.lower(), p) for p in SUSPECT))


def config_file(folder: str | Path) -> Path:
    """Return the path of ``config.json``, or of ``adapter_config.json`` if the folder contains only an adapter."""
    whole, adapter = Path(folder, "config.json"), Path(folder, "adapter_config.json")
    return adapter if adapter.is_file() and not whole.is_file() else whole


def strays(folder: Path, listed: Container[str], *, alone: bool, links: Path | None) -> dict[str, str]:
    """Find files that must not lie beside those of the manifest; no file is opened and no link followed.

    Args:
        folder: The folder.
        listed: Files of the manifest.
        alone: Whether to refuse files that training leaves on the publisher's machine, too.
        links: Folder that links may point to; by default links are refused.

    Returns:
        The problem of each file, by path.
    """
    found = {}
    for name, entry in _entries(folder):
        known = name in listed or name in (MANIFEST, SIGNATURE)
        if entry.is_symlink():
            replaced = not alone and name.startswith("_") and "/" not in name  # replaced by a lock or a staged copy
            if not (replaced or (known and links and Path(entry.path).resolve().parent == links)):
                found[name] = "is a link; refused"
        elif not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            found[name] = "is not a regular file; refused"
        elif known:
            continue
        elif suspects([name]) and not (_is_left(name, alone) and _matches(PurePosixPath(name).name, TRAINERS_PICKLES)):
            found[name] = "can run code or hide weights, and is not part of a hardened model"
        elif not _is_left(name, alone):
            found[name] = "not in the manifest"
    return found


def is_left_by_download(name: str) -> bool:
    """Whether a file beside a published model belongs to Git or to the Hub's client."""
    return _matches(name, LEFT_BY_DOWNLOADS)


def _is_left(name: str, alone: bool) -> bool:
    patterns = () if alone else (*LEFT_FILES, *LEFT_IN_FOLDERS, *LEFT_BY_KILLED_WRITES)
    return is_left_by_download(name) or _matches(name, patterns)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path matches a pattern: ``*`` stays within a folder, ``**`` does not."""
    return any(("**" in p or p.count("/") == name.count("/")) and fnmatchcase(name, p) for p in patterns)


def _entries(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every entry below a folder, except folders, with its relative POSIX path."""
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                name = f"{inner}/{entry.name}" if inner else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    yield name, entry
