"""The frozen original beside the model that is being hardened, and the distance between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..losses.keeping import KeepingLoss, total
from ..models.distributed import ALONE, Processes
from ..models.functional import dropout
from ..tasks.blocked_task import BlockedTask
from ..tasks.rows import LABELS
from .draw import Batch, Rows
from .original import Original


class Keeper:
    """Adds up keeping losses on the desired batch and, where there are any, on rows to keep.

    Args:
        model: The model as it is published today; it is copied, unless no loss looks at the original.
        losses: Keeping losses; may be none.
        rows: Unlabelled rows to keep the model's general use on.
        batch_size: How many of them in one micro-step.
        autocast: Precision of the original's forward.
        collate: Makes a batch of blocked rows.
        ranks: The processes that draw rows to keep together, each taking its part.
        erased: Blocked tasks that are erased from the original's hidden states, see :class:`original.Original`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        losses: Sequence[KeepingLoss],
        rows: Rows,
        *,
        batch_size: int,
        autocast: Callable[[], AbstractContextManager[None]],
        collate: Callable[[list[dict[str, Any]]], Batch],
        ranks: Processes = ALONE,
        erased: Sequence[BlockedTask] = (),
    ) -> None:
        self.losses, self._rows, self._size, self._ranks = losses, rows, batch_size, ranks
        self._compared = [loss for loss in losses if not loss.wants_labels]
        self._options = {"output_hidden_states": True} if any(loss.wants_hidden_states for loss in losses) else {}
        self._original = None
        if self._compared:
            self._original = Original(model, self._options, autocast=autocast, erased=erased, collate=collate)

    def on_desired(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Distance to the original on the desired batch, whose labels are the desired loss's and not looked at."""
        return self._total(model, self._compared, {n: v for n, v in inputs.items() if n not in LABELS})

    def distance(self, model: nn.Module, inputs: Mapping[str, Any] | None, *key: Any) -> Tensor:
        """The distance on a desired batch, if one is given, and on rows to keep, if there are any."""
        parts = [self.on_desired(model, inputs)] if inputs is not None else []
        kept = self.on_kept(model, *key)
        parts += [kept] if kept is not None else []
        return torch.stack(parts).sum() if parts else torch.zeros(())

    def on_kept(self, model: nn.Module, *key: Any) -> Tensor | None:
        """The same on a batch of the rows to keep, drawn by ``key``; ``None`` where there are no such rows."""
        if self._rows.data is None or not self.losses:
            return None
        rows = self._rows.draw(self._size * self._ranks.size, "keep", *key)
        return self._total(model, self.losses, self._ranks.part(rows))

    def renew(self, weights: Mapping[str, Tensor]) -> None:
        """Compare from now on with a model of these weights, such as the live one as it is now."""
        if self._original is not None:
            self._original.load_state_dict(weights)

    def state_dict(self) -> dict[str, Tensor]:
        """The original's weights; none where no loss looks at it."""
        return self._original.state_dict() if self._original is not None else {}

    def _total(self, model: nn.Module, losses: Sequence[KeepingLoss], inputs: Mapping[str, Any]) -> Tensor:
        """Without dropout on either side: what is kept is what will be served, and noise is no distance."""
        plain = {n: v for n, v in inputs.items() if n not in LABELS}
        original = self._original(plain) if self._original is not None else None
        with dropout(model, on=False):
            outputs = model(**inputs, **self._options)
        return total(losses, outputs, original, inputs)
