"""The frozen original beside the model that is being hardened, and the distance between them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .functional import dropout
from .keeping import KeepingLoss, total
from .scene import LABELS, Rows


class Keeper:
    """Adds up keeping losses on the desired batch and, where there are any, on rows to keep.

    Args:
        model: The model as it is published today; it is copied, unless no loss looks at the original.
        losses: Keeping losses; may be none.
        rows: Unlabelled rows to keep the model's general use on.
        batch_size: How many of them in one micro-step.
        autocast: Precision of the original's forward.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        losses: Sequence[KeepingLoss],
        rows: Rows,
        *,
        batch_size: int,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.losses, self._rows, self._size, self._autocast = losses, rows, batch_size, autocast
        self._compared = [loss for loss in losses if not loss.wants_labels]
        self._original = copy.deepcopy(model).eval().requires_grad_(False) if self._compared else None
        self._options = {"output_hidden_states": True} if any(loss.wants_hidden_states for loss in losses) else {}

    def on_desired(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Distance to the original on the desired batch, whose labels are the desired loss's and not looked at."""
        return self._total(model, self._compared, {n: v for n, v in inputs.items() if n not in LABELS})

    def on_kept(self, model: nn.Module, *key: Any) -> Tensor | None:
        """The same on a batch of the rows to keep, drawn by ``key``; ``None`` where there are no such rows."""
        if self._rows.data is None or not self.losses:
            return None
        return self._total(model, self.losses, self._rows.draw(self._size, "keep", *key))

    def _total(self, model: nn.Module, losses: Sequence[KeepingLoss], inputs: Mapping[str, Any]) -> Tensor:
        """Without dropout on either side: what is kept is what will be served, and noise is no distance."""
        original = None
        if self._original is not None:
            plain = {n: v for n, v in inputs.items() if n not in LABELS}
            with torch.no_grad(), self._autocast():
                original = self._original(**plain, **self._options)
        with dropout(model, on=False):
            outputs = model(**inputs, **self._options)
        return total(losses, outputs, original, inputs)
