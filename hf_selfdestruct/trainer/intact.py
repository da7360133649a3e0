"""Checkpoints: sealed once they are complete, and checked before anything in them is used."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..files import file_hash, printable, read_text, reason, write_whole
from ..untrusted_json import checked, parse_json

SEAL = "selfdestruct_checkpoint.json"
STATE_FILE = "selfdestruct_state.safetensors"
MEMBER_FILE = "selfdestruct_pool-{:05}-of-{:05}.safetensors"  # one adversary of a pool
OWN_FILES = "selfdestruct_"  # how the names of files begin that Trainer knows nothing of
LAST_FILE = "trainer_state.json"
MOST_BYTES = 64 * 1024 * 1024  # of a seal, which names every tensor
# Without one of them Trainer goes on with another run, and says nothing.
NEEDED = {
    STATE_FILE: "the adversary's state",
    LAST_FILE: "the trainer's state",
    "optimizer*": "the optimizer's state",
    "scheduler.pt": "the scheduler's state",
    "rng_state*.pth": "the random state",
}
# What would be read if it lay beside the files that were written.
READ = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json", "config.json", "adapter_config.json")
SHAPELESS = ("model_type", "hidden_act", "num_attention_heads")  # what no tensor shows of an architecture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SealedFile:
    """Size and SHA-256 of a file when the checkpoint was complete."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Seal:
    """What a complete checkpoint holds.

    Attributes:
        model: The architecture, see :func:`architecture`.
        tensors: Shape of every tensor.
        files: Every file, by its path in the checkpoint.
        recipe: What it was trained with.
    """

    model: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    files: dict[str, SealedFile]
    recipe: dict[str, Any]


def architecture(model: PreTrainedModel) -> dict[str, Any]:
    """Class of a model, and what tells architectures apart whose tensors have equal names and shapes."""
    told = {name: getattr(model.config, name, None) for name in SHAPELESS}
    return {
        "class": type(model).__name__,
        **{name: value for name, value in told.items() if isinstance(value, str | int)},
    }


def seal(folder: Path, model: PreTrainedModel, recipe: dict[str, Any]) -> None:
    """Write down what a checkpoint holds, when all processes have written their part; whole or not at all."""
    files = {name: SealedFile((folder / name).stat().st_size, file_hash(folder / name)) for name in _files(folder)}
    content = Seal(architecture(model), _shapes(model), files, recipe)
    write_whole(folder / SEAL, json.dumps(asdict(content), indent=1) + "\n")


def check(folder: str | Path, model: PreTrainedModel, *, resuming: bool = True) -> None:
    """Refuse a checkpoint that is damaged or another model's.

    Args:
        folder: The checkpoint.
        model: The model that is to take up its weights.
        resuming: Whether training is to go on from it, which takes more than the weights.

    Raises:
        ValueError: The message names the file and the newest intact checkpoint.
    """
    try:
        _check(Path(folder), model, resuming)
    except ValueError as error:
        newest = next((str(f) for f in _newest_first(Path(folder).parent) if not fault(f, model)), None)
        instead = f"the newest intact checkpoint is {newest}." if newest else "no other checkpoint there is intact."
        raise ValueError(f"cannot load the checkpoint {folder}: {printable(str(error))}; {instead}") from None


def check_recipe(folder: str | Path, recipe: Mapping[str, Any]) -> None:
    """Refuse to go on otherwise than a checkpoint was trained: the report would state for all steps what is asked now.

    Args:
        folder: An intact checkpoint.
        recipe: What training is to go on with.

    Raises:
        ValueError: The message names the first difference.
    """
    theirs, ours = (dict(_flat(one)) for one in (_sealed(Path(folder)).recipe, json.loads(json.dumps(recipe))))
    for name in dict.fromkeys((*theirs, *ours)):
        then, now = (one.get(name) for one in (theirs, ours))  # what an earlier version did not know is None today
        if then != now:
            trained, asked = ("nothing" if value is None else printable(str(value)) for value in (then, now))
            raise ValueError(
                f"cannot resume from {folder}: it was trained with {name}={trained}, and this run has "
                f"{asked}; resume with the settings of the first run, or train afresh in another output_dir."
            )


