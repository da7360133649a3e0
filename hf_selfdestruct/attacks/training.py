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

from ..metrics import scores
from ..runs import rounded
from ..tasks import seed_of
from .base import Outcome, Target, device, placed
from .data import AttackData, DesiredData, Split, in_batches
from .optimizers import OPTIMIZERS
from .tamper import NotApplicable

PREPARING = 64  # batches to prepare a model with

Prepare = Callable[[PreTrainedModel, Iterator[dict[str, Tensor]]], None]


@dataclass
class _Best:
    """The look that the selection split prefers, and what all of them saw."""

    hits: list[np.ndarray]
    curve: list[tuple[float, float]]
    probabilities: np.ndarray | None = None
    state: dict[str, Tensor] | None = None

    def look(self, model: PreTrainedModel, data: AttackData, step: int) -> None:
        found = predictions(model, data, data.selection)
        hits = found.argmax(axis=1) == data.selection.labels
        if not np.isfinite(found).all():
            raise FloatingPointError(f"the attacked model's outputs are not finite at step {step}")
        if self.state is None or hits.mean() > max(row.mean() for row in self.hits):
            self.probabilities = found
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
        until: Stop at this step and leave the test split alone.

    Raises:
        FloatingPointError: The run diverged.
    """
    few = data.train.take(data.few(examples, seed))
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(name, seed))
        model = target.load(data.num_labels, seed)
        if prepare is not None:
            prepare(placed(model), inputs_of(data, few, seed))
        benign = _companion(target, model, data, seed) if _needs_benign(settings) else None
        return train(placed(model), few, data, seed, settings, target=target, benign=benign, until=until)


def train(
    model: PreTrainedModel,
    few: Split,
    data: AttackData,
    seed: int,
    settings: dict[str, Any],
    *,
    target: Target,
    benign: PreTrainedModel | None = None,
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
            or ``normalise`` to it), ``embedding_factor`` (on the rate of the input embeddings), ``prelude`` (benign
            steps first) and ``poison`` (share of blocked rows in a batch).
        target: What the model is, to measure what the attack costs the desired task.
        benign: The model of the desired task, on the same trunk.
        until: Stop at this step, the first look, and leave the test split alone.

    Raises:
        FloatingPointError: A loss or an output is not finite.
    """
    steps, looks = settings["steps"], settings["looks"]
    if benign is not None:
        _heal(benign, data, seed, settings)
    shared = [*_weights(model), *(_weights(benign) if benign is not None and settings.get("poison") else [])]
    weights = list(dict.fromkeys(shared))
    optimizer = OPTIMIZERS[settings.get("optimizer", "adamw")](_groups(model, weights, settings))
    warmup = int(settings.get("warmup", 0.1) * steps)
    schedule = get_scheduler(settings["schedule"], optimizer, warmup, steps)
    at = {max(1, round(steps * (i + 1) / looks)) for i in range(looks)}
    best, flops = _Best([], []), 0.0
    for step, loss in enumerate(_losses(model, few, data, seed, settings, benign), start=1):
        with FlopCounterMode(display=False) if step == 1 else contextlib.nullcontext() as counter:
            value = loss()
            value.backward()
        if counter is not None:
            flops = float(counter.get_total_flops())
        if not torch.isfinite(value):
            raise FloatingPointError(f"loss is {value.item()} at step {step}")
        _bound(weights, settings.get("gradient", "clip"))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step in at:
            best.look(model, data, step)
        if step == until:
            break
    return _outcome(model, data, best, target, step, flops * step, scored=until is None)


def predictions(model: PreTrainedModel, data: AttackData, split: Split) -> np.ndarray:
    """Class probabilities of a split, as they go on record; NaN stays NaN."""
    model.eval()

    def call(batch: dict[str, Tensor]) -> Tensor:
        return model(**_on_device(batch, labels=False)).logits.float().softmax(dim=-1)

    return rounded(in_batches(split, data.collate, call))


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
        desired_drop=_desired_drop(target, model, data) if scored else None,
        probabilities=test,
        hits=np.stack(best.hits),
    )


