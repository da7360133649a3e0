"""``SelfDestructTrainer``: ``transformers.Trainer`` overrides, no maths."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerState

from . import checkpoints, heads, presets
from .adversary import Adversary, LearnedAdversary
from .functional import inner_optimizer, logits
from .losses import BlockingLoss, blocking_loss
from .meta_gradient import MODES, Episode
from .meta_step import meta_loss, step_weights
from .tasks import BlockedTask, draw_rows, seed_of
from .trainer_checks import check_adversaries, check_launch, check_tasks, warn_of_association
from .training_args import SelfDestructTrainingArguments

if TYPE_CHECKING:
    from .report import AttackReport


class SelfDestructTrainer(Trainer):
    """Trains a model to stay good at its desired task and to resist fine-tuning to blocked tasks.

    A drop-in ``Trainer``. Each training step adds to the desired loss a blocking loss, measured along a
    simulated fine-tuning (the adversary) of K inner steps; evaluation, callbacks, resuming, mixed
    precision, gradient accumulation and launching work as in ``Trainer``. Each micro-batch is averaged
    on its own (``num_items_in_batch`` is not used), so that the two losses keep their proportion
    whatever the number of accumulation steps and processes.

    Overridden: ``compute_loss`` (adds the blocking loss while training), ``train`` and
    ``_save_checkpoint`` (the adversary's state), ``log`` (its readings) and ``push_to_hub``.

    Args:
        model: A model with its desired task's head.
        args: Training arguments; what is left at ``None`` is filled by ``args.method``.
        *positional: As for ``Trainer``.
        blocked_tasks: The tasks to block; one is drawn by weight in each outer step.
        adversaries: Adversaries to draw from; by default the one that ``args`` describes.
        blocking_losses: Losses to add up; by default the one ``args`` names.
        **named: As for ``Trainer``.

    Raises:
        TypeError: ``args`` is not a ``SelfDestructTrainingArguments``, or ``model`` no ``PreTrainedModel``.
        ValueError: A dataset, model, launch or adversary that hardening cannot work with; the message
            says what to do.

    Example:
        ```python
        trainer = SelfDestructTrainer(
            model=model, args=SelfDestructTrainingArguments("hardened"),
            train_dataset=professions["train"], eval_dataset=professions["validation"],
            blocked_tasks=[gender], processing_class=tokenizer,
        )
        trainer.train()
        print(trainer.attack("smoke").table())
        ```
    """

    args: SelfDestructTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: SelfDestructTrainingArguments | None = None,
        *positional: Any,
        blocked_tasks: Sequence[BlockedTask] = (),
        adversaries: Sequence[Adversary] | None = None,
        blocking_losses: Sequence[BlockingLoss] | None = None,
        **named: Any,
    ) -> None:
        args = SelfDestructTrainingArguments("tmp_trainer") if args is None else args
        if not isinstance(args, SelfDestructTrainingArguments):
            raise TypeError(f"args must be SelfDestructTrainingArguments, got {type(args).__name__}.")
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"model must be a transformers PreTrainedModel, got {type(model).__name__}.")
        presets.fill(args)
        check_launch(args)
        super().__init__(model, args, *positional, **named)
        # Most classifiers accept and ignore `num_items_in_batch`; Trainer would then scale the loss by
        # accumulation steps and processes, and change the weight between the two losses.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self.blocked_tasks = list(blocked_tasks)
        self.adversaries = list(adversaries or [_configured(args)])
        self.blocking_losses = list(blocking_losses or [blocking_loss(args.blocking_loss or "")])
        self._columns = self._input_columns(model)
        check_tasks(self.blocked_tasks, self._columns)
        check_adversaries(self.adversaries, self.blocked_tasks, model.config.num_labels)
        warn_of_association(self.blocked_tasks, self.train_dataset)
        self._skeletons = {task.name: self._skeleton(model, task) for task in self.blocked_tasks}
        self._learned = self._start_learning()
        self._readings: dict[str, list[float]] = {}
        self._micro_step = (-1, 0)
        self._seconds = 0.0
        self._started: float | None = None
        self.add_callback(checkpoints.AdversaryCallback(self))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The desired loss, plus the blocking loss while the model is in training mode."""
        found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not model.training or self.args.blocking_weight == 0:
            return found
        desired, outputs = found if return_outputs else (found, None)
        total = self._add_blocking(desired, self._plain_model())
        return (total, outputs) if return_outputs else total

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **named: Any) -> Any:
        """As ``Trainer.train``; ``resume_from_checkpoint=True`` takes the last *complete* checkpoint.

        The model's starting weights are kept in ``output_dir/_base``, for the attacks' reference rows.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = checkpoints.last_complete(self.args.output_dir)
        if resume_from_checkpoint:
            self._seconds = checkpoints.load_learned(self._learned, Path(resume_from_checkpoint))
        elif self.args.should_save and self.args.blocking_weight:
            self._plain_model().save_pretrained(self.folder / "_base")
        self._started = time.perf_counter()
        result = super().train(resume_from_checkpoint, *arguments, **named)
        self._seconds, self._started = self.seconds(), None
        return result

    @property
    def folder(self) -> Path:
        """Where the hardened model goes: ``args.output_dir``."""
        return Path(self.args.output_dir or ".")

    def seconds(self) -> float:
        """Seconds trained so far, those before an interruption included."""
        return self._seconds + (time.perf_counter() - self._started if self._started else 0.0)

    def take_up(self, checkpoint: str | Path) -> None:
        """Take up the state of a run that ended in ``checkpoint``, whose weights the model already has."""
        self._seconds = checkpoints.load_learned(self._learned, Path(checkpoint))
        self.state = TrainerState.load_from_json(str(Path(checkpoint, checkpoints.LAST_FILE)))

    def attack(self, suite: str = "default", **options: Any) -> AttackReport:
        """Save the model, attack it beside its references, and write the evidence into the folder.

        Trains the undefended sibling first unless one is given. See :func:`evidence.attack_trainer`.

        Args:
            suite: Name of a suite: ``smoke`` or ``default``.
            **options: ``undefended`` and ``base`` (folders), ``desired_dataset`` (by default
                ``eval_dataset``), ``card`` (the user's own words).

        Returns:
            The report, also in ``output_dir/selfdestruct/report.json``.
        """
        from .evidence import attack_trainer  # the judge is loaded only when it is called

        return attack_trainer(self, suite, **options)

    def push_to_hub(self, commit_message: str | None = None, *_: Any, **named: Any) -> Any:
        """Publish the hardened folder: safetensors, card, report and manifest, in one commit.

        Nothing pickled is uploaded. Call :meth:`attack` first; a model without evidence is refused.
        """
        from .hub import push

        repo_id = self.args.hub_model_id or self.folder.resolve().name
        named.setdefault("token", self.args.hub_token)
        named.setdefault("private", self.args.hub_private_repo)
        return push(self.args.output_dir, repo_id, message=commit_message or "Publish hardened model", **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the adversary's mean readings since the last log to the training log."""
        if "loss" in logs and self._readings:
            logs.update({name: sum(values) / len(values) for name, values in self._readings.items()})
            self._readings.clear()
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Before the Trainer's own files: `trainer_state.json`, written last, marks a checkpoint complete.
        folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        if self.args.should_save:
            checkpoints.save_learned(self._learned, folder, seconds=self.seconds())
        super()._save_checkpoint(model, trial)

    def _plain_model(self) -> PreTrainedModel:
        return self.accelerator.unwrap_model(self.model)

    def _add_blocking(self, desired: Tensor, model: PreTrainedModel) -> Tensor:
        task, number, key = self._draw()
        adversary, learned = self.adversaries[number], self._learned[task.name, number]
        rate = learned.learning_rate if adversary.learns_rate else adversary.draw_rate(*key)
        episode = self._episode(model, task, adversary, learned, rate, key)
        gradient = MODES[self.args.meta_gradient or ""](episode)
        parameters = dict(model.named_parameters())
        step = meta_loss(desired, parameters, gradient, blocking_weight=self.args.blocking_weight)
        terms = {**step.terms, "adversary_lr": rate}
        for name, value in terms.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at step {self.state.global_step} (task {task.name!r}, adversary "
                    f"{adversary.config()}, rate {rate:.2e}); training stops and the last checkpoint is intact. "
                    "Lower adversary_learning_rate, inner_steps or learning_rate."
                )
            self._readings.setdefault(name, []).append(value)
        share = 1 / self.current_gradient_accumulation_steps
        own = gradient.head if adversary.head == "learned" else {}
        learned.accumulate(own, gradient.learning_rate, share=share)
        return step.total

    def _draw(self) -> tuple[BlockedTask, int, tuple[Any, ...]]:
        """The task and the adversary of this micro-step, and the key all its draws depend on."""
        step, micro = self._micro_step
        micro = micro + 1 if step == self.state.global_step else 0
        self._micro_step = (self.state.global_step, micro)
        key = (self.args.seed, self.state.global_step, micro, self.args.process_index)
        generator = torch.Generator().manual_seed(seed_of("task", *key))
        weights = torch.tensor([task.weight for task in self.blocked_tasks])
        task = self.blocked_tasks[int(torch.multinomial(weights, 1, generator=generator))]
        number = int(torch.randint(len(self.adversaries), (), generator=generator))
        return task, number, (task.name, *key)

    def _episode(
        self,
        model: PreTrainedModel,
        task: BlockedTask,
        adversary: Adversary,
        learned: LearnedAdversary,
        rate: float,
        key: tuple[Any, ...],
    ) -> Episode:
        bones = self._skeletons[task.name]
        own = set() if adversary.head == "keep" else set(heads.head_names(bones))
        published = {n: _full(p.detach()) for n, p in model.named_parameters() if n not in own}
        if own:  # the live head is for the desired task and takes no part
            published = {n: p for n, p in published.items() if n.startswith(heads.trunk_prefix(model))}
        head = {n: v.to(self.args.device) for n, v in learned.head.items()} if own else {}
        if own and adversary.head == "random":
            head = heads.draw_head(bones, seed_of("head", *key), device=self.args.device)
        buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        moving = {*head} if adversary.trainable == "head" and head else {*published, *head}
        if adversary.trainable == "head" and not head:
            moving = set(heads.head_names(model))
        return Episode(
            forward=lambda weights, batch: logits(bones, {**buffers, **weights}, batch),
            published=published,
            head=head,
            moving=frozenset(moving),
            batches=[
                self._batch(task, draw_rows(task.adversary_rows(), adversary.batch_size, "inner", k, *key))
                for k in range(adversary.steps)
            ],
            held_out=self._batch(
                task, draw_rows(task.held_out_rows(), self.args.blocking_batch_size, "held-out", *key)
            ),
            loss=self._blocking_loss,
            step_weights=step_weights(self.args.step_weights or "", adversary.steps),
            optimizer=adversary.optimizer,
            learning_rate=torch.tensor(rate, device=self.args.device),
            learns_rate=adversary.learns_rate,
            wanted=frozenset(n for n, p in model.named_parameters() if p.requires_grad),
        )

    def _blocking_loss(self, answers: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([loss(answers, labels) for loss in self.blocking_losses]).sum()

    def _batch(self, task: BlockedTask, rows: Any) -> dict[str, Tensor]:
        return self._prepare_inputs(self.data_collator(task.features("train", rows, self._columns)))

    def _skeleton(self, model: PreTrainedModel, task: BlockedTask) -> PreTrainedModel:
        # Fused attention kernels have no second derivative; the skeleton is apart from the live model,
        # whose kernel stays as it is.
        attention = "eager" if self.args.meta_gradient == "unrolled" else None
        return heads.skeleton(model, task.classes, attention=attention)

    def _start_learning(self) -> dict[tuple[str, int], LearnedAdversary]:
        learned = {}
        for task in self.blocked_tasks:
            for number, adversary in enumerate(self.adversaries):
                seed = seed_of("learned head", self.args.seed, task.name, number)
                head = heads.draw_head(self._skeletons[task.name], seed, device=self.args.device)
                learned[task.name, number] = LearnedAdversary(
                    adversary,
                    head if adversary.head == "learned" else {},
                    learning_rate=self.args.adversary_head_learning_rate or 0.0,
                )
        return learned

    def _input_columns(self, model: PreTrainedModel) -> list[str]:
        return list(inspect.signature(type(model).forward).parameters)


def _configured(args: SelfDestructTrainingArguments) -> Adversary:
    return Adversary(
        optimizer=inner_optimizer(args.adversary_optimizer or ""),
        learning_rate=args.adversary_learning_rate or 0.0,
        learning_rate_max=args.adversary_learning_rate_max,
        learns_rate=bool(args.adversary_learns_rate),
        steps=args.inner_steps or 0,
        batch_size=args.adversary_batch_size or 0,
        head=args.adversary_head or "",
        trainable=args.adversary_trainable or "",
    )


def _full(value: Tensor) -> Tensor:
    """Half-precision weights take part in the inner loop in float32; others as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
