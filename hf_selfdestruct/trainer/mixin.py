"""``SelfDestructMixin``: what hardening overrides of a ``transformers.Trainer``, no maths."""

from __future__ import annotations

import copy
import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerState

from ..adversaries.adversary import Adversary
from ..hardening.checks import has_loss
from ..hardening.defaults import configured_forms, default_method
from ..hardening.objective import HardeningObjective
from ..losses.base import BlockingLoss
from ..losses.keeping import KeepingLoss
from ..models.distributed import working_in
from ..publish.earlier import set_aside
from ..tasks.blocked_task import BlockedTask
from ..tasks.checks import listed_tasks, warn_of_association
from . import checkpoints, endings, intact
from .base import HardeningTrainer
from .callbacks import OuterStepCallback
from .checks import check_given_optimizer, check_launch, check_trainer, check_unquantized
from .collators import blocked_collator, special_words
from .cost import announcement
from .given import align, given_arguments, given_model
from .given_optimizer import given_optimizer
from .meters import Readings
from .outer_step import terms_added
from .precision import masters_of, narrowed, widened
from .rehearsal import check_loads_again, rehearse
from .termination import Termination
from .training_args import SelfDestructTrainingArguments, guard_of

if TYPE_CHECKING:
    from ..attacks import AttackSuite
    from ..publish.card_details import CardDetails
    from ..report.report import AttackReport
    from .desired_tasks import DesiredTasks

logger = logging.getLogger(__name__)


