"""``HardeningObjective``: the whole of hardening, for any training loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from accelerate import Accelerator
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..erasure.initial_weights import embeddings_of, initial_weights
from ..erasure.word_merging import TiedRows
from ..losses.base import BlockingLoss
from ..losses.keeping import KeepingLoss
from ..meta_gradient.outer_loss import meta_loss
from ..models.distributed import ALONE, Processes, anyone
from ..models.merged_adapter import MergedAdapter, take_up
from ..tasks.blocked_task import BlockedTask
from ..tasks.rows import LABELS
from .blocking_steps import BlockingSteps
from .checks import check_finite, check_hardening, check_reached, has_loss
from .config import HardeningConfig
from .defaults import configured_adversary, configured_forms, configured_keeping, configured_losses, default_method
from .draw import Batch, Rows
from .keeper import Keeper
from .kinds import check_adapter
from .selection import check_selection, selected
from .simulator import Simulator
from .unlearning import Unlearning, check_unlearning

Collate = Callable[[list[dict[str, Any]]], Batch]


class HardeningObjective:
    """Adds to a desired loss what hardens: keeping losses, and a blocking loss along a simulated adversary.

    Each step, an adversary fine-tunes a copy of the model to a blocked task for K inner steps; what it reaches on
    held-out rows enters the loss through the meta-gradient. The objective has no training loop of its own:
    :class:`SelfDestructTrainer` calls it from ``transformers.Trainer``, ``examples/06_any_loop.py`` from a plain one.

    Args:
        model: The model to harden, where it is trained.
        config: The settings; what is left at ``None`` is filled by the method, in a copy.
        tasks: Blocked tasks; one is drawn by weight in each step.
        collate: Makes a batch of blocked rows (with ``labels``), where the model is.
        adversaries: Adversaries to draw from; by default the one that ``config`` describes.
        losses: Blocking losses to add up; by default those that ``config`` names.
        keeping: Distances to the original model to add up; by default those that ``config`` names, or none.
        desired: The desired task's training rows, for preludes and for ``keep_directions``.
        keep: Unlabelled rows on which the model's general use is kept.
        collate_desired: Makes a batch of rows of ``desired`` and ``keep``, where the model is; by default ``collate``.
        batch_size: Rows of ``keep`` in one step.
        special_words: The tokenizer's own words, which are neither merged nor reduced.
        adapter: Train a LoRA adapter alone, merged into the model in each step; by default every weight that requires a
            gradient. The optimizer is then made of the parameters of ``adapter``, the attribute.
        accelerator: Processes, precision and device of the training; by default this process alone, where the model is.

    Attributes:
        config: The settings, filled.
        simulator: Draws and simulates adversaries.
        keeper: The frozen original and the distances to it.
        adapter: The adapter that is trained, or ``None``.

    Raises:
        ValueError: Tasks, adversaries, losses and model cannot work together; the message says what to do.

    Example:
        ```python
        objective = HardeningObjective(model, HardeningConfig(method="mlac_fast"), [gender], collate=collate)
        objective.prepare(model)
        for step, inputs in enumerate(batches):
            total, terms = objective(model, inputs, model(**inputs).loss, step)
            total.backward()
            objective.before_optimizer_step()
            optimizer.step()
            objective.after_optimizer_step()
            optimizer.zero_grad()
        ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: HardeningConfig,
        tasks: Sequence[BlockedTask],
        *,
        collate: Collate,
        adversaries: Sequence[Adversary] | None = None,
        losses: Sequence[BlockingLoss] | None = None,
        keeping: Sequence[KeepingLoss] | None = None,
        desired: Any = None,
        keep: Dataset | None = None,
        collate_desired: Collate | None = None,
        batch_size: int = 8,
        special_words: Sequence[int] = (),
        adapter: LoraConfig | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.tasks = list(tasks)
        self.config = config.filled(default_method(model, self.tasks))
        self.adversaries = list(adversaries or [configured_adversary(self.config)])
        self.blocking_losses = list(losses or configured_losses(self.config))
        self.keeping_losses = list(configured_keeping(self.config) if keeping is None else keeping)
        self.columns = list(inspect.signature(type(model).forward).parameters)
        self.has_loss = has_loss(model)
        self.device = accelerator.device if accelerator else model.device
        self._processes = Processes(accelerator.process_index, accelerator.num_processes) if accelerator else ALONE
        self._options: dict[str, Any] = dict(
            collate=collate, desired=desired, keep=keep, collate_desired=collate_desired or collate,
            batch_size=batch_size, special_words=special_words, adapter=adapter, accelerator=accelerator,
        )  # fmt: skip
        self._check(model)
        check_adapter(self.config, model, adapter)
        self.adapter = None if adapter is None else MergedAdapter(model, adapter, self.config.seed)
        self.keeper, self.simulator = self._kept_by(model), self._simulated_by(model)
        check_reached(model, self.config, self.simulator.published)
        check_selection(model, self.simulator)
        self._unlearning, self.blocked_step = Unlearning(self.config, self.keeper), -1
        self._blocking_steps = BlockingSteps(self.config.options, model if self.adapter is None else self.adapter)
        self._tied: TiedRows | None = None

    def prepare(self, model: PreTrainedModel) -> None:
        """Give the live model the weights that it starts hardening from (the closed forms), before the first step.

        A run that goes on from a checkpoint leaves it out: its weights have been prepared.
        """
        model.load_state_dict(selected(model, self.simulator), strict=False)
        changed = initial_weights(
            model, configured_forms(self.config), tasks=self.tasks, desired=self._options["desired"],
            columns=self.columns, collate=self._options["collate"], spared=self._options["special_words"],
            seed=self.config.seed,
        )  # fmt: skip
        model.load_state_dict(changed, strict=False)
        self._tied = None
        if self.adapter is not None:
            self.adapter.restart()

    def __call__(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        desired: Tensor,
        step: int,
        *,
        factor: float = 1.0,
        micro_steps: int = 1,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of one micro-step, whose one backward gives the desired gradient and the meta-gradient.

        Args:
            model: The live model, without what a launcher wraps around it.
            inputs: The desired batch.
            desired: The desired loss on it, with its graph, scalar.
            step: The outer step, counted from 0.
            factor: What the blocking weight is multiplied by, such as a guard's.
            micro_steps: Into how many micro-steps the outer step is divided.

        Returns:
            The total, and readings by the names they are logged under.

        Raises:
            FloatingPointError: A loss or a gradient is not finite.
        """
        config, terms = self.config, {"desired_loss": desired.item()}
        weight, most = config.weight_at(step) * factor, config.options.max_blocking_grad_norm or None
        self._unlearning.see(model, step)
        alone = self._blocking_steps.see(model, step, weight)
        if config.options.merge_words and self._tied is None:  # a checkpoint's weights are in place by now
            self._tied = TiedRows(model.get_parameter(embeddings_of(model)[0]))
        draw = self.simulator.draw(step)
        if alone:
            desired, weight = 0.0 * desired, 1.0  # the graph is not cut: DDP waits for every weight
        elif self.keeping_losses:
            kept_on = inputs if self.has_loss else None
            keeping = self.keeper.distance(model, kept_on, *draw.key) * (config.keeping_weight or 1.0)
            terms["keeping_loss"] = keeping.item() if self.has_loss else (keeping + desired).item()
            desired = desired + keeping
        check_finite(terms, draw, step)
        if not self.blocks(step):
            return desired, terms
        self.blocked_step = step
        gradient = self.simulator.meta_gradient(model, draw)
        if gradient is None:
            return desired, terms
        named, score = dict(model.named_parameters()), draw.task.kind.score
        place = "unlearning".format if self._unlearning.during(step) else partial(self.simulator.place, draw)
        outer = meta_loss(desired, named, gradient, blocking_weight=weight, max_norm=most, score=score, place=place)
        more = {"adversary_lr": float(draw.fine_tuning.learning_rate), "inner_steps": float(draw.fine_tuning.steps)}
        check_finite(outer.terms | more, draw, step)
        self.simulator.learn(draw, gradient, share=1 / micro_steps)
        return outer.total, terms | outer.terms | more

    def blocks(self, step: int) -> bool:
        """Whether a blocking loss is due in this outer step."""
        return bool(self.config.weight_at(step)) and step % self.config.options.blocking_interval == 0

    def before_optimizer_step(self) -> None:
        """Let the adversaries learn from what this outer step gave them, and merged words, or an adapter, its gradient.

        A step that only blocks is made here, and leaves the optimizer no gradient. Gradients are averaged over all
        processes, each of which must call.
        """
        accelerator = self._options["accelerator"]
        for adversary in self.simulator.learned.values() if self.config.blocks else ():
            # Each process draws for itself; an adversary that none has drawn keeps still, moments included.
            if not (anyone(accelerator, adversary.drawn) if accelerator else adversary.drawn):
                continue
            for gradient in adversary.gradients():
                gradient.copy_(accelerator.reduce(gradient, reduction="mean") if accelerator else gradient)
            adversary.step()
        for one in (self._tied, self.adapter):
            if one is not None:
                one.gather()
        self._blocking_steps.before_optimizer_step()

    def after_optimizer_step(self) -> None:
        """Merge an adapter's step; end unlearning where it is due; undo what noise or rounding set apart in words."""
        if self.adapter is not None:
            self.adapter.spread()
        self._unlearning.after_optimizer_step()
        if self._tied is not None:
            self._tied.spread()

    def on_desired(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """The desired loss of a model that has none: its weighted distance to the original."""
        return self.keeper.on_desired(model, inputs) * (self.config.keeping_weight or 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Adversaries, a renewed original, moments and an adapter: to go on exactly. Every process must call this."""
        adapter = self.adapter.adapter_state() if self.adapter is not None else {}
        return self.simulator.state_dict() | self._unlearning.state_dict() | self._blocking_steps.state_dict() | adapter

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            ValueError: It is the state of other tasks or adversaries, of another phase, or of another adapter.
        """
        state = self._blocking_steps.load_state_dict(take_up(self.adapter, state))
        self.simulator.load_state_dict(self._unlearning.load_state_dict(state))

    def without_blocking(self, model: PreTrainedModel) -> HardeningObjective:
        """The undefended sibling's objective: the same around another model, with nothing blocked."""
        doers = {"adversaries": self.adversaries, "losses": self.blocking_losses, "keeping": self.keeping_losses}
        return HardeningObjective(model, self.config.undefended(), self.tasks, **self._options | doers)

    def _check(self, model: PreTrainedModel) -> None:
        check_unlearning(self.config, self.blocking_losses)
        check_hardening(
            self.config,
            model,
            tasks=self.tasks,
            adversaries=self.adversaries,
            blocking=self.blocking_losses,
            keeping=self.keeping_losses,
            desired=self._options["desired"],
            keep=self._options["keep"],
            columns=self.columns,
            processes=self._processes.size,
        )

    def _kept_by(self, model: PreTrainedModel) -> Keeper:
        options, alone = self._options, self.config.adversary_settings.scope != "global"
        return Keeper(
            model,
            self.keeping_losses,
            self._rows(options["keep"], ()),
            batch_size=options["batch_size"],
            ranks=ALONE if alone else self._processes,
            autocast=options["accelerator"].autocast if options["accelerator"] else nullcontext,
            erased=self.tasks if self.config.options.keeping_erases else (),
            collate=options["collate"],
        )

    def _simulated_by(self, model: PreTrainedModel) -> Simulator:
        desired, keep = self._options["desired"], self._options["keep"]
        return Simulator(
            model,
            self.config,
            tasks=self.tasks,
            adversaries=self.adversaries,
            losses=self.blocking_losses,
            collate=self._options["collate"],
            columns=self.columns,
            benign=self._rows(desired, LABELS),
            general=self._rows(desired if keep is None else keep, ()),
            device=self.device,
            processes=self._processes,
        )

    def _rows(self, data: Any, labels: Sequence[str]) -> Rows:
        known = data if isinstance(data, Dataset) else None
        return Rows(known, self.columns, labels, self._options["collate_desired"])
