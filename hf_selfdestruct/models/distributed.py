"""The processes that simulate one adversary together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from torch import Tensor
from torch.nn.functional import pad

from ..files import locked


@dataclass(frozen=True)
class Processes:
    """Who computes which rows of each batch, and who keeps which piece of each flat vector.

    Each process computes with its rows; gradients are added up over all. With ``sharded`` it keeps only its piece of
    every flat vector (weights, moments, trajectory, gradients), and whole weights exist for the time of one forward
    and backward, as in ZeRO-3 (1910.02054) without its layers. One process, the default, has all and waits for none.

    Args:
        rank: This process, counted from 0.
        size: How many there are.
        sharded: Whether flat vectors are shared out.

    Example:
        >>> Processes(rank=1, size=3).rows(8)
        slice(2, 5, None)
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    def rows(self, count: int) -> slice:
        """Which of ``count`` rows are this process's."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def part(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's rows of a batch that all of them hold."""
        return {name: value[self.rows(len(value))] for name, value in batch.items()}

    def joined(self, part: Tensor, count: int) -> Tensor:
        """All ``count`` rows from everyone's; only one's own have a graph, so that gradients add up to the whole."""
        if self.size == 1:
            return part
        mine, whole = self.rows(count), part.new_zeros((count, *part.shape[1:]))
        whole[mine] = part.detach()
        dist.all_reduce(whole)
        return torch.cat([whole[: mine.start], part, whole[mine.stop :]])

    def length(self, total: int) -> int:
        """Length of the piece that one process keeps of a flat vector."""
        return -(-total // self.size) if self.sharded else total

    def piece(self, full: Tensor) -> Tensor:
        """The piece that this process keeps of a flat vector that all of them hold; the last is filled up with 0."""
        if not self.sharded:
            return full
        length = self.length(len(full))
        mine = full[self.rank * length : (self.rank + 1) * length]
        return pad(mine, (0, length - len(mine)))  # always a copy

    def full(self, piece: Tensor, total: int) -> Tensor:
        """The flat vector of ``total`` numbers that the pieces make."""
        if not self.sharded:
            return piece
        found = piece.new_empty(len(piece) * self.size)
        dist.all_gather_single(found, piece.detach())
        return found[:total]

    def summed(self, window: Callable[[int, int], Tensor], total: int) -> Tensor:
        """The sum of everyone's flat vectors, as far as this process keeps it; where sharded, never whole.

        Args:
            window: From two places to a new tensor of this process's numbers between them.
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
        """A sum over a whole flat vector, from the sum over one's piece."""
        if self.sharded:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def norm(self, piece: Tensor) -> float:
        """Length of a whole flat vector, from one's piece."""
        return self.total(piece.norm().square()).sqrt().item() if self.sharded else piece.norm().item()


ALONE = Processes()


def anyone(accelerator: Accelerator, said: bool) -> bool:
    """Whether any process says so; every one must ask."""
    return bool(accelerator.reduce(torch.tensor(float(said), device=accelerator.device), reduction="sum"))


@contextmanager
def working_in(folder: str | Path) -> Iterator[None]:
    """The only run that works in a folder, which is made; the first process locks it for all of the run.

    Raises:
        ValueError: Another run works there.
    """
    if not PartialState().is_main_process:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield
