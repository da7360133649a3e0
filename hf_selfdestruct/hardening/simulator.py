"""The simulated fine-tunings of a training run: which one is due, its data, and what it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft import LoraConfig
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..adversaries.learned import LearnedAdversary
from ..losses.blocking import BlockingLoss
from ..meta_gradient.episode import MetaGradient
from ..meta_gradient.methods import method
from ..models import heads
from ..models.distributed import ALONE, Processes
from ..models.functional import Weights
from ..models.stateless import ADAPTER, StatelessModel, can_compact, plain
from ..tasks.blocked_task import BlockedTask, seed_of
from .config import HardeningConfig
from .episode_builder import Batch, Draw, EpisodeBuilder, Rows, Sources

LORA = LoraConfig(target_modules="all-linear")  # as QLoRA does (2305.14314)


@dataclass
class Simulator:
    """Draws a task and an adversary for each micro-step, finds the meta-gradient, and lets the adversary learn.

    Args:
        model: The model at the start; only its architecture is used.
        config: The settings of hardening, filled by their preset.
        tasks: Blocked tasks.
        adversaries: Adversaries to draw from.
        losses: Blocking losses to add up.
        collate: Makes a batch of blocked rows, on the right device.
        columns: Columns a blocked task's model accepts.
        benign: The desired task's training rows, for preludes.
        general: Rows for losses that are measured on general data.
        device: Where it is computed.
        processes: All processes of the training; each simulates an adversary of its own, or all one.
    """

    model: PreTrainedModel
    config: HardeningConfig
    tasks: Sequence[BlockedTask]
    adversaries: Sequence[Adversary]
    losses: Sequence[BlockingLoss]
    collate: Callable[[list[dict[str, Any]]], Batch]
    columns: Sequence[str]
    benign: Rows
    general: Rows
    device: torch.device
    processes: Processes = ALONE
    learned: dict[tuple[str, int], LearnedAdversary] = field(init=False)

    def __post_init__(self) -> None:
        """Build every skeleton that can be needed, so that what cannot be built is refused now."""
        # Fused attention kernels have no second derivative. A skeleton is apart from the live model, whose kernel
        # stays as it is.
        twice = self.config.meta_gradient == "unrolled" or any(loss.second_order for loss in self.losses)
        twice = twice or (self.config.meta_gradient == "exact" and self.config.options.hvp == "double_backward")
        self._twice = twice
        if twice and self.config.options.episode == "in_place":
            raise ValueError(
                "episode='in_place' runs the model's own kernels, which need not be twice differentiable: set "
                "meta_gradient='first_order', or 'exact' with method_options={'hvp': 'finite_difference'}, and leave "
                f"out losses that contain a gradient; got {self.config.meta_gradient!r}, {self.config.options.hvp!r} "
                f"and {', '.join(type(loss).__name__ for loss in self.losses)}."
            )
        self._way = method(self.config.meta_gradient or "", **self._options())
        self._last = (-1, 0)
        built = {t.name: heads.skeleton(self.model, t.outputs, auto_class=t.model_class) for t in self.tasks}
        benign = heads.live_skeleton(self.model, twice=twice)
        self._rows = all(can_compact(module) for module in (benign, *built.values()))
        self._benign = StatelessModel(benign, self.model, keep_head=True, rows=self._rows, twice=twice)
        self._skeletons = {
            (task.name, number): {
                (head, i): self._skeleton(task, head == "keep", trainable)
                for head in adversary.options("head")
                for i, trainable in enumerate(adversary.options("trainable"))
            }
            for task in self.tasks
            for number, adversary in enumerate(self.adversaries)
        }
        self.learned = {
            (task.name, number): self._newcomer(task, number, adversary)
            for task in self.tasks
            for number, adversary in enumerate(self.adversaries)
        }

    def draw(self, global_step: int) -> Draw:
        """What the next micro-step of this global step simulates."""
        micro = self._last[1] + 1 if self._last[0] == global_step else 0
        self._last = (global_step, micro)
        rank = 0 if self.config.adversary_settings.scope == "global" else self.processes.rank
        key: tuple[Any, ...] = (self.config.seed, global_step, micro, rank)
        generator = torch.Generator().manual_seed(seed_of("task", *key))
        task = self.tasks[int(torch.multinomial(torch.tensor([t.weight for t in self.tasks]), 1, generator=generator))]
        chances = torch.tensor([a.weight for a in self.adversaries])
        number = int(torch.multinomial(chances, 1, generator=generator))
        key = (task.name, *key)
        fine_tuning = self.adversaries[number].draw(global_step, *key)
        if fine_tuning.learns_rate:
            fine_tuning = replace(fine_tuning, learning_rate=self.learned[task.name, number].learning_rate)
        return Draw(task, number, fine_tuning, key)

    def ranks(self, model: PreTrainedModel) -> Processes:
        """Who simulates an adversary of this model together; sharded weights make sharded adversaries."""
        together = self.processes if self.config.adversary_settings.scope == "global" else ALONE
        return replace(together, sharded=any(isinstance(p, DTensor) for p in model.parameters()))

    def meta_gradient(self, model: PreTrainedModel, draw: Draw) -> MetaGradient:
        """The meta-gradient of what a draw stands for, starting from the live model's weights, by its names.

        It is found in the precision of the weights, float32 at least, whatever the outer step's. Shards that a forward
        has gathered are given back first: the model's parameters are then the shards.
        """
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        with torch.autocast(self.device.type, enabled=False):
            builder = self.builder(model, draw)
            found = self._way(builder.episode())
        if draw.fine_tuning.carries > 1:
            builder.carry(found.fast)
        return replace(found, weights=builder.whole(found.weights))

    def builder(self, model: PreTrainedModel, draw: Draw) -> EpisodeBuilder:
        """What builds the episode of a draw, around the live model's weights."""
        sources = Sources(
            config=self.config,
            skeleton=self.skeleton(draw),
            benign_skeleton=self._benign,
            learned=self.learned[draw.task.name, draw.number],
            losses=self.losses,
            collate=self.collate,
            columns=self.columns,
            benign=self.benign,
            general=self.general,
            ranks=self.ranks(model),
            device=self.device,
        )
        return EpisodeBuilder(sources, model, draw)

    def learn(self, draw: Draw, gradient: MetaGradient, *, share: float) -> None:
        """Hand the adversary its own gradients, to step by when the model does."""
        self.learned[draw.task.name, draw.number].accumulate(
            {plain(n): g for n, g in gradient.own.items() if ADAPTER not in n}, gradient.learning_rate, share=share
        )

    def skeleton(self, draw: Draw) -> StatelessModel:
        """The skeleton of a draw's adversary."""
        places = self.adversaries[draw.number].options("trainable")
        at = next(i for i, option in enumerate(places) if option == draw.fine_tuning.trainable)
        return self._skeletons[draw.task.name, draw.number][draw.fine_tuning.head, at]

    @property
    def published(self) -> set[str]:
        """Live names of the weights that adversaries start from."""
        return {name for kinds in self._skeletons.values() for kind in kinds.values() for name in kind.names.values()}

    @property
    def benign_skeleton(self) -> StatelessModel:
        """The live model's own skeleton, head included."""
        return self._benign

    def _options(self) -> dict[str, Any]:
        if self.config.meta_gradient != "exact":
            return {}
        return {"hvp": self.config.options.hvp, "trajectory": self.config.options.trajectory}

    def _skeleton(self, task: BlockedTask, keep_head: bool, trainable: str | LoraConfig) -> StatelessModel:
        module = heads.skeleton(self.model, task.outputs, twice=self._twice, auto_class=task.model_class)
        lora = trainable if isinstance(trainable, LoraConfig) else LORA if trainable == "lora" else None
        skeleton = StatelessModel(
            module, self.model, keep_head=keep_head, lora=lora, rows=self._rows, twice=self._twice
        )
        if skeleton.embedding != self._benign.embedding:
            raise ValueError(
                "an adversary's LoraConfig adapts the word embeddings, of which only the used rows exist here; leave "
                f"them out of target_modules={lora.target_modules if lora else None}."
            )
        skeleton.trained(trainable)  # refuses layers that are not there
        return skeleton

    def _newcomer(self, task: BlockedTask, number: int, adversary: Adversary) -> LearnedAdversary:
        head: Weights = {}
        if "learned" in adversary.options("head"):
            skeleton = self._skeletons[task.name, number]["learned", 0]
            seed = seed_of("learned head", self.config.seed, task.name, number)
            drawn = skeleton.draw(seed, device=self.device)
            head = {plain(n): value for n, value in drawn.items() if ADAPTER not in n}
        rate = adversary.options("learning_rate")[0]
        return LearnedAdversary(
            head,
            rate=rate,
            learns_rate=adversary.learns_rate,
            learning_rate=self.config.adversary_settings.head_learning_rate,
        )