def _flat(values: Mapping[str, Any], *names: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, *names, name)
        else:
            yield ".".join((*names, name)), value


def fault(folder: Path, model: PreTrainedModel | None = None) -> str:
    """What keeps training from going on from a checkpoint; empty where nothing does."""
    try:
        _check(folder, model, resuming=True)
    except ValueError as error:
        return printable(str(error))
    return ""


def last_complete(output_dir: str | Path | None, model: PreTrainedModel | None = None) -> str:
    """Path of the newest intact checkpoint; a newer one that is not is named in a warning.

    Args:
        output_dir: Folder of the run.
        model: The model that is to take up its weights; by default any architecture will do.

    Raises:
        ValueError: There is none.
    """
    for folder in _newest_first(Path(output_dir or ".")):
        if not (wrong := fault(folder, model)):
            return str(folder)
        logger.warning("skipping %s: %s", folder, wrong)
    raise ValueError(f"no complete checkpoint in {output_dir!r}; train without resume_from_checkpoint to start afresh.")


def begun(folder: str | Path) -> bool:
    """Whether a training was begun there that can go on; checkpoints of which none is intact are told of."""
    found = _newest_first(Path(folder))
    if any(not fault(checkpoint) for checkpoint in found):
        return True
    if found:
        logger.warning(
            "no checkpoint in %s is intact (%s: %s): training starts afresh", folder, found[0].name, fault(found[0])
        )
    return False


def _check(folder: Path, model: PreTrainedModel | None, resuming: bool) -> None:
    if not (folder / SEAL).is_file():
        raise ValueError(f"it has no {SEAL}: it is incomplete, or an earlier version wrote it")
    sealed = _sealed(folder)
    if missing := [
        what for name, what in NEEDED.items() if resuming and not any(fnmatch(f, name) for f in sealed.files)
    ]:
        raise ValueError(f"{missing[0]} is missing, which save_only_model=True leaves out")
    for name in sorted({*_files(folder)} - {*sealed.files}):
        if any(fnmatch(name, pattern) for pattern in READ):
            raise ValueError(f"{name} was put there later")
    if model is not None:
        _compare(sealed, model)
    for name, told in sealed.files.items():
        _check_file(folder, name, told)


def _sealed(folder: Path) -> Seal:
    try:
        sealed: Seal = checked(Seal, parse_json(read_text(folder / SEAL, MOST_BYTES)), "it")
    except (OSError, ValueError) as error:
        raise ValueError(f"{SEAL} is damaged ({reason(error).rstrip('.')})") from None
    return sealed


def _check_file(folder: Path, name: str, told: SealedFile) -> None:
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{name} is missing")
    stat = path.stat()
    if stat.st_size != told.size:
        raise ValueError(f"{name} has {stat.st_size} bytes, and had {told.size} when it was written")
    if _hash(str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns) != told.sha256:
        raise ValueError(f"{name} is damaged: its SHA-256 is not what it was when it was written")


@functools.lru_cache(maxsize=1024)  # found intact, chosen and loaded: a file is read once
def _hash(path: str, inode: int, size: int, time: int) -> str:
    return file_hash(path)


def _compare(sealed: Seal, model: PreTrainedModel) -> None:
    ours, shapes = architecture(model), _shapes(model)
    if sealed.model != ours:
        raise ValueError(f"it contains another model ({_words(sealed.model)}) than this run ({_words(ours)})")
    for name in sorted({*sealed.tensors} | {*shapes}):
        theirs, mine = sealed.tensors.get(name), shapes.get(name)
        if theirs != mine:
            raise ValueError(f"{name} has the shape {theirs or 'none'} in it, and {mine or 'none'} in this run's model")


def _words(told: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in told.items())


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (SEAL, f"{SEAL}.part"):
            yield path.relative_to(folder).as_posix()


def _newest_first(folder: Path) -> list[Path]:
    numbered = [f for f in folder.glob("checkpoint-*") if f.name.rpartition("-")[2].isdigit()]
    return sorted(numbered, key=lambda f: int(f.name.rpartition("-")[2]), reverse=True)
