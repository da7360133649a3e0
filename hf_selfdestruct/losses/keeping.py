"""Keeping losses: the distance between the model being hardened and the frozen original on the same batch.

They preserve the desired task, or the general use of a model without a single task. Padding never counts, neither on
the left nor on the right; an image batch has no ``attention_mask``, so all its positions count.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

LEAST = 1e-12  # lower limit of the original's mean square, so that relative distances stay finite
POOLINGS = ("mean", "first", "last")
_ASK = "call the model with output_hidden_states=True"


@dataclass(frozen=True)
class KeepingLoss(ABC):
    """A scalar to minimise so that the model preserves the behaviour of the original.

    Args:
        weight: Factor in the sum of several losses; :func:`total` applies it, the loss itself does not.

    Attributes:
        citation: Source of the loss.
        wants_hidden_states: Whether both models must be called with ``output_hidden_states=True``.
        wants_labels: Whether the loss uses the labels and the model's own loss instead of the original.

    Raises:
        ValueError: A field is out of range.
    """

    weight: float = field(default=1.0, kw_only=True)
    citation: ClassVar[str] = ""
    wants_hidden_states: ClassVar[bool] = False
    wants_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the weight."""
        if not 0 < self.weight < math.inf:
            raise ValueError(f"{type(self).__name__}: weight must be positive and finite; got {self.weight}.")

    @abstractmethod
    def forward(self, outputs: Any, original: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Compute the loss.

        Args:
            outputs: Outputs of the model being hardened.
            original: Outputs of the frozen original; no gradient flows to it.
            batch: Inputs of both models.

        Returns:
            Scalar tensor, 0 if both outputs are equal.
        """

    def __call__(self, outputs: Any, original: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Call :meth:`forward`."""
        return self.forward(outputs, original, batch)

    def config(self) -> dict[str, Any]:
        """Return name and arguments, for the report."""
        return {"name": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class LogitDistillation(KeepingLoss):
    r"""``T^2 KL(original || model)`` of the softened class or token probabilities, averaged over rows or positions.

    In [0, inf); 0 if the two distributions are equal. The factor ``T^2`` makes the size of the gradient independent
    of T.

    Args:
        temperature: T; values above 1 also preserve the order of unlikely classes.

    Example:
        >>> from transformers.modeling_outputs import SequenceClassifierOutput
        >>> same = SequenceClassifierOutput(logits=torch.tensor([[1.0, -1.0]]))
        >>> LogitDistillation()(same, same, {}).item()
        0.0
    """

    temperature: float = 1.0
    citation = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531"

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite; got {self.temperature}.")

    def forward(self, outputs: Any, original: Any, batch: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        instead = "use HiddenStateDistillation or EmbeddingDistillation"
        logits = _both("logits", outputs, original, f"use a model with a task head, or {instead}")
        ours, theirs, counted = _compared(*logits, outputs, batch)
        if ours.shape[-1] < 2:  # the softmax of one number is always 1, so the loss would always be 0
            raise ValueError(f"LogitDistillation needs at least two classes, got one; {instead}.")
        model, target = (log_softmax(z[counted] / self.temperature, dim=-1) for z in (ours, theirs))
        return self.temperature**2 * kl_div(model, target, log_target=True, reduction="batchmean")


@dataclass(frozen=True)
class HiddenStateDistillation(KeepingLoss):
    """Squared distance to the original's hidden states, relative to their mean square, averaged over layers.

    In [0, inf); 0 only if all chosen states are equal. The loss is dimensionless: all-zero states have distance 1. MLAC
    uses only the last layer. TAR uses all layers and the norm instead of its square; the norm has no gradient if both
    models are equal, as they are when training starts. A norm after the last of ``hidden_states``, as in a ViT, is not
    included.

    Args:
        layers: Indices in ``hidden_states``: 0 for the embeddings, -1 for the last layer; ``None`` for all.

    Example:
        ```python
        HiddenStateDistillation(layers=(-1,))  # as in MLAC
        ```
    """

    layers: tuple[int, ...] | None = None
    citation = (
        "Henderson, Mitchell et al. 2023, Self-Destructing Models, arXiv:2211.14946; "
        "Tamirisa et al. 2025, Tamper-Resistant Safeguards for Open-Weight LLMs, arXiv:2408.00761"
    )
    wants_hidden_states = True

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.layers is None:
            return
        if not (isinstance(self.layers, tuple) and self.layers and all(isinstance(n, int) for n in self.layers)):
            raise ValueError(f"layers must be None or a tuple of layer numbers; got {self.layers!r}.")

    def forward(self, outputs: Any, original: Any, batch: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        ours, theirs = _both("hidden_states", outputs, original, _ASK)
        count = len(ours)
        if len(theirs) != count:
            raise ValueError(f"the model returns {count} hidden states, the original {len(theirs)}.")
        distances = []
        for layer in range(count) if self.layers is None else self.layers:
            if not -count <= layer < count:
                raise ValueError(f"layer {layer} is out of range: there are {count} hidden states (0: embeddings).")
            here, there, counted = _compared(ours[layer], theirs[layer], outputs, batch)
            here, there = here[counted], there[counted]
            distances.append((here - there).square().mean() / there.square().mean().clamp(min=LEAST))
        return torch.stack(distances).mean()


@dataclass(frozen=True)
class EmbeddingDistillation(KeepingLoss):
    """Squared distance to the original's pooled embedding, relative to its squared length, averaged over rows.

    In [0, inf); 0 only if the embeddings are equal. Cosine similarity would ignore the length, which matters for dot
    products and linear heads. The distance also bounds the angle: the squared sine is at most the relative squared
    distance. Rows without tokens do not count.

    The loss pools ``last_hidden_state``, as users of a bare model do, or the last of ``hidden_states`` if a model
    returns only those, as a model with a head does. In a ViT the two differ by the final norm.

    Args:
        pooling: ``"mean"`` over the counted positions, or the ``"first"`` or ``"last"`` counted position.
    """

    pooling: str = "mean"
    citation = (
        "Reimers & Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual using Knowledge "
        "Distillation, arXiv:2004.09813"
    )
    wants_hidden_states = True

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {self.pooling!r}.")

    def forward(self, outputs: Any, original: Any, batch: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        if all(getattr(given, "last_hidden_state", None) is not None for given in (outputs, original)):
            ours, theirs = outputs.last_hidden_state, original.last_hidden_state
        else:
            ours, theirs = (states[-1] for states in _both("hidden_states", outputs, original, _ASK))
        if self.pooling != "mean" and ours.dim() > 3:
            raise ValueError(f"a feature map has no {self.pooling} position; use pooling='mean'.")
        ours, theirs, counted = _compared(ours, theirs, outputs, batch)
        rows = counted.any(dim=1)
        ours, theirs = (self._pool(states[rows], counted[rows]) for states in (ours, theirs))
        squared = (ours - theirs).square().mean(dim=1) / theirs.square().mean(dim=1).clamp(min=LEAST)
        return squared.mean()

    def _pool(self, states: Tensor, counted: Tensor) -> Tensor:
        # The mean over all counted positions, or over the first one from either end (cumulative count 1).
        if self.pooling == "first":
            counted = counted & (counted.cumsum(dim=1) == 1)
        if self.pooling == "last":
            counted = counted & (counted.flip(1).cumsum(dim=1).flip(1) == 1)
        # Fill instead of multiplying by 0: padding may contain inf or nan.
        return states.masked_fill(~counted[..., None], 0.0).sum(dim=1) / counted.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class LanguageModeling(KeepingLoss):
    """The model's own masked- or causal-language-modelling loss on the labels of the batch.

    In [0, inf), and rarely 0: the target is the text, not the original, which may be ``None``.
    """

    citation = "Henderson, Mitchell et al. 2023, Self-Destructing Models, arXiv:2211.14946"
    wants_labels = True

    def forward(self, outputs: Any, original: Any, batch: Mapping[str, Tensor]) -> Tensor:  # noqa: D102
        loss, logits, labels = getattr(outputs, "loss", None), getattr(outputs, "logits", None), batch.get("labels")
        # A classifier has a loss too, but one vector of logits per row.
        if loss is None or labels is None or logits is None or logits.dim() != 3 or labels.dim() != 2:
            raise ValueError(
                f"{type(outputs).__name__} has no language-modelling loss; use a model with a language-modelling "
                "head (AutoModelForMaskedLM, AutoModelForCausalLM) and one label per token."
            )
        if (labels == -100).all():  # a short batch without masked tokens: torch's mean over nothing is nan
            return logits[..., :0].sum()
        return loss


KEEPING_LOSSES: dict[str, type[KeepingLoss]] = {
    "logit_distillation": LogitDistillation,
    "hidden_state_distillation": HiddenStateDistillation,
    "embedding_distillation": EmbeddingDistillation,
    "language_modeling": LanguageModeling,
}


def total(losses: Iterable[KeepingLoss], outputs: Any, original: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Compute the weighted sum of several keeping losses on one batch; 0 if there are none."""
    return sum((loss.weight * loss(outputs, original, batch) for loss in losses), start=torch.zeros(()))


def _both(name: str, outputs: Any, original: Any, cure: str) -> tuple[Any, Any]:
    """Return the same field of both outputs."""
    for given in (outputs, original):
        if getattr(given, name, None) is None:
            raise ValueError(f"{type(given).__name__} has no {name}; {cure}.")
    return getattr(outputs, name), getattr(original, name)


def _compared(ours: Tensor, theirs: Tensor, outputs: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return both as ``(batch, positions, features)`` in at least float32, and the mask of positions that count."""
    if ours.shape != theirs.shape:
        raise ValueError(f"the model returns shape {tuple(ours.shape)}, the original {tuple(theirs.shape)}.")
    mask = batch.get("attention_mask") if ours.dim() > 2 else None  # one vector per row has no padding
    if mask is not None and getattr(outputs, "encoder_last_hidden_state", None) is not None:
        raise ValueError("the attention_mask of an encoder-decoder model does not cover its decoder's positions.")
    ours = ours.to(torch.promote_types(ours.dtype, torch.float32))
    ours, theirs = (_by_position(values) for values in (ours, theirs.detach().to(ours)))
    if mask is None:
        return ours, theirs, torch.ones(ours.shape[:2], dtype=torch.bool, device=ours.device)
    counted = mask.flatten(0, -2).to(ours.device).bool()  # multiple choice: one row per choice
    if counted.shape != ours.shape[:2] or not counted.any():
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} with {int(counted.sum())} counted positions does not fit "
            f"outputs with {ours.shape[0]} rows of {ours.shape[1]} positions."
        )
    return ours, theirs, counted


def _by_position(values: Tensor) -> Tensor:
    if values.dim() == 2:
        return values.unsqueeze(1)
    return values.flatten(2).transpose(1, 2) if values.dim() > 3 else values  # (batch, channels, height, width)
