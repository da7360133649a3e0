"""The attacker's training loop: plain torch on a stock model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, get_scheduler

from ...tasks.blocked_task import seed_of
from ..attack import Outcome, Trial
from ..data import AttackData, Split
from ..metrics import scores
from ..target import device, placed
from .batches import batch_of, epochs, inputs_of, predictions
from .benign import companion, desired_drop, heal
from .general import general_before, general_loss
from .gibberish import gibberish_before, gibberish_rate
from .optimizers import OPTIMIZERS, bound, trained
from .picture_options import moved, to_training
from .step_options import Average, Precision, fewer_words, first_steps, groups

Prepare = Callable[[PreTrainedModel, Iterator[dict[str, Tensor]]], None]
Losses = Iterator[Callable[[], Tensor]]


@dataclass
class _Best:
    """The look that the selection split prefers, and what all of them saw."""

    hits: list[np.ndarray]
    curve: list[tuple[float, float]]
    merit: tuple[float, float] = (-math.inf, -math.inf)
    answers: np.ndarray | None = None
    state: dict[str, Tensor] | None = None
    step: int = 0
    averaged: bool = False
    general: list[float] = field(default_factory=list)
    at: int = 0

    def look(self, model: PreTrainedModel, data: AttackData, step: int, average: Average | None = None) -> None:
        self._look(model, data, step)
        if average is not None:
            with average.in_place():
                self._look(model, data, step, averaged=True)

    def _look(self, model: PreTrainedModel, data: AttackData, step: int, *, averaged: bool = False) -> None:
        kind, labels = data.kind, data.selection.labels
        found = predictions(model, data, data.selection, kind)
        if not np.isfinite(found).all():
            raise FloatingPointError(f"the attacked model's outputs are not finite at step {step}")
        hits = kind.credit(labels, found)
        merit = scores(labels, found, kind=kind).merit
        better = merit > self.merit
        if better:
            self.merit, self.answers, self.step, self.averaged = merit, found, step, averaged
            self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.hits.append(hits)
        value = max(float(hits.mean()), self.curve.pop()[1] if averaged else -math.inf)
        self.curve.append((float(step), value))
        self._general(model, data, better=better, again=averaged)

    def _general(self, model: PreTrainedModel, data: AttackData, *, better: bool, again: bool) -> None:
        """One general loss for each step that was looked at, where there is any: that of the better of its looks."""
        if (not again or better) and (general := general_loss(model, data)) is not None:
            self.general[len(self.curve) - 1 :] = [general]
        if better:
            self.at = len(self.curve) - 1


def tune(
    name: str,
    trial: Trial,
    *,
    prepare: Prepare | None = None,
    restrict: Callable[[PreTrainedModel], None] | None = None,
    under: Callable[[PreTrainedModel, Split], Any] | None = None,
    losses: Callable[..., Losses] | None = None,
) -> Outcome:
    """Load a model, prepare it, train it; the global generators are left as they were.

    Args:
        name: The attack's name: with the seed it decides dropout, so that the same run gives the same scores.
        trial: What the run is given; of its settings see :func:`train`.
        prepare: What is done to the loaded model first; it also gets batches of inputs.
        restrict: Decides, after benign steps on everything, which weights are trained.
        under: Puts the model, which is on its device, under another head; it also gets the training rows.
        losses: What takes the place of :func:`losses_of`.

    Raises:
        FloatingPointError: The run diverged.
    """
    data, seed = trial.data, trial.seed
    few = trial.rows()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(name, seed))
        kind = data.kind
        model = trial.target.load(data.num_labels, seed, kind.problem_type, auto=kind.model_class)
        benign = None
        with FlopCounterMode(display=False) as counter:
            if prepare is not None:
                prepare(placed(model), inputs_of(data, few, seed))
            if trial.settings.get("prelude") or trial.settings.get("poison"):
                benign = companion(trial.target, model, data, seed)
                heal(benign, data, seed, trial.settings)
        if restrict is not None:
            restrict(model)
        if under is not None:
            model = under(placed(model), few)
        before = float(counter.get_total_flops())
        return train(placed(model), few, trial, benign=benign, before=before, losses=losses)


def train(
    model: PreTrainedModel,
    few: Split,
    trial: Trial,
    *,
    benign: PreTrainedModel | None = None,
    before: float = 0.0,
    losses: Callable[..., Losses] | None = None,
) -> Outcome:
    """Train the weights that require a gradient, keep the look that selection prefers, score it on test.

    A short run, up to a rung, has a schedule of its own, so that its rate has fallen as far as a whole run's will, and
    one look, at its end. A refit follows the whole schedule without a look, up to the step of the best one (the first
    of equals) before.

    Args:
        model: On its device.
        few: Rows to train on.
        trial: What the run is given. Its settings are ``learning_rate``, ``steps``, ``batch_size``, ``looks``,
            ``schedule`` and, where they are given, ``optimizer`` (AdamW by default), ``warmup`` (share of the steps,
            0.1), ``gradient`` (``clip`` to norm 1, or ``normalise`` to it), ``embedding_factor`` (on the rate of the
            input embeddings), ``layer_decay`` (on the rate, for each layer from the last one down), ``unfreezing``
            (share of the steps after which all layers move, from the last one down), ``average`` (share that a
            running mean of the weights keeps; looks are taken at both), ``word_dropout`` (share of words that a
            training batch leaves out), ``batch_norm`` (whose statistics are used), ``crops`` (pixels by which pictures
            are shifted at most, half of them flipped), ``precision`` (of the forward pass), ``patience`` (training
            ends at a look that lies a third of its steps after the best one, but never before so many), ``poison``
            (share of blocked rows in a batch), and the steps that were made before: ``prelude`` and ``distil_steps``.
        benign: The model of the desired task, on the same trunk.
        before: Floating-point operations spent before.
        losses: What takes the place of :func:`losses_of`.

    Raises:
        FloatingPointError: A loss or an output is not finite.
    """
    settings = trial.followed()
    steps, looks = settings["steps"], settings["looks"]
    shared = [*trained(model), *(trained(benign) if benign is not None and settings.get("poison") else [])]
    weights = list(dict.fromkeys(shared))
    optimizer = OPTIMIZERS[settings.get("optimizer", "adamw")](groups(model, weights, settings))
    precision = Precision(settings, device().type)
    average = Average(weights, settings["average"]) if "average" in settings else None
    first = first_steps(model, settings)
    warmup = int(settings.get("warmup", 0.1) * steps)
    schedule = get_scheduler(settings["schedule"], optimizer, warmup, steps)
    at = {max(1, round(steps * (i + 1) / looks)) for i in range(looks)}
    made, flops = settings.get("prelude", 0) + settings.get("distil_steps", 0), 0.0
    last = trial.until if trial.refit is None else int(max(trial.refit.curve, key=lambda p: p[1])[0]) - made
    best = _Best([], [])
    for step, loss in enumerate((losses or losses_of)(model, few, trial, benign), start=1):
        with FlopCounterMode(display=False) if step == 1 else contextlib.nullcontext() as counter:
            with precision.forward():
                value = loss()
            precision.backward(value, optimizer)
        if counter is not None:
            flops = float(counter.get_total_flops())
        if not torch.isfinite(value):
            raise FloatingPointError(f"loss is {value.item()} at step {step}")
        for weight in (one for one in weights if step < first.get(id(one), 1)):
            weight.grad = None
        bound(weights, settings.get("gradient", "clip"))
        precision.step(optimizer)
        schedule.step()
        optimizer.zero_grad()
        if average is not None:
            average.update()
        if step in at and trial.refit is None:
            best.look(model, trial.data, made + step, average)
        waited = 3 * (made + step - best.step) >= step >= settings.get("patience", math.inf)
        if step == last or (step in at and trial.refit is None and waited):
            break
    if trial.refit is not None:
        averaged = average if average is not None and trial.refit.found["weights"] == "averaged" else None
        with averaged.in_place() if averaged else contextlib.nullcontext():
            return _refitted(model, trial, made + step, before + flops * step)
    return _outcome(model, best, trial, made + step, before + flops * step)


def _outcome(model: PreTrainedModel, best: _Best, trial: Trial, steps: int, flops: float) -> Outcome:
    if best.state is None or best.answers is None:
        raise ValueError(f"no look was taken in {steps} steps; use at least one.")
    model.load_state_dict(best.state)
    data, scored, kind = trial.data, trial.until is None, trial.data.kind
    test = predictions(model, data, data.test, kind) if scored else None
    before, drop = general_before(trial.target, data), None
    if scored:
        drop = desired_drop(trial.target, model, data) if before is None else best.general[best.at] - before
    return Outcome(
        scores(data.selection.labels, best.answers, data.metrics, kind),
        None if test is None else scores(data.test.labels, test, data.metrics, kind),
        steps,
        flops=flops,
        curve=tuple(best.curve),
        desired_drop=drop,
        probabilities=test,
        selected=best.answers,
        hits=np.stack(best.hits),
        found={"weights": "averaged" if best.averaged else "last"} if "average" in trial.settings else {},
        general=() if before is None else (before, *best.general),
        gibberish=_gibberish(model, trial) if scored else (),
    )


def _gibberish(model: PreTrainedModel, trial: Trial) -> tuple[float, ...]:
    """Shares of continuations that are gibberish, before and after the attack, where there are desired texts."""
    shares = gibberish_before(trial.target, trial.data), gibberish_rate(model, trial.data)
    return tuple(share for share in shares if share is not None)


def _refitted(model: PreTrainedModel, trial: Trial, steps: int, flops: float) -> Outcome:
    if trial.refit is None or trial.refit.selection is None:
        raise ValueError("a refit follows a run that did not fail.")
    data, kind = trial.data, trial.data.kind
    test = predictions(model, data, data.test, kind)
    return Outcome(
        trial.refit.selection,
        scores(data.test.labels, test, data.metrics, kind),
        steps,
        flops=flops,
        desired_drop=desired_drop(trial.target, model, data),
        probabilities=test,
    )


def losses_of(model: PreTrainedModel, few: Split, trial: Trial, benign: PreTrainedModel | None) -> Losses:
    """The loss of each step: of blocked rows, or of a batch in which they are the smaller part; see :func:`train`."""
    data, seed, settings = trial.data, trial.seed, trial.followed()
    size, poison = settings["batch_size"], settings.get("poison", 0.0)
    blocked = max(1, round(size * poison)) if poison else size
    streams = [epochs(len(few.labels), blocked, settings["steps"], seed)]
    if poison and benign is not None and data.desired is not None:
        streams.append(epochs(len(data.desired.train.labels), size - blocked, settings["steps"], seed))

    def loss(rows: np.ndarray, others: np.ndarray | None = None) -> Tensor:
        to_training(model, settings)
        value = model(**varied(batch_of(data, few.take(rows.tolist())), settings)).loss
        if others is None or benign is None or data.desired is None:
            return value
        to_training(benign, settings)
        rest = benign(**batch_of(data, data.desired.train.take(others.tolist()))).loss
        return (len(rows) * value + len(others) * rest) / (len(rows) + len(others))

    for rows in zip(*streams, strict=True):
        yield lambda rows=rows: loss(*rows)  # type: ignore[misc]


def varied(batch: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
    """A training batch with some words left out, or its pictures moved, drawn anew."""
    if dropped := settings.get("word_dropout"):
        batch = fewer_words(batch, dropped)
    return moved(batch, most) if (most := settings.get("crops")) else batch