class SelfDestructMixin(HardeningTrainer):
    """Puts hardening before a Trainer of your own: ``class Mine(SelfDestructMixin, TheirTrainer)``.

    The other trainer's loss is the desired loss. For arguments see :class:`SelfDestructTrainer`.

    Example:
        ```python
        class Mine(SelfDestructMixin, TheirTrainer): ...
        ```
    """

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: SelfDestructTrainingArguments | None = None,
        *positional: Any,
        blocked_tasks: Sequence[BlockedTask] = (),
        adversaries: Sequence[Adversary] | None = None,
        blocking_losses: Sequence[BlockingLoss] | None = None,
        keeping_losses: Sequence[KeepingLoss] | None = None,
        keep_dataset: Dataset | None = None,
        peft_config: LoraConfig | None = None,
        **named: Any,
    ) -> None:
        args = given_arguments(type(self), args)
        model = given_model(model, named.pop("model_init", None), args.seed)
        args = endings.unpublished(copy.copy(args))  # another trainer may be given the same arguments
        check_launch(args, peft_config)
        super().__init__(model, args, *positional, **named)
        self.saved_types = masters_of(model)
        align(model, self.processing_class)
        check_unquantized(model)
        check_loads_again(model)
        self.blocked_tasks = listed_tasks(blocked_tasks)
        self.args = args = args.filled(default_method(model, self.blocked_tasks))
        self.given_optimizer = given_optimizer(self)
        # Most classifiers accept and ignore `num_items_in_batch`; Trainer would then scale the loss by
        # accumulation steps and processes, and change the weight between the two losses.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._doers: dict[str, Any] = {"adversaries": adversaries, "losses": blocking_losses, "keeping": keeping_losses}
        self._doers["adapter"] = peft_config
        self.keep_dataset = keep_dataset
        self.card_words = {}
        self.input_columns = list(inspect.signature(type(model).forward).parameters)
        if not has_loss(model):
            self.label_names, self.can_return_loss, args.prediction_loss_only = [], True, True
        check_trainer(self, model)
        self.prepare_hardening(model)
        check_given_optimizer(self, model)
        warn_of_association(self.blocked_tasks, self.train_dataset)
        rehearse(self, model)

    def prepare_hardening(self, model: PreTrainedModel) -> None:
        """What hardening has beside the ``Trainer``, made around ``model``."""
        args: Any = self.args
        self.guard, self.guarded_step = guard_of(args), -1
        self.blocked_collator = blocked_collator(self, model)
        asked = configured_forms(args)
        needed = bool(asked.merge_words or asked.keep_directions)
        self.objective = HardeningObjective(
            model,
            args,
            self.blocked_tasks,
            **self._doers,
            collate=self.blocked_batch,
            desired=self.train_dataset,
            keep=self.keep_dataset,
            collate_desired=lambda rows: self._prepare_inputs(self.data_collator(rows)),
            batch_size=args.per_device_train_batch_size,
            special_words=special_words(self.processing_class, self.data_collator, needed=needed),
            accelerator=self.accelerator,
        )
        self.readings, self._termination = Readings(), Termination(self)
        self._begun, self._started, self.trained_before = False, 0.0, 0.0
        for callback in (OuterStepCallback(self), self._termination):
            self.add_callback(callback)

    def training_step(self, model: nn.Module, *arguments: Any, **named: Any) -> Tensor:
        """As ``Trainer.training_step``, with keeping and blocking losses added to what ``compute_loss`` returns."""
        with terms_added(self):
            return super().training_step(model, *arguments, **named)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, *arguments: Any, **named: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """The desired loss; for a model that has no loss, the distance to the original."""
        if self.objective.has_loss:
            return super().compute_loss(model, inputs, return_outputs, *arguments, **named)
        desired = self.objective.on_desired(model, inputs)
        if model.training:  # DDP waits for every weight, also for those that no keeping loss looks at
            desired = desired + sum(0.0 * p.sum() for p in model.parameters() if p.requires_grad)
        return (desired, {}) if return_outputs else desired

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **named: Any) -> Any:
        """As ``Trainer.train``; ``resume_from_checkpoint=True`` takes the last *intact* checkpoint.

        One line says first what hardening costs; with ``dry_run`` nothing else is done, and the program ends.
        The model's starting weights are kept in ``output_dir/_base``, for the attacks' reference rows. On SIGTERM the
        step is ended, its checkpoint saved, and the signal acts then. Evidence in the folder is set aside.
        """
        if self.args.hardens and self.is_world_process_zero():
            logger.warning(announcement(self))
        if self.args.dry_run:
            raise SystemExit(0)
        widened(self.plain_model())  # where an evaluation in half precision came first
        with working_in(self.folder):
            if resume_from_checkpoint is True:
                resume_from_checkpoint = intact.last_complete(self.args.output_dir, self.plain_model())
            if resume_from_checkpoint:
                checkpoints.restore(self, resume_from_checkpoint)
            if self.args.should_save:
                set_aside(self.folder)
            if not resume_from_checkpoint:
                if self.args.should_save and self.args.hardens and not self._begun:
                    with narrowed(self.plain_model(), self.saved_types):  # a second training starts hardened
                        self.plain_model().save_pretrained(self.folder / "_base")
                if (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_model_parallel:
                    self._move_model_to_device(self.plain_model(), self.args.device)  # as Trainer does, but later
                self.objective.prepare(self.plain_model())
            self.given_optimizer = self.given_optimizer if self._begun else given_optimizer(self)  # maybe since
            self._begun, self._started = True, time.perf_counter()
            with self._termination:
                result = super().train(resume_from_checkpoint, *arguments, **named)
            self.trained_before, self._started = self.seconds(), 0.0
        return result

    def take_up(self, checkpoint: str | Path) -> None:
        """Take up what a run left that ended in ``checkpoint``: its state, and its last or best weights."""
        checkpoints.restore(self, checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint, intact.LAST_FILE)))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            self._load_best_model()
        else:
            self._load_from_checkpoint(str(checkpoint))

    def attack(
        self,
        suite: str | AttackSuite = "default",
        *,
        undefended: str | None = None,
        base: str | None = None,
        filtered: str | None = None,
        desired_dataset: Dataset | None = None,
        kept_dataset: Dataset | None = None,
        card: Mapping[str, Any] | CardDetails | None = None,
        controls: Sequence[BlockedTask] = (),
        metrics: Mapping[str, Any] | None = None,
        desired_tasks: Sequence[str] | DesiredTasks = (),
        storage: str | None = None,
        workers: int = 1,
    ) -> AttackReport:
        """Save the model, attack it beside its references, and write the evidence into the folder.

        Trains the undefended sibling first unless one is given.

        Args:
            suite: Name of a suite (``smoke``, ``default``, ``adaptive``, ``full``, ...), or one of your own.
            undefended: Folder of the sibling; by default it is trained now.
            base: Folder or Hub id of the model an attacker may start from; by default where training started.
            filtered: Folder or Hub id of a model trained as the base was, but never on the blocked task.
            desired_dataset: Where desired quality is measured; by default ``eval_dataset``.
            kept_dataset: Held-out unlabelled rows on which the models' general use is measured.
            card: The user's own words.
            controls: Benign tasks, as a control of what hardening costs others.
            metrics: ``evaluate`` metrics of your own, by name, for the report.
            desired_tasks: Tasks of lm-eval (extra ``eval``) on which a language model's desired quality is measured.
            storage: Optuna storage URL; by default a file in the folder.
            workers: Processes that share the attacks, where no launcher started several.

        Returns:
            The report, also in ``output_dir/selfdestruct/report.json``.

        Raises:
            ValueError: Something could not be attacked or measured; it is said before anything is trained.
        """
        from .attack import attack_trainer  # the judge is loaded only when it is called

        with working_in(self.folder):
            return attack_trainer(
                self,
                suite,
                undefended=undefended,
                base=base,
                filtered=filtered,
                desired_dataset=desired_dataset,
                kept_dataset=kept_dataset,
                card=card,
                controls=controls,
                metrics=metrics,
                desired_tasks=desired_tasks,
                storage=storage,
                workers=workers,
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As ``Trainer.save_model``, in the type that the model had; an attacked folder keeps its evidence's stamp."""
        types = {} if _internal_call else self.saved_types  # checkpoints hold what is trained, in float32
        with endings.stamp_kept(self, output_dir), narrowed(self.plain_model(), types):
            super().save_model(output_dir, _internal_call)

    def save_adapter(self, output_dir: str) -> None:
        """Save the adapter alone, for PEFT; unlike the merged model, which is published, it can be taken off."""
        endings.save_adapter(self, output_dir)

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """Put these words on the evidence card; before :meth:`attack`, on one that says "not attacked yet", too."""
        self.card_words = endings.create_card(self, *arguments, **named)

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **named: Any,
    ) -> Any:
        """Publish the hardened folder: safetensors, card, report and manifest, in one commit, by one process.

        Nothing pickled is uploaded. Call :meth:`attack` first; a model without evidence is refused. It returns when the
        commit is made, whatever ``blocking`` says. What scripts say for ``create_model_card`` goes onto the card.
        """
        return endings.publish(self, commit_message, token=token, revision=revision, private=private, **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the adversary's mean readings and the throughput since the last log to the training log."""
        if "loss" in logs:
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            logs.update(self.readings.take(step=self.state.global_step, batch=batch))
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        with checkpoints.writing(self, folder):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not checkpoints.load_renamed(self.plain_model(), resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint or ""
        intact.check(best, self.plain_model(), resuming=False)
        if not checkpoints.load_renamed(self.plain_model(), best):
            super()._load_best_model()
