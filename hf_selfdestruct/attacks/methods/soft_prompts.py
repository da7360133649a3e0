"""Soft prompts: trained embeddings before each text, and no weight of the model moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from ...tasks.language_modeling import IGNORED
from ..attack import Outcome, Trial
from ..data import AttackData, Split
from .fine_tuning import Tuning
from .tamper import NotApplicable
from .training_loop import tune

UNUSED = {"token_type_ids", "position_ids"}  # the model counts the places itself, those of the prompt too


class Prompted(nn.Module):
    """A language model with trained embeddings before each row; it answers as one without them, row by row.

    Places of the prompt have no label, and their logits are left out. The first token of a row counts for nothing, as
    without a prompt.

    Args:
        model: The model; none of its weights is trained.
        tokens: Length of the prompt. It starts as the embeddings of tokens drawn at random, as in the paper.
    """

    def __init__(self, model: PreTrainedModel, tokens: int) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        table: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
        drawn = torch.randint(len(table), (tokens,)).to(table.device)  # on the CPU: the same on every machine
        self.prompt = nn.Parameter(table[drawn].detach().clone())

    @property
    def base_model(self) -> nn.Module:
        """The trunk."""
        return self.model.base_model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **columns: Any
    ) -> CausalLMOutput:
        """Logits of the row's own tokens and, where there are labels, their loss.

        Args:
            input_ids: The rows.
            attention_mask: Which tokens are no padding.
            labels: As long as the rows.
            columns: Further columns; token types and places are left out.

        Raises:
            NotApplicable: The rows have any other column.
        """
        if unknown := {*columns} - UNUSED:
            raise NotApplicable(f"a prompt of embeddings does not go before rows with {', '.join(sorted(unknown))}.")
        rows, length = input_ids.shape
        tokens = len(self.prompt)
        embedded = self.model.get_input_embeddings()(input_ids)
        prompt = self.prompt.to(embedded).expand(rows, -1, -1)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        given = None
        if labels is not None:
            given = pad(pad(labels[:, 1:], (1, 0), value=IGNORED), (tokens, 0), value=IGNORED)
        found = self.model(
            inputs_embeds=torch.cat([prompt, embedded], dim=1),
            attention_mask=pad(mask, (tokens, 0), value=1),
            labels=given,
        )
        return CausalLMOutput(loss=found.loss, logits=found.logits[:, -length:])


@dataclass(frozen=True)
class SoftPrompt(Tuning):
    """A soft prompt trained by gradient steps (2104.08691); the weights stay as they were published.

    Args:
        tokens: Length of the prompt.

    Raises:
        ValueError: The prompt has no tokens.

    Example:
        ```python
        SoftPrompt(tokens=20, learning_rates=(1e-3, 1e-2, 1e-1), steps=(500,))
        ```
    """

    name: str = "soft prompt"
    tokens: int = 20
    kinds = ("next-token prediction",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens < 1:
            raise ValueError(f"{self.name}: tokens must be at least 1; got {self.tokens}.")

    def space(self) -> list[dict[str, Any]]:
        """Those of fine-tuning, which state the prompt."""
        return [{**settings, "trainable": "prompt", "tokens": self.tokens} for settings in super().space()]

    def run(self, trial: Trial) -> Outcome:
        """Train a prompt once; see :meth:`.attack.Attack.run`."""

        def under(model: PreTrainedModel, few: Split) -> Prompted:
            _check_room(model, trial.data, self.tokens)
            return Prompted(model, self.tokens)

        return tune(self.name, trial, prepare=self.shaken(trial), under=under)


def _check_room(model: PreTrainedModel, data: AttackData, tokens: int) -> None:
    """Refuse rows that leave no place for a prompt in a table of positions.

    Raises:
        NotApplicable: The model has such a table, and its rows are too long.
    """
    splits = [data.train, data.selection, data.test, *([data.desired.test] if data.desired else [])]
    longest = max(len(row["input_ids"]) for split in splits for row in split.features)
    places = getattr(model.config, "max_position_embeddings", None)
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if len(tables) > 1 and places is not None and longest + tokens > places:
        raise NotApplicable(
            f"a prompt of {tokens} tokens before rows of {longest}: {type(model).__name__} has {places} places."
        )
