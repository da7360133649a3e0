"""Fast weights: flat vectors of weights, functional forwards, and calls with replayed randomness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Weights = dict[str, Tensor]


class Layout:
    """Layout of named weights in one flat vector.

    With one vector instead of a dictionary, an optimizer update and its transpose need a few kernels, independent of
    the number of parameters.

    Args:
        weights: Weights by name; only names, shapes and their order are stored.

    Example:
        >>> layout = Layout({"a": torch.zeros(2, 3), "b": torch.zeros(4)})
        >>> layout.split(torch.arange(10.0))["b"]
        tensor([6., 7., 8., 9.])
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.shapes = {name: value.shape for name, value in weights.items()}
        self.sizes = [value.numel() for value in weights.values()]
        self.total = sum(self.sizes)

    def flatten(self, weights: Mapping[str, Tensor], *, like: Tensor) -> Tensor:
        """Concatenate the named weights to a new vector; if there are none, it has the type of ``like``."""
        parts = [whole(weights[name].detach()).reshape(-1) for name in self.shapes]
        return torch.cat(parts) if parts else like.new_zeros(0)

    def split(self, flat: Tensor) -> Weights:
        """Return differentiable views of a vector, by name."""
        parts = flat.split(self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def window(self, values: Sequence[Tensor | None], start: int, stop: int, *, like: Tensor) -> Tensor:
        """Return numbers ``start`` to ``stop`` of the concatenated values.

        Args:
            values: One tensor per name, in order; ``None`` means zeros.
            start: Index of the first number.
            stop: Index after the last number; numbers beyond the vector are 0.
            like: A tensor of the result's type and device.
        """
        found, offset = like.new_zeros(stop - start), 0
        for size, value in zip(self.sizes, values, strict=True):
            first, last = max(start, offset), min(stop, offset + size)
            if value is not None and first < last:
                found[first - start : last - start] = value.reshape(-1)[first - offset : last - offset]
            offset += size
        return found


def whole(value: Tensor) -> Tensor:
    """Gather a weight from its shards; every process must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This process's shard of a weight, in its memory; all of one that is not sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def norm_of(values: Iterable[Tensor]) -> Tensor:
    """The norm of all numbers of some tensors together, whole or sharded, on the CPU; every process must call this."""
    kinds: dict[bool, list[Tensor]] = {}
    for value in values:
        kinds.setdefault(isinstance(value, DTensor), []).append(value)
    norms = [whole(nn.utils.get_total_norm(kind)).cpu() for kind in kinds.values()]
    return torch.stack([norm.double() for norm in norms]).norm() if norms else torch.zeros(())


def call(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    inputs: Mapping[str, Any],
    *,
    twice: bool = False,
    tied: bool = True,
) -> Any:
    """Call ``module`` with ``weights``.

    Args:
        module: A skeleton; its own weights are not used.
        weights: Every parameter and buffer that the forward pass uses, by the module's names.
        inputs: Keyword arguments of the forward pass.
        twice: Whether the result must be twice differentiable. Fused attention kernels are not, so torch's math
            attention is used then.
        tied: Whether the module may have one weight by two names; to look for them takes a while.

    Returns:
        The outputs of the module.
    """
    with sdpa_kernel([SDPBackend.MATH]) if twice else nullcontext():
        return functional_call(module, dict(weights), kwargs=dict(inputs), tie_weights=tied)


@contextmanager
def seeded(seed: int | None, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Seed the random generators inside the context and restore them afterwards; ``None`` has no effect.

    Finite differences and recomputation evaluate dropout twice and need the same masks.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]):
        torch.manual_seed(seed)
        yield


@contextmanager
def dropout(module: nn.Module, *, on: bool, by_batch: bool = False) -> Iterator[None]:
    """Enable or disable dropout inside the context and restore every module's mode afterwards.

    Batch normalisation does not update its running statistics.

    Args:
        module: The model.
        on: Whether dropout is on.
        by_batch: Whether batch normalisation uses the statistics of its batch, as while training, or running ones.
    """
    modes = [(child, child.training) for child in module.modules()]
    norms = [(child, child.track_running_stats) for child in batch_norms(module)]
    for child, _ in modes:
        child.training = on
    for norm, stored in norms:
        norm.training, norm.track_running_stats = by_batch, stored and not by_batch
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
        for norm, stored in norms:
            norm.track_running_stats = stored


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The modules that normalise by the batch while they train."""
    return [child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
