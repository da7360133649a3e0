"""A toy training to which something happens; launched by ``faults.py``, in one process or several.

    python faulty_training.py OUT_DIR FAULT SCOPE [POOL]

Goes on from the last complete checkpoint in OUT_DIR if there is one. FAULT is a key of ``FAULTS``; POOL is the number
of adversaries that continue over outer steps, by default none.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from launched import hand_in, leave
from toy_models import tiny_model, toy_pictures, toy_rows, toy_task
from train_together import state_of
from transformers import TrainerCallback

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.meta_gradient.flat_episode import FlatEpisode

END = "end"
STEPS, SAVED, STEP = 6, 2, 4  # outer steps, between two checkpoints, done when the fault strikes


def killed(trainer: SelfDestructTrainer) -> None:
    """As the kernel kills where memory is out, or a node is lost."""
    os.kill(os.getpid(), signal.SIGKILL)


def terminated(trainer: SelfDestructTrainer) -> None:
    """As a scheduler does whose time is up."""
    os.kill(os.getpid(), signal.SIGTERM)


def not_a_number(trainer: SelfDestructTrainer) -> None:
    """As one broken picture of the blocked task makes it."""
    collate = trainer.objective.simulator.collate

    def broken(rows: list[dict[str, Any]]) -> Any:
        batch = collate(rows)
        spoilt = torch.nan if trainer.state.global_step == STEP else 1.0
        return {**batch, "pixel_values": batch["pixel_values"] * spoilt}

    trainer.objective.simulator.collate = broken


def in_an_inner_loop(trainer: SelfDestructTrainer, act: Callable[[SelfDestructTrainer], None]) -> None:
    """Strike at the second inner gradient after ``STEP`` outer steps."""
    inner, count = FlatEpisode.inner_gradient, [0]

    def counted(course: FlatEpisode, *arguments: Any, **named: Any) -> Any:
        count[0] += trainer.state.global_step == STEP
        if count[0] == 2:
            act(trainer)
        return inner(course, *arguments, **named)

    FlatEpisode.inner_gradient = counted  # type: ignore[method-assign]


def in_a_save(trainer: SelfDestructTrainer, act: Callable[[SelfDestructTrainer], None]) -> None:
    """Strike while the optimizer's state of the checkpoint at ``STEP`` is being written."""
    save = torch.save

    def torn(value: Any, path: Any, *arguments: Any, **named: Any) -> None:
        if trainer.state.global_step == STEP and Path(path).name == "optimizer.pt":
            Path(path).write_bytes(b"half of a file")
            act(trainer)
        save(value, path, *arguments, **named)

    torch.save = torn


def with_a_full_disk(trainer: SelfDestructTrainer, act: Callable[[SelfDestructTrainer], None]) -> None:
    """``/dev/full`` answers every write with "no space left on device"."""

    class Full(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == STEP and args.should_save:
                folder = Path(args.output_dir, f"checkpoint-{STEP}")
                folder.mkdir(exist_ok=True)  # another process may be first
                (folder / "optimizer.pt").symlink_to("/dev/full")

    trainer.add_callback(Full())


def at_once(trainer: SelfDestructTrainer, act: Callable[[SelfDestructTrainer], None]) -> None:
    """Before the first step."""
    act(trainer)


NAN, FEW = "NaN in the blocked rows of one process", "one row for two processes"
NOBODY: tuple[int, ...] = ()
UNDISTURBED, PICTURES = "none", "none, pictures"
FAULTS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {  # where, what, to which processes
    UNDISTURBED: (at_once, killed, NOBODY),
    PICTURES: (at_once, killed, NOBODY),
    "kill -9 of one process, in an inner loop": (in_an_inner_loop, killed, (1,)),
    "kill -9 of all processes, in an inner loop": (in_an_inner_loop, killed, (0, 1)),
    "kill -9 while a checkpoint is written": (in_a_save, killed, (0,)),
    "disk full while a checkpoint is written": (with_a_full_disk, None, (0, 1)),
    NAN: (at_once, not_a_number, (1,)),
    "SIGTERM to one process, in an inner loop": (in_an_inner_loop, terminated, (1,)),
    "SIGTERM to all processes, in an inner loop": (in_an_inner_loop, terminated, (0, 1)),
    "SIGTERM while a checkpoint is written": (in_a_save, terminated, (0,)),
    FEW: (at_once, killed, NOBODY),
}


def trainer_of(folder: Path, fault: str, scope: str, pool: int = 0) -> SelfDestructTrainer:
    """The toy training, with dropout: what is replayed has to draw the same random numbers."""
    args = SelfDestructTrainingArguments(
        str(folder),
        **{
            "adversary": {"scope": scope, "dropout": True, "pool": pool, "horizon": 6},
            "inner_steps": 2,
            "max_steps": STEPS,
            "save_steps": SAVED,
            "learning_rate": 1e-3,
        },
        **{"per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True, "report_to": "none"},
    )
    if fault in (NAN, PICTURES):
        splits = {role: toy_pictures(60, seed=seed) for seed, role in enumerate(("train", "attack", "test"))}
        task, rows = BlockedTask("blocked", **splits, label_column="labels"), toy_pictures(96, seed=4)
        return SelfDestructTrainer(tiny_model("vit", dropout=0.1), args, train_dataset=rows, blocked_tasks=[task])
    rows = toy_rows(1 if fault == FEW else 96, seed=4)
    return SelfDestructTrainer(tiny_model(dropout=0.1), args, train_dataset=rows, blocked_tasks=[toy_task()])


def main(folder: Path, fault: str, scope: str, pool: str = "0") -> None:
    """Train, with the fault unless this is the second try, and hand in what came of it."""
    trainer = trainer_of(folder, fault, scope, int(pool))
    again = any(folder.glob("checkpoint-*"))
    where, what, whom = FAULTS[fault]
    if not again and trainer.args.process_index in whom:
        where(trainer, what)
    trainer.train(resume_from_checkpoint=True if again else None)
    hand_in(folder, END, state_of(trainer))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
