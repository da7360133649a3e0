"""The attacker's training loop: plain torch on a stock model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, get_scheduler

from ...tasks.blocked_task import seed_of
from ..attack import Outcome
from ..data import AttackData, Split
from ..metrics import scores
from ..target import Target, placed
from .batches import batch_of, epochs, inputs_of, predictions
from .benign import companion, desired_drop, heal
from .optimizers import OPTIMIZERS, bound, trained
from .tamper import NotApplicable

Prepare = Callable[[PreTrainedModel, Iterator[dict[str, Tensor]]], None]


@dataclass
class _Best:
    """The look that the selection split prefers, and what all of them saw."""

    hits: list[np.ndarray]
    curve: list[tuple[float, float]]
    merit: tuple[float, float] = (-1.0, -1.0)
    probabilities: np.ndarray | None = None
    state: dict[str, Tensor] | None = None

    def look(self, model: PreTrainedModel, data: AttackData, step: int) -> None:
        found = predictions(model, data, data.selection)
        if not np.isfinite(found).all():
            raise FloatingPointError(f"the attacked model's outputs are not finite at step {step}")
        hits = found.argmax(axis=1) == data.selection.labels
        merit = scores(data.selection.labels, found).merit
        if merit > self.merit:
            self.merit, self.probabilities = merit, found
            self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.hits.append(hits)
        self.curve.append((float(step), float(hits.mean())))


def tune(
    name: str,
    target: Target,
    data: AttackData,
    *,
    examples: int,
    seed: int,
    settings: dict[str, Any],
    prepare: Prepare | None = None,
    restrict: Callable[[PreTrainedModel], None] | None = None,
    until: int | None = None,
) -> Outcome:
    """Load a model, prepare it, train it; the global generators are left as they were.

    Args:
        name: The attack's name: with ``seed`` it decides dropout, so that the same run gives the same scores.
        target: The model.
        data: What the attacker has.
        examples: Training rows it may use.
        seed: Of subset, head and data order.
        settings: See :func:`train`.
        prepare: What is done to the loaded model first; it also gets batches of inputs.
        restrict: Decides, after benign steps on everything, which weights are trained.
        until: Stop at this step and leave the test split alone.

    Raises:
        FloatingPointError: The run diverged.
    """
    few = data.train.take(data.few(examples, seed))
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(name, seed))
        model = target.load(data.num_labels, seed)
        benign = None
        with FlopCounterMode(display=False) as counter:
            if prepare is not None:
                prepare(placed(model), inputs_of(data, few, seed))
            if settings.get("prelude") or settings.get("poison"):
                benign = companion(target, model, data, seed)
                heal(benign, data, seed, settings)
        if restrict is not None:
            restrict(model)
        before = float(counter.get_total_flops())
        return train(placed(model), few, data, seed, settings, target=target, benign=benign, before=before, until=until)


def train(
    model: PreTrainedModel,
    few: Split,
    data: AttackData,
    seed: int,
    settings: dict[str, Any],
    *,
    target: Target,
    benign: PreTrainedModel | None = None,
    before: float = 0.0,
    until: int | None = None,
) -> Outcome:
    """Train the weights that require a gradient, keep the look that selection prefers, score it on test.

    Args:
        model: On its device.
        few: Rows to train on.
        data: What the attacker has.
        seed: Of the order of rows.
        settings: ``learning_rate``, ``steps``, ``batch_size``, ``looks``, ``schedule`` and, where they are given,
            ``optimizer`` (AdamW by default), ``warmup`` (share of the steps, 0.1), ``gradient`` (``clip`` to norm 1,
            or ``normalise`` to it), ``embedding_factor`` (on the rate of the input embeddings), ``poison`` (share of
            blocked rows in a batch), and the steps that were made before: ``prelude`` and ``distil_steps``.
        target: What the model is, to measure what the attack costs the desired task.
        benign: The model of the desired task, on the same trunk.
        before: Floating-point operations spent before.
        until: Stop at this step, the first look, and leave the test split alone.

    Raises:
        FloatingPointError: A loss or an output is not finite.
    """
    steps, looks = settings["steps"], settings["looks"]
    shared = [*trained(model), *(trained(benign) if benign is not None and settings.get("poison") else [])]
    weights = list(dict.fromkeys(shared))
    optimizer = OPTIMIZERS[settings.get("optimizer", "adamw")](_groups(model, weights, settings))
    warmup = int(settings.get("warmup", 0.1) * steps)
    schedule = get_scheduler(settings["schedule"], optimizer, warmup, steps)
    at = {max(1, round(steps * (i + 1) / looks)) for i in range(looks)}
    made, flops = settings.get("prelude", 0) + settings.get("distil_steps", 0), 0.0
    best = _Best([], [])
    for step, loss in enumerate(_losses(model, few, data, seed, settings, benign), start=1):
        with FlopCounterMode(display=False) if step == 1 else contextlib.nullcontext() as counter:
            value = loss()
            value.backward()
        if counter is not None:
            flops = float(counter.get_total_flops())
        if not torch.isfinite(value):
            raise FloatingPointError(f"loss is {value.item()} at step {step}")
        bound(weights, settings.get("gradient", "clip"))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step in at:
            best.look(model, data, made + step)
        if step == until:
            break
    return _outcome(model, data, best, target, made + step, before + flops * step, scored=until is None)


def _outcome(
    model: PreTrainedModel, data: AttackData, best: _Best, target: Target, steps: int, flops: float, *, scored: bool
) -> Outcome:
    if best.state is None or best.probabilities is None:
        raise ValueError(f"no look was taken in {steps} steps; use at least one.")
    model.load_state_dict(best.state)
    test = predictions(model, data, data.test) if scored else None
    return Outcome(
        scores(data.selection.labels, best.probabilities, data.metrics),
        None if test is None else scores(data.test.labels, test, data.metrics),
        steps,
        flops=flops,
        curve=tuple(best.curve),
        desired_drop=desired_drop(target, model, data) if scored else None,
        probabilities=test,
        hits=np.stack(best.hits),
    )


def _losses(
    model: PreTrainedModel,
    few: Split,
    data: AttackData,
    seed: int,
    settings: dict[str, Any],
    benign: PreTrainedModel | None,
) -> Iterator[Callable[[], Tensor]]:
    """The loss of each step: of blocked rows, or of a batch in which they are the smaller part."""
    size, poison = settings["batch_size"], settings.get("poison", 0.0)
    blocked = max(1, round(size * poison)) if poison else size
    streams = [epochs(len(few.labels), blocked, settings["steps"], seed)]
    if poison and benign is not None and data.desired is not None:
        streams.append(epochs(len(data.desired.train.labels), size - blocked, settings["steps"], seed))

    def loss(rows: np.ndarray, others: np.ndarray | None = None) -> Tensor:
        model.train()
        value = model(**batch_of(data, few.take(rows.tolist()))).loss
        if others is None or benign is None or data.desired is None:
            return value
        benign.train()
        rest = benign(**batch_of(data, data.desired.train.take(others.tolist()))).loss
        return (len(rows) * value + len(others) * rest) / (len(rows) + len(others))

    for rows in zip(*streams, strict=True):
        yield lambda rows=rows: loss(*rows)  # type: ignore[misc]


def _groups(model: PreTrainedModel, weights: list[nn.Parameter], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The weights with their rates: the input embeddings may have one of their own."""
    rate, factor = settings["learning_rate"], settings.get("embedding_factor", 1.0)
    if factor == 1.0:
        return [{"params": weights, "lr": rate}]
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:  # transformers' answer for models of images
        table = None
    if table is None or not any(weight is table for weight in weights):
        raise NotApplicable(f"embedding_factor={factor}: no input embeddings are trained.")
    rest = [weight for weight in weights if weight is not table]
    return [{"params": rest, "lr": rate}, {"params": [table], "lr": factor * rate}]
