"""A small vision transformer of transformers, alone or many side by side."""

import copy
from collections.abc import Sequence

import torch
from setting import Setting
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

WIDTH, LAYERS = 64, 2


def fresh(setting: Setting, seed: int) -> ViTForImageClassification:
    """A vision transformer with random weights, for images of 8 x 16 pixels, without dropout."""
    torch.manual_seed(seed)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=2 * WIDTH,
            image_size=(8, 16),
            patch_size=4,
            num_channels=1,
            num_labels=setting.classes,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def side_by_side(
    setting: Setting,
    models: Sequence[ViTForImageClassification],
    heads: Sequence[Sequence[nn.Linear]],
    rates: Sequence[float],
    decays: Sequence[float] = (),
) -> "Row":
    """Copies of models, each with heads of its own, a rate and a weight decay."""
    return Row(list(zip(models, heads, strict=True)), rates, decays or [0.0] * len(rates))


class Row:
    """Vision transformers side by side, each with an AdamW and a rate of its own.

    Args:
        pairs: Models and their heads; copies are trained.
        rates: Of each model.
        decays: Weight decay of each one.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[ViTForImageClassification, Sequence[nn.Linear]]],
        rates: Sequence[float],
        decays: Sequence[float],
    ) -> None:
        self._pairs = [copy.deepcopy(pair) for pair in pairs]  # a head that is the model's own stays so
        groups = [
            {"params": [*model.vit.parameters(), *nn.ModuleList(heads).parameters()], "lr": rate, "weight_decay": decay}
            for (model, heads), rate, decay in zip(self._pairs, rates, decays, strict=True)
        ]
        self._optimizer = torch.optim.AdamW(groups)

    def logits(self, inputs: Tensor, *, head: int = 0) -> Tensor:
        """Of images ``(rows, 1, 8, 16)``, logits ``(models, rows, classes)`` by a head."""
        first = [(model.vit(inputs).last_hidden_state[:, 0], heads[head]) for model, heads in self._pairs]
        return torch.stack([read(token) for token, read in first])

    def step(self, loss: Tensor) -> None:
        """One step of every model."""
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def models(self) -> list[ViTForImageClassification]:
        """Each model, under its first head if that is its own."""
        return [model for model, _ in self._pairs]
