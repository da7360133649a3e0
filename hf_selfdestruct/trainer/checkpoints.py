"""The adversary's state beside the Trainer's checkpoints: saved and restored."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from ..adversaries.learned import LearnedAdversary
from ..models.distributed import anyone
from . import intact
from .intact import STATE_FILE
from .parts import settings_of

if TYPE_CHECKING:
    from .trainer import SelfDestructTrainer

EXTRA = "run."

logger = logging.getLogger(__name__)
Learned = Mapping[tuple[str, int], LearnedAdversary]


def save_learned(learned: Learned, folder: Path, *, extra: Mapping[str, float]) -> None:
    """Write the state of every learned adversary, and some numbers of the run, into a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{task}/{number}/{key}": value.detach().cpu().contiguous().clone()
        for (task, number), adversary in learned.items()
        for key, value in adversary.state_dict().items()
    }
    tensors |= {EXTRA + name: torch.tensor(value, dtype=torch.float64) for name, value in extra.items()}
    save_file(tensors, folder / STATE_FILE)


def load_learned(learned: Learned, folder: Path) -> dict[str, float]:
    """Restore what :func:`save_learned` wrote.

    Returns:
        The numbers of the run.

    Raises:
        ValueError: It is the state of other tasks or adversaries.
    """
    tensors = load_file(folder / STATE_FILE)
    extra = {n.removeprefix(EXTRA): tensors.pop(n).item() for n in [*tensors] if n.startswith(EXTRA)}
    found = {tuple(name.split("/", 2)[:2]) for name in tensors}
    expected = {(task, str(number)) for task, number in learned}
    if found != expected:
        raise ValueError(
            f"cannot resume from {folder}: it holds adversaries {sorted(found)}, this run has {sorted(expected)}; "
            "resume with the blocked tasks and adversaries of the first run."
        )
    for (task, number), adversary in learned.items():
        prefix = f"{task}/{number}/"
        adversary.load_state_dict(
            {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
        )
    return extra


def restore(trainer: SelfDestructTrainer, folder: str | Path) -> None:
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
    numbers = load_learned(trainer.simulation.learned, Path(folder))
    trainer.trained_before, trainer.guarded_step = numbers["seconds"], int(numbers["guarded_step"])
    if trainer.guard and "guard.factor" in numbers:
        trainer.guard.load_state_dict({"factor": numbers["guard.factor"], "best": numbers.get("guard.best")})


def _numbers(trainer: SelfDestructTrainer) -> dict[str, float]:
    guard = trainer.guard.state_dict() if trainer.guard else {}
    known = {f"guard.{name}": value for name, value in guard.items() if value is not None}
    return {"seconds": trainer.seconds(), "guarded_step": trainer.guarded_step, **known}


@contextmanager
def writing(trainer: SelfDestructTrainer, folder: Path) -> Iterator[None]:
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
            save_learned(trainer.simulation.learned, folder, extra=_numbers(trainer))
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
    if file.name == STATE_FILE:
        return []
    with safe_open(file, framework="pt") as content:
        return list(content.keys())


class OuterStepCallback(TrainerCallback):
    """Lets the learned adversaries step whenever the model does, and the guard read every evaluation."""

    def __init__(self, trainer: SelfDestructTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average the gradients over processes, then step.

        Raises:
            RuntimeError: A blocking loss was due in this step, and none was added.
        """
        trainer = self._trainer
        if trainer.args.blocking_weight == 0:
            return
        if trainer.blocks_now and trainer.blocked_step != state.global_step:
            raise RuntimeError(
                f"step {state.global_step} added no blocking loss, so that the model would not be hardened: "
                f"{type(trainer).__name__}.training_step must call super().training_step(...), which adds the loss to "
                "what compute_loss returns; override compute_loss alone to change the desired loss."
            )
        for adversary in trainer.simulation.learned.values():
            # Each process draws for itself; an adversary that none has drawn keeps still, moments included.
            if not anyone(trainer.accelerator, adversary.drawn):
                continue
            for gradient in adversary.gradients():
                gradient.copy_(trainer.accelerator.reduce(gradient, reduction="mean"))
            adversary.step()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Hand the desired validation quality to the guard, once per step: a resumed run evaluates again."""
        guard, step = self._trainer.guard, state.global_step
        if guard is None or not self._trainer.is_in_train or step <= self._trainer.guarded_step:
            return
        name = str(args.metric_for_best_model or "loss")
        name = name if name.startswith("eval_") else f"eval_{name}"
        if name not in (metrics or {}):
            if isinstance(self._trainer.eval_dataset, dict):
                return  # another one of several sets
            raise ValueError(
                f"max_desired_drop guards {name!r}, which the evaluation does not give "
                f"({', '.join(metrics or {})}); set metric_for_best_model to one of them."
            )
        self._trainer.guarded_step = step
        if message := guard.update(float(metrics[name])):
            logger.warning("step %d: %s", step, message)
