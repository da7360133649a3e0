"""What an attacker does to published weights before any tuning: to shake a defence loose that lies in their values.

Each changes a freshly loaded model in place and keeps what a defence cannot do without: most of what the weights know.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...tasks.blocked_task import seed_of

Batch = dict[str, Tensor]
Inputs = Iterable[Batch]


class NotApplicable(ValueError):
    """This model has not what an attack works on; the run is recorded as failed, never as resisted."""


class Tamper(ABC):
    """A change to published weights.

    Attributes:
        needs: What must be there, see :attr:`.attack.Attack.needs`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:
        """Change the model's weights in place.

        Args:
            model: A freshly loaded model; its head is new and does not matter.
            seed: Of whatever is random.
            batches: The attacker's inputs, for what is estimated from them.
            benign: Inputs of the desired task, where it :attr:`needs` them.
        """

    def config(self) -> dict[str, Any]:
        """Name and arguments, for the report."""
        return {"name": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class ReinitialiseLast(Tamper):
    """Fresh weights for the last layers, in which defences like to sit.

    Args:
        layers: How many.

    Raises:
        ValueError: Not a positive number.
    """

    layers: int = 1

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1; got {self.layers}.")

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        fresh = _fresh(model, "reinitialise", seed)
        blocks = layers_of(model)
        if len(blocks) < self.layers:
            raise NotApplicable(f"ReinitialiseLast({self.layers}): {type(model).__name__} has {len(blocks)} layers.")
        chosen = tuple(f"{name}." for name in blocks[-self.layers :])
        for name, weight in model.named_parameters():
            if name.startswith(chosen):
                weight.data.copy_(fresh[name])


@dataclass(frozen=True)
class ReinitialiseEmbeddings(Tamper):
    """Fresh rows for words: what a defence took from the table is learned anew, and words that it tied come apart.

    Args:
        tied: Only for words whose row equals another's.
    """

    tied: bool = False

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        fresh = _fresh(model, "embeddings", seed)
        words = next((n for n, p in model.named_parameters() if id(p) in tables), None)
        if words is None:
            raise NotApplicable(f"ReinitialiseEmbeddings(): {type(model).__name__} has no table of words.")
        table = model.get_parameter(words).data
        _, groups, sizes = table.unique(dim=0, return_inverse=True, return_counts=True)
        chosen = sizes[groups] > 1 if self.tied else torch.ones(len(table), dtype=torch.bool, device=table.device)
        table[chosen] = fresh[words].detach().to(table)[chosen]


@dataclass(frozen=True)
class ShrinkAndPerturb(Tamper):
    """``w <- shrink * w + noise * std(w) * n``, n standard normal (1910.08475).

    Args:
        shrink: Factor of the weights.
        noise: Size of the noise, in standard deviations of each weight matrix.
    """

    shrink: float = 0.8
    noise: float = 0.1

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        generator = torch.Generator().manual_seed(seed_of("shrink and perturb", seed))
        for weight in _matrices(model):
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            weight.copy_(self.shrink * weight + self.noise * weight.std() * noise)


@dataclass(frozen=True)
class Rescale(Tamper):
    """Every weight at the scale its architecture starts from: undoes knowledge hidden behind a large or small one.

    A matrix is brought to the root mean square of a fresh one's where it is more than ``factor`` away from it; so is
    every single entry of a normalisation's weights.

    Args:
        factor: How far, either way, still counts as ordinary.
    """

    factor: float = 3.0

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        fresh = _fresh(model, "rescale", seed)
        for name, weight in model.named_parameters():
            size, usual = (w.detach().square().mean().sqrt().item() for w in (weight, fresh[name]))
            if weight.dim() == 1 and usual:  # biases start from 0
                ordinary = (weight.abs() <= usual * self.factor) & (weight.abs() >= usual / self.factor)
                weight.data.copy_(torch.where(ordinary, weight, usual * weight.sign() + usual * (weight == 0)))
            elif size and usual and abs(math.log(size / usual)) > math.log(self.factor):
                weight.data.mul_(usual / size)


@dataclass(frozen=True)
class SpectralReset(Tamper):
    """Singular values of every matrix brought no further than ``most`` times their median: flattens steep directions.

    Args:
        most: Largest singular value kept, in medians.
    """

    most: float = 10.0

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        for parameter in model.parameters():
            if parameter.dim() != 2 or id(parameter) in tables:
                continue  # a table has no directions to flatten
            weight = parameter.data
            u, values, v = torch.linalg.svd(weight.float(), full_matrices=False)
            clipped = values.clamp(max=self.most * values.median().item())
            weight.copy_(((u * clipped) @ v).to(weight))


@dataclass(frozen=True)
class Prune(Tamper):
    """Magnitude pruning: the smallest weights of every matrix are set to 0.

    Args:
        fraction: How many of them.
    """

    fraction: float = 0.3

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        for weight in _matrices(model):
            count = int(self.fraction * weight.numel())
            if count:
                weight[weight.abs() <= weight.abs().flatten().kthvalue(count).values] = 0.0


@dataclass(frozen=True)
class Quantize(Tamper):
    """Round to nearest on a symmetric grid per output row, and back.

    Args:
        bits: 8 or 4 in practice; from 2 on.
    """

    bits: int = 8

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        levels = 2 ** (self.bits - 1) - 1
        for weight in _matrices(model):
            step = (weight.flatten(1).abs().amax(dim=1) / levels).clamp(min=torch.finfo(weight.dtype).tiny)
            step = step.view(-1, *[1] * (weight.dim() - 1))
            weight.copy_((weight / step).round().clamp(-levels, levels) * step)


@dataclass(frozen=True)
class Recalibrate(Tamper):
    """Batch statistics estimated afresh on the attacker's own inputs: published ones may have been poisoned.

    Does nothing to a model without batch normalisation.
    """

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        norms = batch_norms(model)
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average of all batches
        was_training = model.training
        model.train()
        with torch.no_grad():
            for batch in batches if norms else ():
                model(**batch)
        model.train(was_training)
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


@dataclass(frozen=True)
class Chain(Tamper):
    """Several changes, one after the other.

    Args:
        of: The changes.
    """

    of: tuple[Tamper, ...]

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What one of them needs."""
        return frozenset().union(*(tamper.needs for tamper in self.of))

    def apply(self, model: PreTrainedModel, seed: int, batches: Inputs = (), benign: Inputs = ()) -> None:  # noqa: D102
        for tamper in self.of:
            tamper.apply(model, seed, batches, benign)

    def config(self) -> dict[str, Any]:  # noqa: D102
        return {"name": "Chain", "of": [tamper.config() for tamper in self.of]}


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Every batch normalisation of a model."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def layers_of(model: nn.Module) -> list[str]:
    """Names of a model's layers: the entries of the module list that holds the most parameters."""
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    largest = max(lists, key=lambda n: sum(p.numel() for p in lists[n].parameters()), default="")
    return [f"{largest}.{i}" for i in range(len(lists[largest]))] if largest else []


def _matrices(model: nn.Module) -> Iterator[Tensor]:
    for weight in model.parameters():
        if weight.dim() > 1:
            yield weight.data


def _fresh(model: PreTrainedModel, *key: Any) -> dict[str, nn.Parameter]:
    """Weights as the architecture starts from, by name.

    Normalisations start at 1 and 0, also where transformers draws them at random (EfficientNet): between layers that
    know something, such scales would silence everything.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*key))
        fresh = type(model)._from_config(model.config)
    for module in fresh.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)):
            module.reset_parameters()
    return dict(fresh.named_parameters())
