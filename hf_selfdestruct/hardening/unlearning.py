"""The first steps of a hardening that unlearns before its method begins, and what is done where they end.

UNDO (2506.06278) unlearns, mixes the weights with noise, and distils from the model that has unlearned: what unlearning
alone only hides is not in what the student learns anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from ..erasure.initial_weights import noised
from ..losses.base import BlockingLoss
from ..models.distributed import is_sharded
from .config import HardeningConfig
from .keeper import Keeper

ORIGINAL = "/original/"  # before the names of the state: no task's name has a slash

logger = logging.getLogger(__name__)


class Unlearning:
    """Ends the phase after its last step: what is distilled from is renewed, and the weights are mixed with noise.

    The optimizer's moments stay. They are those of the weights before, and fade with its betas.

    Args:
        config: The settings of hardening, filled.
        keeper: What keeps the model close to an original.
    """

    def __init__(self, config: HardeningConfig, keeper: Keeper) -> None:
        options = config.options
        self.steps, self._noise, self._seed, self._keeper = options.unlearn_steps, options.noise, config.seed, keeper
        self._ended = False
        self._at: tuple[PreTrainedModel, int] | None = None

    def during(self, step: int) -> bool:
        """Whether the model unlearns in this outer step, counted from 0."""
        return step < self.steps

    def see(self, model: PreTrainedModel, step: int) -> None:
        """Note which model makes which outer step.

        Raises:
            ValueError: Its weights are sharded, and noise and the original need whole ones.
        """
        if not self.steps:
            return
        if is_sharded(model):
            raise ValueError(
                "unlearn_steps renews the original and mixes noise into whole weights, and this model's are sharded: "
                "launch without FSDP, or set method_options={'unlearn_steps': 0}."
            )
        self._at = model, step

    def after_optimizer_step(self) -> None:
        """End the phase, if this was its last step."""
        if self._at is None or self._at[1] != self.steps - 1:
            return
        model, self._at = self._at[0], None
        self._keeper.renew(model.state_dict())
        if self._noise:
            model.load_state_dict(noised(model, self._noise, self._seed), strict=False)
        self._ended = True
        logger.warning(
            "unlearning ended after %d steps: keeping losses compare with the model as it was then, and a share of %g "
            "of its weights is noise",
            *(self.steps, self._noise),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The renewed original, which no other file of a run contains."""
        return {ORIGINAL + name: value for name, value in self._keeper.state_dict().items()} if self._ended else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take out of a state what :meth:`state_dict` gave; the rest is returned.

        Raises:
            ValueError: The state is from before the phase ended, and this one has ended; or there is no phase here.
        """
        own = {name.removeprefix(ORIGINAL): value for name, value in state.items() if name.startswith(ORIGINAL)}
        if own and not self.steps:
            raise ValueError(
                "the state contains a model that has unlearned, and this run does not unlearn: resume with the "
                "method_options of the first run."
            )
        if self._ended and not own and self._keeper.state_dict():
            raise ValueError(
                "the state is from before unlearning ended, and here it has ended: go on from it in a new trainer, or "
                "objective, around the model as it was first."
            )
        if own:
            self._keeper.renew(own)
            self._ended = True
        return {name: value for name, value in state.items() if not name.startswith(ORIGINAL)}


def check_unlearning(config: HardeningConfig, losses: Sequence[BlockingLoss]) -> None:
    """Refuse to unlearn by losses that do not look at blocked rows.

    Raises:
        ValueError: One is measured on general rows.
    """
    for loss in losses if config.options.unlearn_steps else ():
        if loss.on_general:
            raise ValueError(
                f"unlearn_steps minimises {type(loss).__name__} without an adversary, and it is measured on general "
                "rows, on which the model should stay good: set blocking_loss='entropy', or unlearn_steps=0."
            )
