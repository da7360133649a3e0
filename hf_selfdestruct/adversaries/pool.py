"""A pool of adversaries that continue over many outer steps, each with an offset, a head and moments of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..models.distributed import ALONE, Processes
from ..models.functional import Weights
from ..tasks.blocked_task import seed_of
from .member import Member

STORAGES = ("device", "cpu", "disk")
PRECISIONS = ("full", "bfloat16")
BINS = 4  # of ages, in the log


@dataclass(frozen=True)
class AdversaryPool:
    """Adversaries that continue, one in turn in each outer step.

    An adversary of a pool starts where its last stretch ended, relative to the published weights, with the head and the
    optimizer's moments that it had then. Its draw of the fine-tuning (task, optimizer, rate, batch size, examples,
    head, trainable weights, prelude) holds for its whole life, in which the rate may fall (``schedule``). A gradient
    goes through one stretch; where the stretch starts and its moments are constants. Of word embeddings, only rows that
    a stretch reads move in it, and so do their moments (as in torch's ``SparseAdam``).

    Args:
        size: Number of adversaries. In their first lives they are reset at different ages, so that all ages are present
            soon.
        horizon: Number of blocked steps after which an adversary is reset: it starts again from the published weights,
            with another draw.
        storage: Where offsets and moments are stored between stretches: on the training's device, in main memory, or on
            disk, in the folder for temporary files (``TMPDIR``).
        precision: In which precision: that of the inner steps, or ``"bfloat16"``, in half the memory.
        patience: Reset an adversary whose held-out score has not improved for so many blocked steps, too; 0: never.
            One whose rate falls improves little at its end, and may be reset before its rate is low.
        by_success: Draw adversaries with a chance in proportion to the rank of their last held-out score, as in
            prioritized level replay (2010.03934), instead of one after the other.

    Raises:
        ValueError: A value is out of range or misspelt.
    """

    size: int = 8
    horizon: int = 200
    storage: str = "device"
    precision: str = "full"
    patience: int = 0
    by_success: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        for name, least in (("size", 1), ("horizon", 1), ("patience", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"a pool's {name} must be a whole number of at least {least}; got {value!r}.")
        for name, known in (("storage", STORAGES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"a pool's {name} must be one of {', '.join(known)}; got {getattr(self, name)!r}.")

    def config(self) -> dict[str, int | str | bool]:
        """The pool as plain values, for the report; where it is stored changes nothing."""
        return {name: value for name, value in asdict(self).items() if name != "storage"}

    def bytes(self, numbers: int) -> int:
        """Memory that a full pool takes, or room on disk.

        Args:
            numbers: Numbers that an adversary stores: its offset, its head and its moments.

        Example:
            Adam on a million weights in float32 stores three million numbers.

            >>> AdversaryPool(size=8).bytes(3_000_000)
            96000000
        """
        return self.size * numbers * (2 if self.precision == "bfloat16" else 4)

    def last_age(self, member: Member) -> int:
        """The age at which a member is reset: staggered in the first lives, the horizon in later ones."""
        first = -(-self.horizon * (member.number % self.size + 1) // self.size)
        return self.horizon if member.life else first

    def lived(self, member: Member) -> float:
        """The share of its life that a member has behind it, in [0, 1]; 1 only where a horizon was made shorter."""
        return min(1.0, member.age / self.last_age(member))

    def bin(self, age: int) -> int:
        """The upper end of the bin of ages that the log names a reading by; 0 contains age 0 alone."""
        return min(-(-BINS * age // self.horizon), BINS) * self.horizon // BINS


class Members:
    """The members of one process's pool while training runs: whose turn it is, and what they store.

    Args:
        settings: What the pool is.
        device: The training's device.
        owners: The processes that have a pool each; by default all of them have one together.

    Attributes:
        turn: Number of stretches so far.
        numbers: Numbers of this process's members; no other process's members have them.
        total: Number of members in all processes.
    """

    def __init__(self, settings: AdversaryPool, device: torch.device, owners: Processes = ALONE) -> None:
        self.settings = settings
        self.total = settings.size * owners.size
        self.numbers = range(settings.size * owners.rank, settings.size * (owners.rank + 1))
        self.turn = 0
        self._device = device if settings.storage == "device" else torch.device("cpu")
        self._all = [Member(number) for number in self.numbers]

    def next(self, *key: object) -> Member:
        """The member whose turn it is; where success counts, drawn from ``key``."""
        if not self.settings.by_success:
            return self._all[self.turn % len(self._all)]
        worst_first = sorted(self._all, key=lambda member: (member.age == 0, member.score))  # newborns count as best
        generator = torch.Generator().manual_seed(seed_of("pool", *key))
        ranks = torch.arange(1.0, len(worst_first) + 1)
        return worst_first[int(torch.multinomial(ranks, 1, generator=generator))]

    def store(
        self,
        member: Member,
        *,
        offset: Weights,
        own: Weights,
        moments: Mapping[str, Weights],
        blocked: int,
        taken: int,
        score: float,
    ) -> None:
        """Store where a stretch ended, or reset the member if its life ends with it.

        Args:
            member: Whose stretch it was.
            offset: How far it is from the published weights, by name.
            own: Its head and adapters, by name.
            moments: Its optimizer's moments, by the moment's name and by weight.
            blocked: Number of blocked steps in the stretch.
            taken: Number of all steps in it.
            score: The blocked task's score on held-out rows, at its end.
        """
        member.age, member.taken, member.score = member.age + blocked, member.taken + taken, score
        if not member.best_age or score > member.best:
            member.best, member.best_age = score, member.age
        patience = self.settings.patience
        learned_enough = bool(patience) and member.age - member.best_age >= patience
        if member.age >= self.settings.last_age(member) or learned_enough:
            member.reset()
            return
        member.offset, member.own = self._stored(offset), self._stored(own, copy=True)
        member.moments = {kind: self._stored(values) for kind, values in moments.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly, as a flat dictionary of tensors; every process must call this."""
        state = {"turn": torch.tensor(self.turn)}
        for member in self._all:
            state |= {f"{member.number}/{name}": value for name, value in member.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            ValueError: It is the state of a pool of another size, or another process's.
        """
        found = sorted(int(number) for number in {name.partition("/")[0] for name in state} - {"turn"})
        if found != [*self.numbers]:
            raise ValueError(
                f"the state contains adversaries {found} of the pool, but this process has {[*self.numbers]}; resume "
                "with the adversary's settings and as many processes as in the first run."
            )
        self.turn = int(state["turn"])
        for member in self._all:
            prefix = f"{member.number}/"
            own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            member.load_state_dict(own, lambda weights: self._stored(weights, copy=True))

    def _stored(self, weights: Weights, *, copy: bool = False) -> Weights:
        """Weights where and as they are stored; a copy of what would else be a small part of a large vector."""
        half, on_disk = self.settings.precision == "bfloat16", self.settings.storage == "disk"
        found = {
            name: value.detach().to(self._device, torch.bfloat16 if half else value.dtype, copy=copy or on_disk)
            for name, value in weights.items()
        }
        return _on_disk(found) if on_disk else found


def _on_disk(weights: Weights) -> Weights:
    """The same weights in a file, which the system reads when they are used.

    The file has no name once it is read: it goes with the last of its weights, also if the process is killed.
    """
    if not weights:
        return weights
    try:
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            save_file({name: value.contiguous() for name, value in weights.items()}, file.name)
            return load_file(file.name)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"an adversary of the pool could not be stored in {tempfile.gettempdir()} ({error}): set TMPDIR to a "
            "folder with more room, or adversary={'pool_storage': 'cpu'}."
        ) from error
