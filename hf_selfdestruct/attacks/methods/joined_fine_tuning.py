"""Fine-tuning under a head that reads every layer: what a defence took from the last one, others may still have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .batches import averaged, hidden_states
from .probed_first import PooledClassifier, ProbedFirst


class JoinedClassifier(PooledClassifier):
    """A model under a linear head on the averages of all hidden states, joined to one vector."""

    strengths = (0.001, 0.01, 0.1)  # of many more features than the last layer has

    @staticmethod
    def vectors(
        model: PreTrainedModel, inputs: dict[str, Tensor], poolings: Sequence[str], mix: Tensor | None = None
    ) -> Tensor:
        """The joined averages of each row, ``(rows, 1, widths)``."""
        return torch.cat([averaged(one, inputs) for one in hidden_states(model, inputs)], dim=1)[:, None]


@dataclass(frozen=True)
class JoinedProbedFirst(ProbedFirst):
    """A probe of all layers together, then fine-tuning of all weights with it as the head.

    Example:
        ```python
        JoinedProbedFirst(learning_rates=(3e-4, 1e-3), steps=(240,))
        ```
    """

    name: str = "joined probe, then fine-tuning"
    classifier: ClassVar[type[PooledClassifier]] = JoinedClassifier

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.poolings != ("mean",):
            raise ValueError(f"{self.name}: hidden states are averaged; leave poolings out, got {self.poolings}.")

    def space(self) -> list[dict[str, Any]]:
        """Those of fine-tuning, which state the head."""
        return [{**settings, "head": "joined probe"} for settings in super().space()]