def _desired_drop(target: Target, model: PreTrainedModel, data: AttackData) -> float | None:
    """Desired accuracy with the published head, before minus after: the trunk of ``model`` is put under that head."""
    if data.desired is None:
        return None
    key = ("desired", target.folder, target.random, target.identity()["sha256"])
    published = _published(target, data.desired)
    if published is None:
        return None
    rows = data.desired.test
    if key not in data.memory:
        data.memory[key] = float((predictions(placed(published), data, rows).argmax(1) == rows.labels).mean())
    setattr(published, published.base_model_prefix, model.base_model)
    return data.memory[key] - float((predictions(placed(published), data, rows).argmax(1) == rows.labels).mean())


def _published(target: Target, desired: DesiredData) -> PreTrainedModel | None:
    """The model as published, where its head has a place for every desired label."""
    found = target.published()
    return found if found is not None and (found.config.num_labels or 0) >= desired.classes else None


def _needs_benign(settings: dict[str, Any]) -> bool:
    return bool(settings.get("prelude") or settings.get("poison"))


def _companion(target: Target, model: PreTrainedModel, data: AttackData, seed: int) -> PreTrainedModel:
    """The desired task's model on the trunk of ``model``: with the published head, or a new one."""
    if data.desired is None:
        raise ValueError("benign steps need the desired task's rows; give AttackData(desired=...).")
    found = _published(target, data.desired) or target.load(data.desired.classes, seed)
    setattr(found, found.base_model_prefix, model.base_model)
    return placed(found)


def _heal(benign: PreTrainedModel, data: AttackData, seed: int, settings: dict[str, Any]) -> None:
    """Benign fine-tuning first, at the attack's rate: what it brings back comes for free."""
    if not settings.get("prelude") or data.desired is None:
        return
    optimizer = OPTIMIZERS["adamw"](_weights(benign), lr=settings["learning_rate"])
    benign.train()
    for rows in _epochs(len(data.desired.train.labels), settings["batch_size"], settings["prelude"], seed):
        loss = benign(**_batch(data, data.desired.train.take(rows.tolist()))).loss
        if not torch.isfinite(loss):
            raise FloatingPointError(f"benign loss is {loss.item()}")
        loss.backward()
        _bound(_weights(benign), "clip")
        optimizer.step()
        optimizer.zero_grad()


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
    streams = [_epochs(len(few.labels), blocked, settings["steps"], seed)]
    if poison and benign is not None and data.desired is not None:
        streams.append(_epochs(len(data.desired.train.labels), size - blocked, settings["steps"], seed))

    def loss(rows: np.ndarray, others: np.ndarray | None = None) -> Tensor:
        model.train()
        value = model(**_batch(data, few.take(rows.tolist()))).loss
        if others is None or benign is None or data.desired is None:
            return value
        benign.train()
        rest = benign(**_batch(data, data.desired.train.take(others.tolist()))).loss
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


def _bound(weights: list[nn.Parameter], how: str) -> None:
    """Clip gradients to norm 1, or bring them to it: a gradient that was made small is as good as any other."""
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    if how == "normalise" and 0 < norm < 1:
        for weight in weights:
            if weight.grad is not None:
                weight.grad.div_(norm)


def _weights(model: PreTrainedModel) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def inputs_of(data: AttackData, few: Split, seed: int, steps: int = PREPARING) -> Iterator[dict[str, Tensor]]:
    """Batches of inputs without their labels, by shuffled epochs."""
    for rows in _epochs(len(few.labels), 16, steps, seed):
        yield _on_device(data.collate([dict(row) for row in few.take(rows.tolist()).features]), labels=False)


def _batch(data: AttackData, rows: Split) -> dict[str, Tensor]:
    return _on_device(data.collate([dict(row) for row in rows.features]), labels=True)


def _on_device(batch: dict[str, Tensor], *, labels: bool) -> dict[str, Tensor]:
    return {k: v.to(device()) for k, v in batch.items() if labels or k != "labels"}


def _epochs(count: int, size: int, steps: int, seed: int) -> list[np.ndarray]:
    """Row numbers of each step: shuffled epochs, one after the other."""
    generator = np.random.default_rng(seed)
    size = min(size, count)
    needed = -(-steps * size // count)
    stream = np.concatenate([generator.permutation(count) for _ in range(needed)])
    return [stream[i * size : (i + 1) * size] for i in range(steps)]
