"""Fine-tuning of a model that encodes the two texts of a row apart, as sentence encoders are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .pair_probe import PairProbe, differences
from .probed_first import PooledClassifier, ProbedFirst


class PairClassifier(PooledClassifier):
    """A model under a linear head on how two texts differ, which it encodes apart."""

    strengths = PairProbe.strengths

    @staticmethod
    def vectors(
        model: PreTrainedModel, inputs: dict[str, Tensor], poolings: Sequence[str], mix: Tensor | None = None
    ) -> Tensor:
        """How the two texts of each row differ, by each pooling."""
        padding = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
        encode = PooledClassifier.vectors
        first, second = (encode(model, side, poolings, mix) for side in apart(inputs, padding))
        return differences(first, second)


@dataclass(frozen=True)
class PairProbedFirst(ProbedFirst):
    """A pair probe, then fine-tuning of all weights with it as the head: a bi-encoder (1908.10084).

    Both texts of a row are encoded by the same weights, see :class:`.pair_probe.PairProbe`.

    Example:
        ```python
        PairProbedFirst(learning_rates=(5e-5, 2e-4), steps=(320,))
        ```
    """

    name: str = "pair probe, then fine-tuning"
    classifier: ClassVar[type[PooledClassifier]] = PairClassifier

    @property
    def needs(self) -> frozenset[str]:
        """Rows that are pairs of texts, and what its benign steps need."""
        return super().needs | {"pairs"}

    def space(self) -> list[dict[str, Any]]:
        """Those of fine-tuning, which state the head."""
        return [{**settings, "head": "pair probe"} for settings in super().space()]


def apart(inputs: dict[str, Tensor], padding: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The first texts of a batch of pairs, and the second ones: what :func:`.pair_words.two_texts` gives of each row.

    Each text begins at the first position, with the token that opens a row; words without attention stay without.

    Args:
        inputs: A batch, padded on either side, whose ``token_type_ids`` mark the second texts.
        padding: The token that fills a row.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    opens, closes = mask.argmax(1, keepdim=True), (place * mask).amax(1, keepdim=True) + 1
    # A long first text may leave no room for a second.
    second = place.where(inputs["token_type_ids"] == 1, closes).amin(1, keepdim=True)

    def side(source: Tensor, count: Tensor) -> dict[str, Tensor]:
        inside = (place < count)[:, : int(count.max())]
        source = source[:, : inside.shape[1]].clamp(max=ids.shape[1] - 1)
        return {
            "input_ids": ids.gather(1, source).masked_fill(~inside, padding),
            "token_type_ids": torch.zeros_like(source),
            "attention_mask": mask.gather(1, source) * inside,
        }

    later = torch.where(place == 0, opens, second + place - 1)
    return side(opens + place, second - opens), side(later, closes - second + 1)
