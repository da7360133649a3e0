"""What stands where in a hardened folder: the files that are published, and those that may lie beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

MANIFEST = "selfdestruct/manifest.json"
REPORT = "selfdestruct/report.json"
CARD = "selfdestruct/card.json"
SIGNATURE = "model.sig"  # signs the manifest too, so that it is not in it
# Of a sentence encoder: how sentence_transformers reads the model. The first names classes; stock_loading reads which.
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
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")  # any word may stand there, and many
# Executable and pickled kinds, and weights that no safetensors reader would check; the last name has code run.
SUSPECT = (
    "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.dill", "*.joblib", "*.npy", "*.npz", "*.h5", "*.keras",
    "*.gguf", "*.ggml", "*.msgpack", "*.onnx", "*.pb", "*.tflite", "*.ot", "*.nemo", "*.distcp", "*.llamafile",
    "*.py", "*.pyc", "*.pyo", "*.pyd", "*.pyz", "*.ipynb", "*.so", "*.so.*", "*.dll", "*.dylib", "*.exe",
    "*.sh", "*.bat", "*.jar", "*.whl", "*.egg", "*.zip", "*.tar", "*.tar.*", "*.tgz", "*.7z", MODULES,
)  # fmt: skip

# Beside the published files may lie, and nothing else:
# 1. on the publisher's machine, what training leaves there, none of which a stock loader reads.
LEFT_BY_TRAINER = "training_args.bin"
LEFT_FILES = ("_*", LEFT_BY_TRAINER, "trainer_state.json", "*_results.json")
LEFT_IN_FOLDERS = ("_*/**", "checkpoint-*/**", "runs/**/events.out.tfevents.*")
LEFT_BY_KILLED_WRITES = tuple(
    f"{n}.part" for n in ("README.md", "config.json", "adapter_config.json", REPORT, MANIFEST)
)
# Pickles that Trainer writes; all others are refused in its folders too.
TRAINERS_PICKLES = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth")
# 2. beside a download, what Git and the Hub's client need.
LEFT_BY_DOWNLOADS = (".gitattributes", ".cache/huggingface/**")


def is_published(name: str) -> bool:
    """Whether a relative POSIX path is of a kind that a hardened model is published with."""
    return _matches(name, PUBLISHED)


def published_files(folder: str | Path) -> list[str]:
    """Files of a hardened folder that are published, as relative POSIX paths, sorted.

    An allow-list: checkpoints, pickles, logs and folders whose name starts with ``_`` never match.
    """
    folder = Path(folder)
    found = {p.relative_to(folder).as_posix() for pattern in PUBLISHED for p in folder.glob(pattern) if p.is_file()}
    return sorted(found)


def suspects(names: Iterable[str]) -> list[str]:
    """Those of some paths in a folder or a repository that can run code or hide weights, sorted."""
    return sorted(n for n in names if any(fnmatchcase(PurePosixPath(n).name.lower(), p) for p in SUSPECT))


def config_file(folder: str | Path) -> Path:
    """The folder's ``config.json``, or the ``adapter_config.json`` of a folder that holds only an adapter."""
    whole, adapter = Path(folder, "config.json"), Path(folder, "adapter_config.json")
    return adapter if adapter.is_file() and not whole.is_file() else whole


def strays(folder: Path, listed: Container[str], *, alone: bool, links: Path | None) -> dict[str, str]:
    """What stands in a folder beside the files of its manifest, and may not; nothing is opened or followed.

    Args:
        folder: The folder.
        listed: Files of its manifest.
        alone: Whether what training leaves on the publisher's machine is refused too.
        links: Where links of files may point to; by default nowhere.

    Returns:
        What is wrong with each, by its path.
    """
    found = {}
    for name, entry in _entries(folder):
        known = name in listed or name in (MANIFEST, SIGNATURE)
        if entry.is_symlink():
            replaced = not alone and name.startswith("_") and "/" not in name  # of a lock or a staged copy
            if not (replaced or (known and links and Path(entry.path).resolve().parent == links)):
                found[name] = "is a link; refused"
        elif not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            found[name] = "is no regular file; refused"
        elif known:
            continue
        elif suspects([name]) and not (_is_left(name, alone) and _matches(PurePosixPath(name).name, TRAINERS_PICKLES)):
            found[name] = "can run code or hide weights, and is no part of a hardened model"
        elif not _is_left(name, alone):
            found[name] = "not in the manifest"
    return found


def is_left_by_download(name: str) -> bool:
    """Whether a file beside a published model serves Git or the Hub's client alone."""
    return _matches(name, LEFT_BY_DOWNLOADS)


def _is_left(name: str, alone: bool) -> bool:
    patterns = () if alone else (*LEFT_FILES, *LEFT_IN_FOLDERS, *LEFT_BY_KILLED_WRITES)
    return is_left_by_download(name) or _matches(name, patterns)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path matches a pattern: ``*`` stays within a folder, ``**`` does not."""
    return any(("**" in p or p.count("/") == name.count("/")) and fnmatchcase(name, p) for p in patterns)


def _entries(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder that is no folder itself, with its relative POSIX path."""
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
