"""The adversary's state beside the Trainer's checkpoints: saved and restored."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.trainer_utils import rotate_checkpoints

from ..hardening.simulator import POOL
from . import intact
from .intact import MEMBER_FILE, OWN_FILES, STATE_FILE
from .recipe import settings_of

if TYPE_CHECKING:
    from .base import HardeningTrainer

EXTRA = "run."

logger = logging.getLogger(__name__)


def save_state(trainer: HardeningTrainer, folder: Path) -> None:
    """Write the objective's state, and some numbers of the run, into a checkpoint folder.

    Each adversary of a pool has a file of its own, so that a pool on disk is never in memory as a whole. A process that
    has a pool of its own writes its adversaries; the main process writes the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, files, main = trainer.objective.state_dict(), _member_files(trainer), trainer.args.should_save
    if main or trainer.args.adversary_settings.scope == "local":
        for prefix, name in files.items():
            _save({n: value for n, value in state.items() if n.startswith(prefix)}, folder / name)
    if main:
        numbers = {EXTRA + n: torch.tensor(value, dtype=torch.float64) for n, value in _numbers(trainer).items()}
        shared = {n: value for n, value in state.items() if not n.startswith(tuple(files))}
        _save(shared | numbers, folder / STATE_FILE)


def load_state(trainer: HardeningTrainer, folder: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What :func:`save_state` wrote: the state of this process's objective, and the numbers of the run."""
    state = load_file(folder / STATE_FILE)
    numbers = {n.removeprefix(EXTRA): state.pop(n).item() for n in [*state] if n.startswith(EXTRA)}
    for name in _member_files(trainer).values():
        if (folder / name).is_file():
            state |= load_file(folder / name)
    return state, numbers


def _member_files(trainer: HardeningTrainer) -> dict[str, str]:
    """The file of each adversary of this process's pool, by how the names of its state begin."""
    members = trainer.objective.simulator.members
    if members is None:
        return {}
    return {f"{POOL}{number}/": MEMBER_FILE.format(number + 1, members.total) for number in members.numbers}


def _save(state: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, file)


def restore(trainer: HardeningTrainer, folder: str | Path) -> None:
    """Restore everything of a run but what ``Trainer`` restores.

    Raises:
        ValueError: The checkpoint is damaged, or that of another model, of other tasks or adversaries, or of another
            recipe.
    """
    intact.check(folder, trainer.plain_model())
    intact.check_recipe(folder, settings_of(trainer))
    processes = len([*Path(folder).glob("rng_state*.pth")])
    if processes != trainer.args.world_size:
        logger.warning(
            "%s was written by %d processes, and %d go on from it: they draw other random numbers than an "
            "uninterrupted run would.",
            *(folder, processes, trainer.args.world_size),
        )
    state, numbers = load_state(trainer, Path(folder))
    try:
        trainer.objective.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"cannot resume from {folder}: {error}") from None
    trainer.trained_before, trainer.guarded_step = numbers["seconds"], int(numbers["guarded_step"])
    if trainer.guard and "guard.factor" in numbers:
        trainer.guard.load_state_dict({"factor": numbers["guard.factor"], "best": numbers.get("guard.best")})


def _numbers(trainer: HardeningTrainer) -> dict[str, float]:
    guard = trainer.guard.state_dict() if trainer.guard else {}
    known = {f"guard.{name}": value for name, value in guard.items() if value is not None}
    return {"seconds": trainer.seconds(), "guarded_step": trainer.guarded_step, **known}


@contextmanager
def writing(trainer: HardeningTrainer, folder: Path) -> Iterator[None]:
    """Put the adversary's state beside a checkpoint of ``Trainer``, and seal it; older ones are deleted only then.

    Args:
        trainer: The trainer.
        folder: The checkpoint.

    Raises:
        OSError: It could not be written; with what was wrong, and how much room there is.
    """
    args, limit = trainer.args, trainer.args.save_total_limit
    try:
        if args.should_save:
            (folder / intact.SEAL).unlink(missing_ok=True)  # of a checkpoint that is written anew
        save_state(trainer, folder)
        args.save_total_limit = None
        yield
        trainer.accelerator.wait_for_everyone()  # each process writes its own random state
        if args.should_save:
            intact.seal(folder, trainer.plain_model(), settings_of(trainer))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer raises a RuntimeError
        room = shutil.disk_usage(folder.parent).free / 1e6
        raise OSError(
            f"the checkpoint {folder} could not be written ({error}); {room:,.0f} MB are free there. Earlier "
            "checkpoints are intact: make room, and go on by train(resume_from_checkpoint=True)."
        ) from error
    finally:
        args.save_total_limit = limit
    if args.should_save:
        best = trainer.state.best_model_checkpoint
        rotate_checkpoints(str(folder.parent), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)


def load_renamed(model: PreTrainedModel, folder: str | Path) -> bool:
    """Load a checkpoint whose files call weights otherwise than the model does, as those of ViT do.

    ``Trainer`` loads files by their names alone: layers would silently stay as they are. ``from_pretrained`` knows the
    old names.

    Returns:
        Whether it was such a checkpoint; another one is not loaded.
    """
    known = {*model.state_dict()}
    if all(name in known for file in Path(folder).glob("*.safetensors") for name in _names_in(file)):
        return False
    found = type(model).from_pretrained(str(folder), config=model.config, dtype=model.dtype, use_safetensors=True)
    model.load_state_dict(found.state_dict())
    return True


def _names_in(file: Path) -> list[str]:
    if file.name.startswith(OWN_FILES):
        return []
    with safe_open(file, framework="pt") as content:
        return list(content.keys())
