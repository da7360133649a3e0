"""What a trainer is made of: adversary, guard, collator of blocked rows, simulation, keeper."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    default_data_collator,
)

from ..adversaries.adversary import Adversary, Range, Schedule
from ..adversaries.optimizers import INNER_OPTIMIZERS
from ..erasure.initial_weights import embeddings_of, initial_weights
from ..erasure.word_merging import TiedRows
from ..hardening.episode_builder import Rows
from ..hardening.guard import Guard
from ..hardening.keeper import Keeper
from ..hardening.presets import ONE_PURPOSE
from ..hardening.simulator import Simulation
from ..losses.blocking import BlockingLoss, blocking_loss
from ..losses.keeping import KeepingLoss, keeping_loss
from ..losses.probe import RepresentationProbe
from ..models import heads
from ..tasks.blocked_task import label_column_of
from ..tasks.rows import LABELS
from . import precision
from .training_args import UNDEFENDED, SelfDestructTrainingArguments

if TYPE_CHECKING:
    from .trainer import SelfDestructTrainer

logger = logging.getLogger(__name__)


def default_method(model: PreTrainedModel, desired: Any) -> str:
    """The method that was measured to work best for a kind of model, where its user names none.

    ``one_purpose`` for classifiers of texts, which needs integer labels and embeddings that are wide enough;
    ``general`` for bare encoders and language models; ``mlac_fast`` for what reads no words.
    """
    try:
        width = embeddings_of(model)[1].shape[1]
    except ValueError:
        return "mlac_fast"
    if not heads.has_task_head(model):
        return "general"
    labelled = label_column_of(getattr(desired, "column_names", None) or ()) is not None
    return "one_purpose" if labelled and width > ONE_PURPOSE["keep_directions"] else "mlac_fast"


def configured_adversary(args: SelfDestructTrainingArguments) -> Adversary:
    """The one adversary that filled arguments describe."""
    least, most = args.adversary_learning_rate or 0.0, args.adversary_learning_rate_max
    last = args.inner_steps or 0
    start = args.inner_steps_start
    steps = last if start is None else Schedule(start, last, args.inner_steps_every)
    return Adversary(
        optimizer=INNER_OPTIMIZERS[args.adversary_optimizer or ""],
        learning_rate=least if most is None else Range(least, most),
        learns_rate=bool(args.adversary_learns_rate),
        steps=steps,
        batch_size=args.adversary_batch_size or 0,
        examples=args.adversary_examples,
        head=args.adversary_head or "",
        trainable=args.adversary_trainable or "",
        prelude=args.adversary_prelude,
        dropout=args.adversary_dropout,
        carries=args.adversary_carries,
    )


def configured_losses(args: SelfDestructTrainingArguments) -> list[BlockingLoss]:
    """The blocking losses that filled arguments describe."""
    probe = [RepresentationProbe(weight=args.probe_weight)] if args.probe_weight else []
    return [*map(blocking_loss, args.blocking_losses), *probe]


def configured_keeping(args: SelfDestructTrainingArguments) -> list[KeepingLoss]:
    """The keeping losses that arguments name; may be none."""
    return [keeping_loss(name) for name in args.keeping_losses]


def guard_of(args: SelfDestructTrainingArguments) -> Guard | None:
    """The guard that arguments ask for; the start is then evaluated too."""
    if args.max_desired_drop is None:
        return None
    args.eval_on_start = True
    greater = args.greater_is_better
    if greater is None:
        greater = not (args.metric_for_best_model or "loss").endswith("loss")  # as transformers decides it
    return Guard(args.max_desired_drop, greater_is_better=greater)


def simulation_of(trainer: SelfDestructTrainer, model: PreTrainedModel) -> Simulation:
    """The simulation of adversaries."""
    general = trainer.keep_dataset if trainer.keep_dataset is not None else trainer.train_dataset
    return Simulation(
        model,
        trainer.args,
        tasks=trainer.blocked_tasks,
        adversaries=trainer.adversaries,
        losses=trainer.blocking_losses,
        collate=trainer.blocked_batch,
        columns=trainer.input_columns,
        benign=_rows(trainer, trainer.train_dataset, LABELS),
        general=_rows(trainer, general, ()),
    )


def keeper_of(trainer: SelfDestructTrainer, model: PreTrainedModel) -> Keeper:
    """The frozen original and the distances to it."""
    return Keeper(
        model,
        trainer.keeping_losses,
        _rows(trainer, trainer.keep_dataset, ()),
        batch_size=trainer.args.per_device_train_batch_size,
        ranks=trainer.args.ranks,
        autocast=trainer.accelerator.autocast,
        erased=trainer.blocked_tasks if trainer.args.keeping_erases else (),
        collate=trainer.blocked_batch,
    )


def _rows(trainer: SelfDestructTrainer, data: Any, labels: Sequence[str]) -> Rows:
    kept = data if isinstance(data, Dataset) else None
    return Rows(kept, trainer.input_columns, labels, lambda r: trainer._prepare_inputs(trainer.data_collator(r)))


def initialize(trainer: SelfDestructTrainer) -> None:
    """Give the live model the weights it is to start hardening from."""
    model, args = trainer.accelerator.unwrap_model(trainer.model), trainer.args
    if (args.bf16_full_eval or args.fp16_full_eval) and not trainer.is_model_parallel:
        trainer._move_model_to_device(model, args.device)  # as Trainer does, but only when training begins
    changed = initial_weights(
        model,
        args,
        tasks=trainer.blocked_tasks,
        desired=trainer.train_dataset,
        columns=trainer.input_columns,
        collate=trainer.blocked_batch,
        spared=_special_words(trainer),
    )
    model.load_state_dict(changed, strict=False)


def _special_words(trainer: SelfDestructTrainer) -> Sequence[int]:
    """The tokenizer's own words, which stay as they are."""
    known: Any
    for known in (trainer.processing_class, getattr(trainer.data_collator, "tokenizer", None)):
        if hasattr(known, "all_special_ids"):
            return known.all_special_ids
    if trainer.args.merge_words or trainer.args.keep_directions:
        logger.warning(
            "no tokenizer is known, so that its special tokens are merged and reduced like any word: give "
            "processing_class= the tokenizer."
        )
    return ()


