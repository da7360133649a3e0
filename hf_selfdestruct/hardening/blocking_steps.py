"""Outer steps that block and do nothing else, between those of the desired task: an optimizer for each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Adam

from ..models.distributed import is_sharded
from .method_options import MethodOptions

MOMENTS = "/blocking/"  # before the names of the state: no task's name has a slash


class BlockingSteps:
    """Makes the steps that block by an Adam of its own, where a rate for them is given; as SOPHON does (2404.12699).

    The user's optimizer finds no gradient then: it neither moves nor decays a weight, and its moments stay. The weight
    of the blocking loss, with a guard's factor, multiplies the rate, since Adam would undo that of a gradient. Where it
    is 0, as in the undefended sibling, such a step moves no weight (but statistics of batch normalisation, as beside
    blocking), and the desired task has the same steps.

    Args:
        options: The method's settings, complete.
        trained: The model, or the adapter that is trained in its place.
    """

    def __init__(self, options: MethodOptions, trained: nn.Module) -> None:
        self._rate, self._interval = options.blocking_learning_rate, options.blocking_interval
        self._weights = dict(trained.named_parameters()) if self._rate else {}
        self._adam = Adam([{"params": [*self._weights.values()]}], lr=self._rate)
        self._strength: float | None = None  # of the step that is being made, if it is one of these

    def see(self, model: nn.Module, step: int, strength: float) -> bool:
        """Note an outer step; whether it is one that blocks and does nothing else.

        Args:
            model: The live model.
            step: The outer step, counted from 0.
            strength: What multiplies the rate.

        Raises:
            ValueError: The model's weights are sharded, and moments are stored of whole ones.
        """
        alone = bool(self._rate) and step % self._interval == 0
        if alone and is_sharded(model):
            raise ValueError(
                "blocking_learning_rate makes steps by moments of whole weights, and this model's are sharded: launch "
                "without FSDP, or set method_options={'blocking_learning_rate': 0}."
            )
        self._strength = strength if alone else None
        return alone

    def before_optimizer_step(self) -> None:
        """Make the step that was noted, and leave no gradient to the user's optimizer.

        Without any gradient, where an adversary diverged, there is no step: Adam would go on by its momentum.
        """
        if self._strength is None:
            return
        if self._strength and any(w.grad is not None and bool(w.grad.any()) for w in self._weights.values()):
            self._adam.param_groups[0]["lr"] = self._rate * self._strength
            self._adam.step()
        self._adam.zero_grad()
        self._strength = None

    def state_dict(self) -> dict[str, Tensor]:
        """Adam's moments, by the names of the weights."""
        return {
            f"{MOMENTS}{name}/{key}": value
            for name, weight in self._weights.items()
            for key, value in self._adam.state.get(weight, {}).items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take out of a state what :meth:`state_dict` gave; the rest is returned.

        Raises:
            ValueError: It contains moments of other weights, or no such steps are made here.
        """
        moments: dict[str, dict[str, Tensor]] = {}
        for name in [name for name in state if name.startswith(MOMENTS)]:
            weight, _, key = name.removeprefix(MOMENTS).rpartition("/")
            moments.setdefault(weight, {})[key] = state[name]
        if moments and not self._rate:
            raise ValueError(
                "the state contains moments of steps that only block, and this run makes none: resume with the "
                "method_options of the first run."
            )
        if unknown := sorted(moments.keys() - self._weights.keys()):
            raise ValueError(f"the state contains moments of {unknown[0]}, which is not trained here.")
        numbered = {i: moments[name] for i, name in enumerate(self._weights) if name in moments}
        self._adam.load_state_dict({**self._adam.state_dict(), "state": numbered})
        return {name: value for name, value in state.items() if not name.startswith(MOMENTS)}
