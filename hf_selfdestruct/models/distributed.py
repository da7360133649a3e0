"""Processes that share the simulation of one adversary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import pad

from ..files import locked


@dataclass(frozen=True)
class Processes:
    """Assignment of batch rows and of shards of flat vectors to processes.

    Each process computes with its rows, and gradients are summed over processes. With ``sharded``, a process stores
    only its shard of every flat vector (weights, moments, trajectory, gradients); whole weights exist only during one
    forward and backward pass, as in ZeRO-3 (1910.02054) but without per-layer gathering. By default a single process
    has all rows and vectors.

    Args:
        rank: Rank of this process, from 0.
        size: Number of processes.
        sharded: Whether flat vectors are sharded.

    Example:
        >>> Processes(rank=1, size=3).rows(8)
        slice(2, 5, None)
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    def rows(self, count: int) -> slice:
        """Return the slice of ``count`` rows that this process computes."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def part(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's rows of a batch that every process has."""
        return {name: value[self.rows(len(value))] for name, value in batch.items()}

    def joined(self, part: Tensor, count: int) -> Tensor:
        """Gather all ``count`` rows; only this process's rows have a graph, so that gradients sum to the whole."""
        if self.size == 1:
            return part
        mine, whole = self.rows(count), part.new_zeros((count, *part.shape[1:]))
        whole[mine] = part.detach()
        dist.all_reduce(whole)
        return torch.cat([whole[: mine.start], part, whole[mine.stop :]])

    def length(self, total: int) -> int:
        """Return the length of one process's shard of a flat vector."""
        return -(-total // self.size) if self.sharded else total

    def piece(self, full: Tensor) -> Tensor:
        """Return this process's shard of a flat vector that every process has; the last shard is padded with 0."""
        if not self.sharded:
            return full
        length = self.length(len(full))
        mine = full[self.rank * length : (self.rank + 1) * length]
        return pad(mine, (0, length - len(mine)))  # always a copy

    def full(self, piece: Tensor, total: int) -> Tensor:
        """Gather a flat vector of ``total`` numbers from its shards."""
        if not self.sharded:
            return piece
        found = piece.new_empty(len(piece) * self.size)
        dist.all_gather_single(found, piece.detach())
        return found[:total]

    def summed(self, window: Callable[[int, int], Tensor], total: int) -> Tensor:
        """Sum the flat vectors of all processes and return this process's shard, without building a whole sum.

        Args:
            window: Function from start and stop to a new tensor of this process's numbers in that range.
            total: Length of the vector.
        """
        if not self.sharded:
            full = window(0, total)
            dist.all_reduce(full)
            return full
        length, mine = self.length(total), torch.empty(0)
        for rank in range(self.size):
            part = window(rank * length, (rank + 1) * length)
            dist.reduce(part, rank)
            mine = part if rank == self.rank else mine
        return mine

    def total(self, value: Tensor) -> Tensor:
        """Reduce a sum over this process's shard to the sum over the whole flat vector."""
        if self.sharded:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def norm(self, piece: Tensor) -> float:
        """Compute the norm of a whole flat vector from this process's shard."""
        return self.total(piece.norm().square()).sqrt().item() if self.sharded else piece.norm().item()


ALONE = Processes()


def sharded_like(value: Tensor, live: Tensor) -> Tensor:
    """Shard a value that every process has as a parameter is sharded; what is sharded, or need not be, stays."""
    if not isinstance(live, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value, live.device_mesh, live.placements, src_data_rank=None)


def is_sharded(model: nn.Module) -> bool:
    """Whether each process has only shards of a model's weights."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def reshard(model: nn.Module) -> None:
    """Give back what a forward pass of ``fully_shard`` has gathered: the model's parameters are its shards again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def anyone(accelerator: Accelerator, said: bool) -> bool:
    """Whether the value is true in any process; every process must call this."""
    return bool(accelerator.reduce(torch.tensor(float(said), device=accelerator.device), reduction="sum"))


@contextmanager
def working_in(folder: str | Path) -> Iterator[None]:
    """Create a folder and lock it for this run; only the main process holds the lock.

    Raises:
        ValueError: Another run uses the folder.
    """
    if not PartialState().is_main_process:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield
