"""One rehearsal, with two rows each, of what training and attacks will do: what cannot work is refused before both."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..files import reason
from ..models import heads
from ..models.functional import dropout
from ..tasks.blocked_task import BlockedTask

if TYPE_CHECKING:
    from .base import HardeningTrainer

TWO = [0, 1]
FAILURES = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def check_loads_again(model: PreTrainedModel) -> None:
    """Refuse a model that its own class would not make again from the configuration that is saved with it.

    Raises:
        ValueError: Its class takes other arguments, or the configuration as saved makes weights of other shapes.
    """
    weights = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    if any(".base_layer." in name for name in weights):
        return  # adapters are refused by their own name
    name = type(model).__name__
    stored = _stored(model.config, type(model.config))
    try:
        with torch.device("meta"):
            made = type(model)(stored)
    except FAILURES as error:
        raise ValueError(
            f"{name}(config) does not create such a model again ({reason(error)}), so users could not load it: let the "
            "class take only its configuration, and read everything else from there."
        ) from None
    shapes = {name: tuple(weight.shape) for name, weight in made.named_parameters()}
    if differing := sorted(n for n in weights.keys() | shapes.keys() if weights.get(n) != shapes.get(n)):
        first, labels = differing[0], model.config.num_labels
        cure = "set in its configuration all that its sizes come from."
        if stored.num_labels != labels:
            cure = (
                f"{type(stored).__name__} does not store num_labels={labels} beside unnamed labels: name them, "
                f"model.config.id2label = {{0: 'a', 1: 'b'}} for example."
            )
        raise ValueError(
            f"{name} cannot be loaded again from its own configuration, which makes {first} of shape "
            f"{shapes.get(first)} for {weights.get(first)}; {cure}"
        )


def rehearse(trainer: HardeningTrainer, model: PreTrainedModel) -> None:
    """Refuse rows, models and collators by which training or attacks would fail.

    Rows of every split are batched and answered by the model; of a task with rows for the attacker also by the
    classifier that the judge trains, on the live trunk, unless it trains the published head. Random numbers, weights,
    buffers, gradients and modes are afterwards what they were.

    Args:
        trainer: The trainer.
        model: Its model.

    Raises:
        ValueError: Something would fail; the message says what to do.
    """
    attacked = [task for task in trainer.blocked_tasks if {"attack", "test"} <= task.splits().keys()]
    classifies = heads.has_task_head(model)
    with left_alone(), torch.no_grad(), dropout(model, on=False), trainer.accelerator.autocast():
        for task in trainer.blocked_tasks:
            for split in task.splits():
                batch = _batch(trainer, f"blocked task {task.name!r}", task.features(split, TWO, trainer.input_columns))
                if split == "train" and classifies and task.model_class is None:
                    _answer(model, batch)
        for task in [task for task in attacked if task.kind.model_class is None]:
            rows = task.features("attack", TWO, trainer.input_columns)
            _probe(model, task, _batch(trainer, f"blocked task {task.name!r}", rows))
        if attacked and classifies:
            _heal(trainer)


def _batch(trainer: HardeningTrainer, what: str, rows: Sequence[dict[str, Any]]) -> Mapping[str, Any]:
    try:
        return trainer.blocked_batch([dict(row) for row in rows])
    except FAILURES as error:
        raise ValueError(
            f"{what}: the data collator cannot batch its rows, which have the columns "
            f"{', '.join(rows[0])} ({type(error).__name__}: {reason(error)}); give data_collator= one that can, "
            "processing_class= a tokenizer with a pad_token for the usual one, or, where the collator is for labels of "
            "words, BlockedTask(..., model_class=AutoModelForSequenceClassification)."
        ) from error


def _answer(model: PreTrainedModel, batch: Mapping[str, Any]) -> None:
    """The live head's answer to blocked rows, of which it must have one for each."""
    count = len(next(iter(batch.values())))
    try:
        logits = getattr(model(**_inputs(batch)), "logits", None)
    except FAILURES as error:
        raise ValueError(
            f"{type(model).__name__} cannot answer blocked rows ({reason(error)}); {_cure(model)}"
        ) from None
    if logits is None or logits.shape[:-1] != (count,):
        shape = "no logits" if logits is None else f"logits of shape {(*logits.shape,)}"
        raise ValueError(
            f"{type(model).__name__} gives {shape} for {count} blocked rows; a blocked task has one class per row: "
            "give BlockedTask(..., model_class=AutoModelForSequenceClassification), or load such a model."
        )