class TieCallback(TrainerCallback):
    """Keeps merged words one while they are trained, see :class:`vocabulary.TiedRows`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the equal rows; a checkpoint's weights are in place by now."""
        self._tied = TiedRows(self._model.get_parameter(embeddings_of(self._model)[0]))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let them have one gradient."""
        self._tied.gather()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Undo what rounding may have set apart."""
        self._tied.spread()


class StopCallback(TrainerCallback):
    """Ends training after a step, whatever its schedule; after step 0: never."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop when the step is done."""
        if state.global_step == self._step:
            control.should_training_stop = True


@dataclass(frozen=True)
class Relabelled:
    """A collator of rows whose labels stand in a column of another name than ``labels``.

    Args:
        collate: The collator.
        label: The column that it reads.
    """

    collate: Callable[[list[Any]], Any]
    label: str

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        """A batch of rows that have their labels in ``labels``."""
        return self.collate([{self.label if n == "labels" else n: v for n, v in row.items()} for row in rows])


def blocked_collator(trainer: SelfDestructTrainer, model: PreTrainedModel) -> Callable[[list[Any]], Any]:
    """The collator of blocked rows: the trainer's own, unless that makes batches for another kind of task.

    It reads labels where it finds those of the desired rows. The collator of a bare trunk, a language model or a tagger
    knows no class labels (that for masked language modelling would hide tokens and overwrite the labels), so blocked
    rows are padded by the tokenizer there.
    """
    collate, tokenizer = trainer.data_collator, trainer.processing_class
    classes = [task.model_class for task in trainer.blocked_tasks]
    of_others = all(kind is not None and not heads.is_of(model, kind) for kind in classes)
    if heads.has_task_head(model) and not of_others:
        label = label_column_of(getattr(trainer.train_dataset, "column_names", None) or ())
        return collate if label in (None, "labels") else Relabelled(collate, str(label))
    return (
        DataCollatorWithPadding(tokenizer) if isinstance(tokenizer, PreTrainedTokenizerBase) else default_data_collator
    )


def settings_of(trainer: SelfDestructTrainer) -> dict[str, Any]:
    """What may not change when a run goes on: its recipe without its progress, and without the processes it has."""
    others = ("outer_steps", "seconds", "outer_batch", "processes", "adversary_scope")
    known = {name: value for name, value in recipe_of(trainer).items() if name not in others}
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    return {**known, **{name: getattr(trainer.args, name) for name in batch}}


def recipe_of(trainer: SelfDestructTrainer) -> dict[str, Any]:
    """How a trainer hardens, as plain values for the report."""
    args = trainer.args
    keeping = {str(i): loss.config() for i, loss in enumerate(trainer.keeping_losses)}
    together = {"processes": args.world_size, "adversary_scope": args.adversary_scope} if args.world_size > 1 else {}
    return {
        "method": args.method,
        "meta_gradient": args.meta_gradient,
        **({"hvp": args.hvp} if args.meta_gradient == "exact" else {}),
        "adversaries": {str(i): adversary.config() for i, adversary in enumerate(trainer.adversaries)},
        "blocking_losses": {str(i): loss.config() for i, loss in enumerate(trainer.blocking_losses)},
        "blocking_weight": args.blocking_weight,
        "blocking_batch_size": args.blocking_batch_size,
        "blocking_every": args.blocking_every,
        **({"blocking_interval": args.blocking_interval} if args.blocking_interval != 1 else {}),
        "step_weights": args.step_weights,
        **({"keeping_weight": args.keeping_weight, "keeping_losses": keeping} if keeping else {}),
        **{n: getattr(args, n) for n in ("max_blocking_grad_norm", *UNDEFENDED) if getattr(args, n)},
        **({"max_desired_drop": args.max_desired_drop} if args.max_desired_drop is not None else {}),
        "outer_steps": trainer.state.global_step,
        "outer_batch": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **together,
        "learning_rate": args.learning_rate,
        "learning_rate_schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        **(trainer.given_optimizer.recipe() if trainer.given_optimizer is not None else {}),
        "bf16": trainer.accelerator.mixed_precision == "bf16",
        **({"saved_in": precision.named(trainer.saved_types)} if trainer.saved_types else {}),
        "seed": args.seed,
        "seconds": round(trainer.seconds(), 1),
    }
