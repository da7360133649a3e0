"""A pool of adversaries that continue over many outer steps, each with an offset, a head and moments of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..models.functional import Weights
from ..tasks.blocked_task import seed_of
from .member import Member

STORAGES = ("device", "cpu")
PRECISIONS = ("full", "bfloat16")
BINS = 4  # of ages, in the log


@dataclass(frozen=True)
class AdversaryPool:
    """Adversaries that continue, one in turn in each outer step.

    An adversary of a pool starts where its last stretch ended, relative to the published weights, with the head and the
    optimizer's moments that it had then. Its draw of the fine-tuning (task, optimizer, rate, batch size, examples,
    head, trainable weights, prelude) holds for its whole life. A gradient goes through one stretch; where the stretch
    starts and its moments are constants. Of word embeddings, only rows that a stretch reads move in it, and so do their
    moments (as in torch's ``SparseAdam``).

    Args:
        size: Number of adversaries. In their first lives they are reset at different ages, so that all ages are present
            soon.
        horizon: Number of blocked steps after which an adversary is reset: it starts again from the published weights,
            with another draw.
        storage: Where offsets and moments are stored between stretches: on the training's device, or in main memory.
        precision: In which precision: that of the inner steps, or ``"bfloat16"``, in half the memory.
        patience: Reset an adversary whose held-out score has not improved for so many blocked steps, too; 0: never.
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
        """Memory that a full pool takes.

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
        first = -(-self.horizon * (member.number + 1) // self.size)
        return self.horizon if member.life else first

    def bin(self, age: int) -> int:
        """The upper end of the bin of ages that the log names a reading by; 0 contains age 0 alone."""
        return min(-(-BINS * age // self.horizon), BINS) * self.horizon // BINS


class Members:
    """The members of a pool while training runs: whose turn it is, and what they store.

    Args:
        settings: What the pool is.
        device: The training's device.

    Attributes:
        turn: Number of stretches so far.
    """

    def __init__(self, settings: AdversaryPool, device: torch.device) -> None:
        self.settings = settings
        self._device = device if settings.storage == "device" else torch.device("cpu")
        self._all = [Member(number) for number in range(settings.size)]
        self.turn = 0

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
        """Everything needed to go on exactly, as a flat dictionary of tensors."""
        state = {"turn": torch.tensor(self.turn)}
        for member in self._all:
            state |= {f"{member.number}/{name}": value for name, value in member.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            ValueError: It is the state of a pool of another size.
        """
        count = len({name.partition("/")[0] for name in state} - {"turn"})
        if count != len(self._all):
            raise ValueError(
                f"the state contains a pool of {count} adversaries, but this run has {len(self._all)}; resume with the "
                "adversary's settings of the first run."
            )
        self.turn = int(state["turn"])
        for member in self._all:
            prefix = f"{member.number}/"
            member.load_state_dict(
                {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}, self._device
            )

    def _stored(self, weights: Weights, *, copy: bool = False) -> Weights:
        """Weights where and as they are stored; a copy of what would else be a small part of a large vector."""
        half = self.settings.precision == "bfloat16"
        return {
            name: value.detach().to(self._device, torch.bfloat16 if half else value.dtype, copy=copy)
            for name, value in weights.items()
        }
