"""One draw of the simulation, set up: its batches, its weights and its losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..adversaries.member import Member
from ..adversaries.pool import Members
from ..losses.base import View, counting
from ..meta_gradient.episode import Episode, MetaGradient, Reading
from ..meta_gradient.outer_loss import step_shares
from ..models.distributed import sharded_like
from ..models.every_layer import probe
from ..models.functional import Weights, dropout, seeded, whole
from ..models.row_embedding import used_rows
from ..models.stateless import INDEX, OWN, StatelessModel, plain
from ..tasks.blocked_task import draw_rows, seed_of
from ..tasks.rows import LABELS
from .draw import Batch, Draw, Sources

PROBED = 256  # rows, at most, that a head is solved on


class EpisodeBuilder:
    """One draw, set up: batches, weights and losses of an episode.

    Args:
        sources: What to build from.
        model: The live model.
        draw: What to simulate.

    Attributes:
        blocked: The K batches the adversary trains on.
        held_out: The batch on which losses are measured.
    """

    def __init__(self, sources: Sources, model: PreTrainedModel, draw: Draw) -> None:
        self._sources, self._model, self._draw = sources, model, draw
        self._config, fine_tuning = sources.config, draw.fine_tuning
        self._skeleton, self._learned = sources.skeleton, sources.learned
        self._device, self._ranks = sources.device, sources.ranks
        task = draw.task
        rows = task.adversary_rows()
        if fine_tuning.examples is not None:
            rows = draw_rows(rows, fine_tuning.examples, "examples", *draw.once)
        self.blocked = [self._batch(rows, fine_tuning.batch_size, "inner", k) for k in range(fine_tuning.steps)]
        begins = fine_tuning.head == "probe" and not draw.age
        self._probed = self._batch(rows, PROBED, "probe") if begins else None
        self.held_out = self._batch(task.held_out_rows(), self._config.blocking_batch_size or 0, "held-out")
        self._prelude = [
            sources.benign.draw(fine_tuning.batch_size, "prelude", *draw.key, k) for k in range(fine_tuning.prelude)
        ]
        general = any(loss.on_general for loss in sources.losses)
        size = self._config.blocking_batch_size or 0
        self._general = sources.general.draw(size, "general", *draw.key) if general else None
        self._chosen: Tensor | None = None
        options, sharded = self._config.options, self._ranks.sharded
        self._live = dict(model.named_parameters()) if sharded and options.episode == "in_place" else {}
        self._constants = {n: _full(b.detach()).clone() for n, b in model.named_buffers()}

    def episode(self) -> Episode:
        """The fine-tuning, from the live model's weights."""
        fine_tuning, options = self._draw.fine_tuning, self._config.options
        published, member = self._published(), self._draw.member or Member(0)
        self._plain = dict(published)
        # A prelude may have moved the published head, which blocked steps leave alone.
        for name, offset in self._here({n: v for n, v in member.offset.items() if n in published}).items():
            published[name] = self._gathered(published[name]) + offset
        own = self._here(member.own) or {OWN + n: w for n, w in self._own(published).items()}
        own = {OWN + n: own[OWN + n] for n in self._skeleton.own}  # in one order, wherever they were stored
        moving = self._skeleton.trained(fine_tuning.trainable)
        if self._prelude:
            moving |= self._sources.benign_skeleton.trained("all")
        self._moving = [n for n in (*published, *own) if n in moving]
        inner = [self._benign_loss(batch) for batch in self._prelude]
        inner += [self._blocked_loss(k, batch) for k, batch in enumerate(self.blocked)]
        shares = step_shares(options.step_weights, fine_tuning.steps, options.blocking_every)
        return Episode(
            published=published,
            own=own,
            moving=frozenset(self._moving),
            inner_losses=inner,
            measure=self._measure,
            shares=[None] * fine_tuning.prelude + shares,
            optimizer=fine_tuning.optimizer,
            learning_rate=fine_tuning.learning_rate,
            learns=fine_tuning.head == "learned" and not self._draw.age,  # later it is no longer at the learned head
            learns_rate=fine_tuning.learns_rate,
            wanted=frozenset(n for n, p in self._model.named_parameters() if p.requires_grad),
            moments={kind: self._here(values) for kind, values in member.moments.items()},
            taken=member.taken,
            stores=self._draw.member is not None,
            ranks=self._ranks,
            held=self._held if options.episode == "in_place" else None,
            live={n: p for n, p in self._live.items() if n in published},
        )

    def store(self, members: Members, member: Member, found: MetaGradient) -> None:
        """Store where a stretch of a pool's adversary ended, relative to the published weights."""
        offset = {n: w - self._gathered(self._plain[n]) for n, w in found.fast.items() if n in self._plain}
        members.store(
            member,
            offset=self.whole(offset, onto=member.offset),
            own={n: w for n, w in found.fast.items() if n not in self._plain},
            moments={n: self.whole(values, onto=member.moments.get(n)) for n, values in found.moments.items()},
            blocked=len(self.blocked),
            taken=len(self._prelude) + len(self.blocked),
            score=found.scores[max(found.scores)],
        )

    def whole(self, weights: Weights, *, onto: Weights | None = None) -> Weights:
        """Values for whole embeddings, from those for the rows that exist here.

        They are written into the table in ``onto``, if there is one, else into one of zeros.
        """
        name = self._skeleton.embedding
        if self._chosen is None or name not in weights:
            return weights
        table = (onto or {}).get(name)
        if table is None:
            table = weights[name].new_zeros(self._model.get_parameter(name).shape)
        rows = self._chosen.to(table.device)
        return {**weights, name: table.index_copy_(0, rows, weights[name].to(table.device, table.dtype))}

    def _published(self) -> Weights:
        used = {*self._skeleton.names.values()}
        if self._prelude:
            used |= {*self._sources.benign_skeleton.names.values()}
        published = {n: _full(p.detach()) for n, p in self._model.named_parameters() if n in used}
        if (name := self._skeleton.embedding) is not None and not self._live:
            batches = [*self._prelude, *self.blocked, self.held_out]
            batches += [batch for batch in (self._general, self._probed) if batch is not None]
            rows, index = used_rows(batches, len(published[name]), self._skeleton.padding)
            self._chosen = rows.to(self._device)
            published[name] = whole(published[name])[self._chosen]
            self._constants[INDEX] = index.to(self._device)
        return published

    def _here(self, stored: Weights) -> Weights:
        """What a pool's adversary stored, where and in the precision in which it continues; of a table the rows here.

        It is read from where a checkpoint was loaded, which is not where training is.
        """
        kind = torch.promote_types(self._model.dtype, torch.float32)
        chosen, name = self._chosen, self._skeleton.embedding
        if chosen is not None and name in stored:
            stored = {**stored, name: stored[name][chosen.to(stored[name].device)]}
        found = {n: v.to(self._device, torch.promote_types(v.dtype, kind)) for n, v in stored.items()}
        return {n: sharded_like(v, self._live[n]) if n in self._live else v for n, v in found.items()}

    def _gathered(self, weight: Tensor) -> Tensor:
        """A published weight as the episode has it: a shard in place, else whole."""
        return weight if self._live else whole(weight)

    def _own(self, published: Weights) -> Weights:
        """The adversary's head and adapters: learned, solved, or drawn for this episode."""
        drawn: Weights = {}
        learned = self._learned.head if self._draw.fine_tuning.head == "learned" else {}
        own = self._skeleton.own
        if any(plain(n) not in learned for n in own):
            drawn = self._skeleton.draw(seed_of("head", *self._draw.once), device=self._device)
        found = {n: learned[plain(n)] if plain(n) in learned else drawn[n] for n in own}
        if self._probed is None:
            return found
        known = self._probe(self._probed, {**published, **{OWN + n: w for n, w in found.items()}})
        return {n: known.get(plain(n), w) for n, w in found.items()}

    def _probe(self, batch: Batch, weights: Weights) -> Weights:
        """A head that knows what a probe of the adversary's rows knows; what is left of whole batches is not read."""
        size, labels = self._draw.fine_tuning.batch_size, batch["labels"].flatten()
        count = max(size, len(labels) // size * size)
        parts = [
            {n: v[start : start + size] for n, v in batch.items() if n not in LABELS} for start in range(0, count, size)
        ]
        with torch.no_grad():
            found = [self._run(self._skeleton, weights, part, only_features=True).logits for part in parts]
        return probe(torch.cat(found), labels[:count], self._draw.task.outputs)

    def _run(
        self, skeleton: StatelessModel, weights: Weights, batch: Batch, *, training: bool = False, **options: Any
    ) -> Any:
        by_batch = self._by_batch(skeleton)
        with dropout(skeleton.module, on=training, by_batch=by_batch) if training or by_batch else nullcontext():
            return skeleton.run({**self._constants, **weights}, {**batch, **options})

    def _by_batch(self, skeleton: StatelessModel) -> bool:
        return skeleton.normalises_batches and self._draw.fine_tuning.batch_norm == "batch"

    def _held(self, weights: Weights, k: int | None) -> AbstractContextManager[None]:
        benign = k is not None and k < len(self._prelude)
        skeleton = self._sources.benign_skeleton if benign else self._skeleton
        training = self._draw.fine_tuning.dropout and k is not None and not benign
        by_batch = self._by_batch(skeleton)
        return skeleton.held(self._model, {**self._constants, **weights}, training=training, by_batch=by_batch)

    def _benign_loss(self, batch: Batch) -> Callable[[Weights], Tensor]:
        # Its mean is the model's own affair, so every process computes the whole and counts for its share.
        skeleton, size = self._sources.benign_skeleton, self._ranks.size
        return lambda weights: self._run(skeleton, weights, batch).loss / size

    def _blocked_loss(self, k: int, batch: Batch) -> Callable[[Weights], Tensor]:
        counted, kind = counting(batch["labels"]).sum(), self._draw.task.kind
        part = self._ranks.part(batch)
        labels = part.pop("labels").flatten()

        def loss(weights: Weights) -> Tensor:
            with self._seeded(k):
                logits = self._run(self._skeleton, weights, part, training=self._draw.fine_tuning.dropout).logits
            return kind.loss(logits.flatten(0, -2), labels, reduction="sum") / counted

        return loss

    def _measure(self, weights: Weights) -> Reading:
        losses = self._sources.losses
        deep = any(loss.wants_hidden_states for loss in losses)
        views = {False: self._view(weights, self.held_out, deep=deep)}
        if self._general is not None:
            views[True] = self._view(weights, self._general, deep=False)
        total = torch.stack([loss.weight * loss.forward(views[loss.on_general]) for loss in losses]).sum()
        (logits, labels), kind = views[False].counted(), self._draw.task.kind
        return Reading(total, kind.loss(logits, labels), kind.credit(labels, logits).float().mean().item())

    def _view(self, weights: Weights, batch: Batch, *, deep: bool) -> View:
        part = self._ranks.part({n: v for n, v in batch.items() if n not in LABELS})
        options = {"output_hidden_states": True} if deep else {}
        answers = self._run(self._skeleton, weights, part, **options)
        count = len(next(iter(batch.values())))
        logits = self._ranks.joined(answers.logits, count)
        hidden = [self._ranks.joined(state, count) for state in answers.hidden_states] if deep else ()
        labels, here = batch.get("labels"), logits.shape[:-1]
        if labels is None or (batch is self._general and labels.shape != here):  # a language model's are for tokens
            labels = logits.new_zeros(here).long()
        moving = Unread() if self._live else [weights[n] for n in self._moving]
        return View(logits, labels, hidden, batch.get("attention_mask"), moving)

    def _batch(self, rows: np.ndarray, size: int, *use: Any) -> Batch:
        chosen = draw_rows(rows, size, *use, *self._draw.key)
        task = self._draw.task
        batch = self._sources.collate(task.features("train", chosen.tolist(), self._sources.columns))
        return {**batch, "labels": task.kind.targets(batch["labels"])}

    def _seeded(self, k: int) -> Any:
        rank = [self._ranks.rank] if self._ranks.rank else []  # other rows, other masks
        seed = seed_of("dropout", *self._draw.key, k, *rank) if self._draw.fine_tuning.dropout else None
        return seeded(seed, [self._device])


class Unread(Sequence[Tensor]):
    """Weights that a loss cannot read: FSDP gathers sharded ones for a layer at a time."""

    def __len__(self) -> int:
        """Refused."""
        raise ValueError("a blocking loss reads View.weights, and these are sharded: set {'episode': 'flat'}.")

    def __getitem__(self, index: Any) -> Any:
        """Refused."""
        return len(self)


def _full(value: Tensor) -> Tensor:
    """Half-precision weights and statistics take part in the inner loop in float32; others as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
