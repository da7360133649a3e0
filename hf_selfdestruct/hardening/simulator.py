"""The simulated fine-tunings of a training run: which one is due, its data, and what it learns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..adversaries.learned import LearnedAdversary
from ..adversaries.pool import Members
from ..losses.blocking import BlockingLoss
from ..meta_gradient.episode import MetaGradient
from ..meta_gradient.methods import method
from ..models import heads
from ..models.distributed import ALONE, Processes, is_sharded, reshard
from ..models.every_layer import AutoModelForEveryLayer
from ..models.functional import Weights
from ..models.pairs import AutoModelForTextPairs
from ..models.row_embedding import can_compact
from ..models.stateless import ADAPTER, StatelessModel, plain
from ..tasks.blocked_task import BlockedTask, seed_of
from ..tasks.rows import LABELS
from .config import HardeningConfig
from .draw import Batch, Draw, Rows, Sources
from .episode_builder import EpisodeBuilder
from .sharding import check_in_place

POOL = "/pool/"  # before the names of a pool's state: no task's name has a slash

logger = logging.getLogger(__name__)
LORA = LoraConfig(target_modules="all-linear")  # as QLoRA does (2305.14314)


@dataclass
class Simulator:
    """Draws a task and an adversary for each micro-step, finds the meta-gradient, and lets the adversary learn.

    Args:
        model: The model at the start, for its architecture and the widths of its layers.
        config: The settings of hardening, filled by their preset.
        tasks: Blocked tasks.
        adversaries: Adversaries to draw from.
        losses: Blocking losses to add up.
        collate: Makes a batch of blocked rows, on the right device.
        columns: Columns a blocked task's model accepts.
        benign: The desired task's training rows, for preludes.
        general: Rows for losses that are measured on general data.
        device: Where it is computed.
        processes: All processes of the training; each simulates adversaries of its own, or all the same.
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
    members: Members | None = field(init=False)

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
        exact = self.config.meta_gradient == "exact"
        ways = {name: getattr(self.config.options, name) for name in ("hvp", "trajectory")} if exact else {}
        self._way = method(self.config.meta_gradient or "", **ways)
        self._last = (-1, 0)
        built = {t.name: heads.skeleton(self.model, t.outputs, auto_class=t.model_class) for t in self.tasks}
        benign = heads.live_skeleton(self.model, twice=twice)
        self._rows = all(can_compact(module) for module in (benign, *built.values()))
        self._benign = StatelessModel(benign, self.model, keep_head=True, rows=self._rows, twice=twice)
        self._skeletons = {
            (task.name, number): {
                (head, i, pairs, reads): self._skeleton(task, head == "keep", trainable, pairs, reads)
                for head in adversary.options("head")
                for i, trainable in enumerate(adversary.options("trainable"))
                for pairs in adversary.options("pairs")
                for reads in adversary.options("reads")
            }
            for task in self.tasks
            for number, adversary in enumerate(self.adversaries)
        }
        pool = self.config.adversary_settings.adversary_pool()
        self.members = Members(pool, self.device, self._owners) if pool else None
        self.learned = {
            (task.name, number): self._newcomer(task, number, adversary)
            for task in self.tasks
            for number, adversary in enumerate(self.adversaries)
        }

    def draw(self, global_step: int) -> Draw:
        """What the next micro-step of this global step simulates; no adversary's steps while the model unlearns."""
        micro = self._last[1] + 1 if self._last[0] == global_step else 0
        self._last = (global_step, micro)
        key: tuple[Any, ...] = (self.config.seed, global_step, micro, self._owners.rank)
        unlearns = global_step < self.config.options.unlearn_steps
        member = self.members.next(*key) if self.members and not unlearns else None
        life = ("pool", self.config.seed, member.number, member.life) if member else key
        generator = torch.Generator().manual_seed(seed_of("task", *life))
        task = self.tasks[int(torch.multinomial(torch.tensor([t.weight for t in self.tasks]), 1, generator=generator))]
        number = int(torch.multinomial(torch.tensor([a.weight for a in self.adversaries]), 1, generator=generator))
        key, life = (task.name, *key), (task.name, *life)
        healed = member is not None and bool(member.taken)  # an attacker heals once
        lived = self.members.settings.lived(member) if self.members and member else 0.0
        fine_tuning = self.adversaries[number].draw(global_step, *life, healed=healed, lived=lived)
        if fine_tuning.learns_rate:
            fine_tuning = replace(fine_tuning, learning_rate=self.learned[task.name, number].learning_rate)
        if unlearns:
            fine_tuning = replace(fine_tuning, steps=0, prelude=0, learns_rate=False)
        return Draw(task, number, fine_tuning, key, life, member, member.age if member else 0)

    def ranks(self, model: PreTrainedModel) -> Processes:
        """Who simulates an adversary of this model together; sharded weights make sharded adversaries."""
        together = self.processes if self.config.adversary_settings.scope == "global" else ALONE
        if not is_sharded(model):
            return together
        if self.config.options.episode == "in_place":
            check_in_place(model, self.config, together.size, self.adversaries, self.losses)
        return replace(together, sharded=True)

    def meta_gradient(self, model: PreTrainedModel, draw: Draw) -> MetaGradient | None:
        """The meta-gradient of what a draw stands for, starting from the live model's weights, by its names.

        It is found in the precision of the weights, float32 at least, whatever the outer step's. Shards that a forward
        has gathered are given back first: the model's parameters are then the shards.

        Returns:
            ``None`` where a pool's adversary diverged after its first stretch: it was reset, and nothing is blocked.
        """
        reshard(model)
        with torch.autocast(self.device.type, enabled=False):
            builder = self.builder(model, draw)
            found = self._way(builder.episode())
        if self.members is not None and draw.member is not None:
            self.members.turn += 1
            if found.finite():
                builder.store(self.members, draw.member, found)
            elif draw.age:
                logger.warning("an adversary of the pool diverged at age %d: it is reset.", draw.age)
                draw.member.reset()
                return None
        return replace(found, weights=builder.whole(found.weights))

    def place(self, draw: Draw, k: int) -> str:
        """Where a reading was taken, as the log names it: the inner step, or the age of a pool's adversary."""
        if self.members is None:
            return f"step_{k}"
        return f"age_{self.members.settings.bin(draw.age + max(0, k - draw.fine_tuning.prelude))}"

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

    def state_dict(self) -> dict[str, Tensor]:
        """What the adversaries have learned, and where those of a pool are; every process must call this."""
        pool = self.members.state_dict() if self.members else {}
        return {POOL + name: value for name, value in pool.items()} | {
            f"{task}/{number}/{key}": value
            for (task, number), adversary in self.learned.items()
            for key, value in adversary.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            ValueError: It is the state of other tasks or adversaries.
        """
        pool = {name.removeprefix(POOL): value for name, value in state.items() if name.startswith(POOL)}
        state = {name: value for name, value in state.items() if not name.startswith(POOL)}
        found = {tuple(name.split("/", 2)[:2]) for name in state}
        expected = {(task, str(number)) for task, number in self.learned}
        if found != expected:
            raise ValueError(
                f"the state contains adversaries {sorted(found)}, but this run has {sorted(expected)}; resume with the "
                "blocked tasks and adversaries of the first run."
            )
        if bool(pool) != (self.members is not None):
            raise ValueError(
                f"the state contains {'a' if pool else 'no'} pool of adversaries, unlike this run; resume with the "
                "adversary's settings of the first run."
            )
        for (task, number), adversary in self.learned.items():
            prefix = f"{task}/{number}/"
            adversary.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
        if self.members is not None:
            self.members.load_state_dict(pool)

    def skeleton(self, draw: Draw) -> StatelessModel:
        """The skeleton of a draw's adversary."""
        drawn, places = draw.fine_tuning, self.adversaries[draw.number].options("trainable")
        at = next(i for i, option in enumerate(places) if option == drawn.trainable)
        return self._skeletons[draw.task.name, draw.number][drawn.head, at, drawn.pairs, drawn.reads]

    @property
    def published(self) -> set[str]:
        """Live names of the weights that adversaries start from."""
        return {name for kinds in self._skeletons.values() for kind in kinds.values() for name in kind.names.values()}

    def pool_bytes(self) -> int:
        """Memory, or room on disk, that the pool takes when all have begun, at most; 0 without a pool."""
        live, counts = dict(self.model.named_parameters()), [0]
        for (_, number), skeletons in self._skeletons.items():
            adversary = self.adversaries[number]
            moments = max(len(optimizer.init(torch.empty(0))) for optimizer in adversary.options("optimizer"))
            for (_, place, *_), skeleton in skeletons.items():
                names = skeleton.trained(adversary.options("trainable")[place])
                own = sum(skeleton.module.get_parameter(name).numel() for name in skeleton.own)
                counts.append((own + sum(live[n].numel() for n in names & live.keys())) * (1 + moments))
        return self.members.settings.bytes(max(counts)) if self.members else 0

    @property
    def benign_skeleton(self) -> StatelessModel:
        """The live model's own skeleton, head included."""
        return self._benign

    @property
    def _owners(self) -> Processes:
        """The processes that have adversaries of their own; where all have the same, they count as one."""
        return ALONE if self.config.adversary_settings.scope == "global" else self.processes

    def _skeleton(
        self, task: BlockedTask, keep_head: bool, trainable: str | LoraConfig, pairs: str, reads: str
    ) -> StatelessModel:
        kind = AutoModelForTextPairs if pairs == "apart" else task.model_class
        kind = self._reader if reads == "all_layers" else kind
        module = heads.skeleton(self.model, task.outputs, twice=self._twice, auto_class=kind)
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

    @cached_property
    def _reader(self) -> AutoModelForEveryLayer:
        few = self.collate(self.tasks[0].features("train", [0, 1], self.columns))  # of any task: one trunk reads them
        return AutoModelForEveryLayer(self.model, {n: v for n, v in few.items() if n not in LABELS})

    def _newcomer(self, task: BlockedTask, number: int, adversary: Adversary) -> LearnedAdversary:
        head: Weights = {}
        if "learned" in adversary.options("head"):
            seed = seed_of("learned head", self.config.seed, task.name, number)
            for reads in adversary.options("reads"):
                drawn = self._skeletons[task.name, number]["learned", 0, "joined", reads].draw(seed, device=self.device)
                head |= {plain(n): value for n, value in drawn.items() if ADAPTER not in n}
        return LearnedAdversary(
            head,
            rate=adversary.options("learning_rate")[0],
            learns_rate=adversary.learns_rate,
            learning_rate=self.config.adversary_settings.head_learning_rate,
        )
