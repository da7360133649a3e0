"""The adversary's state beside the Trainer's checkpoints: saved, found complete, restored."""

from __future__ import annotations

import json
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

from .learned import LearnedAdversary
from .ranks import anyone

if TYPE_CHECKING:
    from .trainer import SelfDestructTrainer

STATE_FILE = "selfdestruct_state.safetensors"
EXTRA = "run."
LAST_FILE = "trainer_state.json"  # the Trainer writes it after everything else

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
        ValueError: The folder holds no such state, or that of other tasks or adversaries.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise ValueError(
            f"cannot resume from {folder}: it has no {STATE_FILE}, so it is not a checkpoint of "
            "SelfDestructTrainer or was cut off while being written; name an earlier checkpoint."
        )
    tensors = load_file(path)
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


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what a checkpoint that cannot be written means.

    Raises:
        OSError: It could not be written; with what was wrong, and how much room there is.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer raises a RuntimeError
        room = shutil.disk_usage(folder.parent).free / 1e6
        raise OSError(
            f"the checkpoint {folder} could not be written ({error}); {room:,.0f} MB are free there. Earlier "
            "checkpoints are intact: make room, and go on by train(resume_from_checkpoint=True)."
        ) from error


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


def last_complete(output_dir: str | None) -> str:
    """Path of the newest checkpoint that was written to its end.

    Raises:
        ValueError: There is none.
    """
    folders = Path(output_dir or ".").glob("checkpoint-*")
    numbered = [f for f in folders if f.name.rpartition("-")[2].isdigit()]
    for folder in sorted(numbered, key=lambda f: int(f.name.rpartition("-")[2]), reverse=True):
        if _is_complete(folder):
            return str(folder)
        logger.warning("skipping %s: it was not written to its end", folder)
    raise ValueError(f"no complete checkpoint in {output_dir!r}; train without resume_from_checkpoint to start afresh.")


def _is_complete(folder: Path) -> bool:
    try:
        json.loads((folder / LAST_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return (folder / STATE_FILE).is_file()


class OuterStepCallback(TrainerCallback):
    """Lets the learned adversaries step whenever the model does, and the guard read every evaluation."""

    def __init__(self, trainer: SelfDestructTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average the gradients over processes, then step."""
        trainer = self._trainer
        if trainer.args.blocking_weight == 0:
            return
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
