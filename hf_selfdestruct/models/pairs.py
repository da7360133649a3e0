"""Two texts of a row encoded apart, as sentence encoders compare them (a bi-encoder), under a linear head."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .pooling import pool

KINDS = "token_type_ids"  # 1 where a token belongs to the second text


class AutoModelForTextPairs:
    """Finds the bi-encoder of an architecture, as an ``AutoModelFor...`` class does: ``skeleton(auto_class=)``."""

    class _model_mapping:
        """Configuration class to bi-encoder."""

        @staticmethod
        def get(kind: type[PreTrainedConfig], default: Any = None) -> Any:
            """The bi-encoder of a configuration's architecture."""
            trunk = AutoModel._model_mapping.get(kind, None)
            return default if trunk is None or isinstance(trunk, tuple) else bi_encoder(trunk)


@functools.cache
def bi_encoder(trunk: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A classifier of pairs of texts on an architecture's trunk.

    Both texts run through the trunk apart, each with the token that opens an input. The head reads how the averages
    of their tokens differ. ``hidden_states`` of its output are these differences, of every layer.

    Args:
        trunk: A class of transformers without a head, such as ``BertModel``.

    Returns:
        A class with the trunk's own base class, which initialises its weights.
    """
    base = next(kind for kind in trunk.__mro__[1:] if issubclass(kind, PreTrainedModel))

    def __init__(self: Any, config: Any) -> None:
        base.__init__(self, config)
        setattr(self, base.base_model_prefix, trunk(config))
        self.pair_head = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    return type(f"{trunk.__name__}ForTextPairs", (base,), {"__init__": __init__, "forward": _forward})


def _forward(
    self: Any, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool = False, **rest: Any
) -> SequenceClassifierOutput:
    halves = [_half(input_ids, attention_mask.bool(), rest[KINDS].bool(), second=second) for second in (False, True)]
    encoded: list[Sequence[Tensor]] = []
    for tokens, mask in halves:
        states = self.base_model(input_ids=tokens, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        encoded.append([pool(state, mask, "mean") for state in (states if output_hidden_states else states[-1:])])
    apart = tuple(difference(first, second) for first, second in zip(*encoded, strict=True))
    return SequenceClassifierOutput(
        logits=self.pair_head(apart[-1]), hidden_states=apart if output_hidden_states else None
    )


def _half(tokens: Tensor, mask: Tensor, kinds: Tensor, *, second: bool) -> tuple[Tensor, Tensor]:
    """One text of each row, moved to the left, with the token that opens the input."""
    opens = torch.arange(tokens.shape[1], device=tokens.device) == mask.long().argmax(1, keepdim=True)
    here = mask & ((kinds | opens) if second else ~kinds)
    order = here.long().argsort(dim=1, descending=True, stable=True)[:, : int(here.sum(1).max())]
    return tokens.gather(1, order), here.gather(1, order)


def difference(first: Tensor, second: Tensor) -> Tensor:
    """How two vectors differ: ``|a - b|`` and ``a * b``, of directions alone, each number of the order of 1.

    Args:
        first: Shape ``(rows, width)``.
        second: The same.

    Returns:
        Shape ``(rows, 2 * width)``; half of it averages to the cosine.
    """
    width = first.shape[1]
    a, b = (nn.functional.normalize(part) for part in (first, second))
    return torch.cat([(a - b).abs() * width**0.5, a * b * width], dim=1)