def _probe(model: PreTrainedModel, task: BlockedTask, batch: Mapping[str, Any]) -> None:
    """What the judge does with the saved model: its own class, found from the configuration, on the same trunk."""
    from ..attacks.methods.features import cells_of  # the judge is loaded only when a task is to be attacked
    from ..attacks.target import auto_class, unpublished

    name = type(model).__name__
    try:
        stored = _stored(model.config, heads.stock_config_class(model.config))
        stored.architectures = [name]
        judges = heads.skeleton(model, task.outputs, auto_class=auto_class(stored))
    except FAILURES as error:
        raise ValueError(
            f"{name} could be trained, but not attacked: {reason(error)} Take a model that has a classification class "
            f"in transformers, or leave attack= and test= of blocked task {task.name!r} out."
        ) from None
    trunk: Any = judges.base_model
    _give_trunk(judges, model, spared=unpublished(stored, trunk))
    try:
        with torch.autocast(model.device.type, enabled=False):
            logits = judges(**_inputs(batch)).logits
            cells = cells_of(judges, None, False, _inputs(batch))
    except FAILURES as error:
        raise ValueError(
            f"{type(judges).__name__}, by which attacks see {name}, cannot answer rows of blocked task {task.name!r} "
            f"({reason(error)}); {_cure(model)}"
        ) from None
    count = len(batch["labels"])
    if logits.shape != (count, task.outputs) or any(len(cell) != count for cell in cells.values()):
        raise ValueError(
            f"{type(judges).__name__}, by which attacks see {name}, gives logits of shape {(*logits.shape,)} for "
            f"{count} rows of blocked task {task.name!r}; give it one text, image or sound per row."
        )


def _give_trunk(judges: PreTrainedModel, model: PreTrainedModel, *, spared: Set[str]) -> None:
    """Put the live trunk's own tensors into a classifier without weights; its head, and what else is new, is zero.

    Raises:
        ValueError: The live trunk lacks weights, those that are ``spared`` apart.
    """
    live = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    found, head = heads.names_between(judges, model), {*heads.head_names(judges)}
    trunk = {name for name, _ in judges.named_parameters()} - head
    if lost := sorted(trunk - found.keys() - {heads.trunk_prefix(judges) + name for name in spared}):
        raise ValueError(
            f"the trunk of {type(model).__name__} cannot be found by {type(judges).__name__}, the class that users "
            f"load it with: name the attribute of the trunk as {type(judges).__name__} does "
            f"({judges.base_model_prefix!r}), and set base_model_prefix to that name (it lacks {lost[0]})."
        )
    given: dict[int, Any] = {}
    for name, value in (*judges.named_parameters(), *judges.named_buffers()):
        new = live[found[name]].detach() if name in found else torch.zeros_like(value, device=model.device)
        new = new.float() if new.is_floating_point() else new  # the judge loads in float32
        given[id(value)] = nn.Parameter(new, requires_grad=False) if isinstance(value, nn.Parameter) else new
    for module in judges.modules():
        for held in (module._parameters, module._buffers):
            held.update({name: given[id(value)] for name, value in held.items() if value is not None})


def _heal(trainer: HardeningTrainer) -> None:
    """Desired rows in the attacker's hands."""
    from ..attacks.data import Split

    for name, data in (("train_dataset", trainer.train_dataset), ("eval_dataset", trainer.eval_dataset)):
        if (found := Split.of(data, trainer.input_columns, limit=len(TWO))) is not None:
            _batch(trainer, name, found.features)


def _inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "labels"}


def _cure(model: PreTrainedModel) -> str:
    if model.main_input_name == "input_ids" and model.config.get_text_config().pad_token_id is None:
        return (
            "set tokenizer.pad_token (tokenizer.pad_token = tokenizer.eos_token, for example), and give "
            "processing_class=tokenizer or set model.config.pad_token_id: it finds each text's end by that."
        )
    return "give blocked rows that the model can read, each with one text, image or sound."


def _stored(config: PreTrainedConfig, kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """The configuration as a class reads it again after it was saved."""
    return kind.from_dict(json.loads(config.to_json_string()))


@contextmanager
def left_alone() -> Iterator[None]:
    """Every generator of random numbers is afterwards as it was: collators and transforms draw from all of them."""
    pythons, numpys = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(pythons)
        np.random.set_state(numpys)
