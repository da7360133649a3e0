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
    """How named weights lie in one flat vector.

    One vector instead of a dictionary makes an optimizer's update a handful of kernels, whatever the number of
    parameters, and its transpose too.

    Args:
        weights: Weights by name; only names, shapes and their order are kept.

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
        """The named weights as one new vector, of the kind of ``like`` where there are none."""
        parts = [whole(weights[name].detach()).reshape(-1) for name in self.shapes]
        return torch.cat(parts) if parts else like.new_zeros(0)

    def split(self, flat: Tensor) -> Weights:
        """Views of a vector, by name; differentiable."""
        parts = flat.split(self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def window(self, values: Sequence[Tensor | None], start: int, stop: int, *, like: Tensor) -> Tensor:
        """Numbers ``start`` to ``stop`` of the vector that values in the order of the names make.

        Args:
            values: A tensor for each name; ``None`` stands for zeros.
            start: First number.
            stop: First number behind; what lies behind the vector is 0.
            like: A tensor of the wanted kind.
        """
        found, offset = like.new_zeros(stop - start), 0
        for size, value in zip(self.sizes, values, strict=True):
            first, last = max(start, offset), min(stop, offset + size)
            if value is not None and first < last:
                found[first - start : last - start] = value.reshape(-1)[first - offset : last - offset]
            offset += size
        return found


def whole(value: Tensor) -> Tensor:
    """A weight whole, wherever its shards are; every process must ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def call(module: nn.Module, weights: Mapping[str, Tensor], inputs: Mapping[str, Any], *, twice: bool = False) -> Any:
    """Outputs of ``module`` run with ``weights``.

    Args:
        module: A skeleton; its own weights are never read.
        weights: Every parameter and buffer that the forward touches, by the module's names.
        inputs: Keyword arguments of its forward.
        twice: Whether the result must be twice differentiable: fused attention kernels are not, so torch's
            attention is then composed of plain operations.

    Returns:
        What the module returns.
    """
    with sdpa_kernel([SDPBackend.MATH]) if twice else nullcontext():
        return functional_call(module, dict(weights), kwargs=dict(inputs))


@contextmanager
def seeded(seed: int | None, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Random numbers from ``seed`` inside, the global generators as they were afterwards; ``None``: nothing.

    Two evaluations of the same dropout, as finite differences and recomputation need them, draw the same masks.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]):
        torch.manual_seed(seed)
        yield


@contextmanager
def dropout(module: nn.Module, *, on: bool) -> Iterator[None]:
    """Dropout on or off inside, every module in its own mode afterwards.

    Normalisation keeps to its running statistics, and leaves them alone.
    """
    modes = [(child, child.training) for child in module.modules()]
    for child, _ in modes:
        child.training = on and not isinstance(child, nn.modules.batchnorm._BatchNorm)
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
