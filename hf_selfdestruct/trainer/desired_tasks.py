"""Desired quality on tasks of EleutherAI's lm-eval, by their names or by task files of the user's own."""

from __future__ import annotations

import copy
import functools
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..models import heads
from .rehearsal import left_alone

if TYPE_CHECKING:
    from .base import HardeningTrainer


@dataclass(frozen=True)
class DesiredTasks:
    """Tasks of lm-eval on which desired quality is measured, beside the user's own data.

    Args:
        names: Names of tasks, such as ``arc_easy``.
        folder: Folder with YAML files of tasks of your own (lm-eval's ``include_path``).
        rows: Rows of each task; by default all.

    Raises:
        ValueError: ``names`` is no list of names, or ``rows`` no number of rows.

    Example:
        >>> DesiredTasks(("arc_easy", "hellaswag"), rows=200).rows
        200
    """

    names: tuple[str, ...] = ()
    folder: str = ""
    rows: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.names, str) or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"desired_tasks: names must be a list of names; got {self.names!r}.")
        if self.rows is not None and (not isinstance(self.rows, int) or self.rows < 1):
            raise ValueError(f"desired_tasks: rows must be a whole number, at least 1; got {self.rows!r}.")
        object.__setattr__(self, "names", tuple(self.names))  # YAML has lists

    def check(self, model: PreTrainedModel, tokenizer: Any) -> None:
        """Refuse tasks on which nothing could be measured.

        Args:
            model: The model that will be asked.
            tokenizer: Its tokenizer.

        Raises:
            ValueError: lm-eval or a tokenizer is absent, the model is no language model, or a task is not known, or a
                tag of several.
        """
        if not self.names:
            return
        if importlib.util.find_spec("lm_eval") is None:
            raise ValueError("desired_tasks needs lm-eval: pip install 'hf-selfdestruct[eval]', or leave them out.")
        if not heads.is_of(model, AutoModelForCausalLM) or not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                "desired_tasks asks a causal language model by its tokenizer: give such a model and processing_class=, "
                f"or leave them out; got {type(model).__name__} and {type(tokenizer).__name__}."
            )
        known = {*self._manager.all_tasks} - {*self._manager.all_tags}
        if unknown := [name for name in self.names if name not in known]:
            raise ValueError(
                f"desired_tasks: lm-eval has no task {unknown[0]!r} (`lm-eval ls tasks` lists its tasks); name the "
                "tasks of a tag one by one, and for tasks of your own set the folder of their YAML files."
            )

    def scores(self, model: PreTrainedModel, tokenizer: Any, batch_size: int = 8) -> dict[str, float]:
        """What a model reaches, by task and metric, such as ``arc_easy/acc``.

        Random numbers and the model's mode are afterwards what they were.

        Args:
            model: The model.
            tokenizer: Its tokenizer; it is not changed.
            batch_size: Rows that the model reads at once.

        Raises:
            ValueError: lm-eval gives no number for a task, as for a group of tasks without a mean.
        """
        if not self.names:
            return {}
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        training, tokenizer = model.training, copy.deepcopy(tokenizer)  # theirs may get a padding token
        with left_alone():
            asked = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device))
            found: Any = lm_eval.simple_evaluate(
                asked,
                tasks=[*self.names],
                limit=self.rows,
                task_manager=self._manager,
                bootstrap_iters=0,
                log_samples=False,
            )
        model.train(training)
        known = {
            f"{task}/{metric.removesuffix(',none')}": float(value)
            for task in self.names
            for metric, value in found["results"].get(task, {}).items()
            if "," in metric and "_stderr," not in metric and isinstance(value, int | float)
        }
        if empty := [task for task in self.names if not any(name.startswith(f"{task}/") for name in known)]:
            raise ValueError(f"desired_tasks: lm-eval gives no number for {empty[0]!r}: name its tasks one by one.")
        return known

    @functools.cached_property  # reading thousands of files takes seconds
    def _manager(self) -> Any:
        """What finds the tasks: in the user's folder if all are there, since lm-eval's own are thousands."""
        from lm_eval.tasks import TaskManager

        own = TaskManager(include_path=self.folder or None, include_defaults=False)
        return own if {*self.names} <= {*own.all_tasks} else TaskManager(include_path=self.folder or None)


def asked_tasks(given: Any, trainer: HardeningTrainer) -> DesiredTasks:
    """Tasks as ``attack(desired_tasks=)`` may name them, by their names alone or with all there is to say, checked.

    Raises:
        ValueError: Nothing could be measured on them.
    """
    tasks = given if isinstance(given, DesiredTasks) else DesiredTasks(given)
    tasks.check(trainer.plain_model(), trainer.processing_class)
    return tasks
