"""A scheduler's SIGTERM while training: a checkpoint at the end of the step, then the end."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..models.distributed import anyone

if TYPE_CHECKING:
    from .base import HardeningTrainer

logger = logging.getLogger(__name__)


class Termination(TrainerCallback):
    """Notes SIGTERM while training runs, has a checkpoint saved at the end of the step, then lets the signal act.

    Every process stops at the same step, whichever was told, and the checkpoint is like any other: a run resumed from
    it goes on bitwise. Signals reach a process's main thread alone; training in another one ends as it always did.

    Args:
        trainer: The trainer; used as a context around its training.
    """

    def __init__(self, trainer: HardeningTrainer) -> None:
        self._trainer, self._told, self._agreed = trainer, False, False
        self._before: Any = None

    def __enter__(self) -> None:
        """Listen from now on."""
        self._told = self._agreed = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave signals as they were; what was told meanwhile happens now, when everyone has saved.

        An error that ended the training goes first, and says more.
        """
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        self._before = None
        if kind is not None:
            return
        if self._agreed:
            self._trainer.accelerator.wait_for_everyone()
        if self._told or self._agreed:
            signal.raise_signal(signal.SIGTERM)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop, if any process was told to."""
        if not anyone(self._trainer.accelerator, self._told):
            return
        self._agreed = control.should_save = control.should_training_stop = True
        logger.warning(
            "SIGTERM: training stops after step %d and saves a checkpoint to %s; train(resume_from_checkpoint=True) "
            "resumes from it.",
            state.global_step,
            args.output_dir,
        )

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True
