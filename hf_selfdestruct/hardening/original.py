"""The frozen original that keeping losses compare with, blocked tasks erased from it where that is asked for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..erasure.leace import Erasure, leace
from ..models.pooling import pool
from ..tasks.blocked_task import BlockedTask, draw_rows
from .draw import Batch

ROWS, BATCH = 4096, 64


class Original:
    """A copy of a model as it is now, in evaluation mode and without gradients.

    Erasing what is blocked from what the copy gives, keeping does not pull back what blocking takes away. Each hidden
    state (and ``last_hidden_state``) has an erasure of its own, fitted to means over positions on rows that the
    adversary may see; logits stay as they are.

    Args:
        model: The model to copy.
        options: How it is called, such as ``{"output_hidden_states": True}``.
        autocast: Precision of its forward.
        erased: Blocked tasks to erase.
        collate: Makes a batch of blocked rows.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        options: Mapping[str, bool],
        *,
        autocast: Callable[[], AbstractContextManager[None]],
        erased: Sequence[BlockedTask] = (),
        collate: Callable[[list[dict[str, Any]]], Batch],
    ) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._options, self._autocast, self._erased, self._collate = options, autocast, erased, collate
        self._erasures: list[Erasure] = []

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """What the original gives on a batch, where that is: the Trainer may have moved its model since."""
        self._model.to(next(value.device for value in inputs.values() if isinstance(value, Tensor)))
        with torch.no_grad():
            if self._erased and not self._erasures:
                self._erasures = self._fitted()
            with self._autocast():
                outputs = self._model(**inputs, **self._options)
        if not self._erased:
            return outputs
        erased = [_without(erasure, states) for erasure, states in zip(self._erasures, _states(outputs), strict=True)]
        count = len(outputs.hidden_states)
        outputs["hidden_states"] = tuple(erased[:count])
        if erased[count:]:
            outputs["last_hidden_state"] = erased[count]
        return outputs

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of the copy."""
        return self._model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Become a copy of a model of the same kind with these weights; erasures are fitted anew."""
        self._model.load_state_dict(state)
        self._erasures = []

    def _fitted(self) -> list[Erasure]:
        found = [self._encoded(task) for task in self._erased]
        return [leace([(states[place], labels) for states, labels in found]) for place in range(len(found[0][0]))]

    def _encoded(self, task: BlockedTask) -> tuple[list[Tensor], Tensor]:
        """Pooled states of one task's rows, and their labels."""
        columns = list(inspect.signature(type(self._model).forward).parameters)
        rows = draw_rows(np.arange(len(task.train)), ROWS, "erasure", task.name).tolist()
        pooled, labels = [], []
        for start in range(0, len(rows), BATCH):
            batch = dict(self._collate(task.features("train", rows[start : start + BATCH], columns)))
            labels.append(batch.pop("labels"))
            with self._autocast():
                outputs = self._model(**batch, **self._options)
            mask = batch.get("attention_mask")
            pooled.append([pool(states, mask, "mean").float() for states in _states(outputs)])
        return [torch.cat(parts) for parts in zip(*pooled, strict=True)], torch.cat(labels)


def _without(erasure: Erasure, states: Tensor) -> Tensor:
    """States from which a concept is erased; those of convolutional nets have their width first, not last."""
    return erasure(states.movedim(1, -1)).movedim(-1, 1) if states.dim() == 4 else erasure(states)


def _states(outputs: Any) -> list[Tensor]:
    last = getattr(outputs, "last_hidden_state", None)
    return [*outputs.hidden_states, *([] if last is None else [last])]
