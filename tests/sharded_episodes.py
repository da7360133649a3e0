"""Meta-gradients in place on sharded weights, and the live model after them; for ``test_sharded_episode.py``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from launched import hand_in, leave
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from toy_language import language_model, language_rows, language_task
from toy_models import tiny_model, toy_rows, toy_task
from train_sharded import IN_PLACE, shard, simulator_of
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_selfdestruct.losses.base import View
from hf_selfdestruct.losses.blocking import UniformKL
from hf_selfdestruct.losses.probe import RepresentationProbe
from hf_selfdestruct.models.functional import whole

LANGUAGE = {**IN_PLACE, "adversary": {"head": "keep", "learns_rate": False}}
PRELUDE = {**IN_PLACE, "adversary": {"learns_rate": False, "prelude": 2}}
CASES = {"a language model": LANGUAGE, "checkpointed": LANGUAGE, "a bare trunk": IN_PLACE, "a prelude": PRELUDE}


class Failure(Exception):
    """What is raised in mid-episode."""


class Failing(UniformKL):
    """A blocking loss that fails after the inner steps."""

    measured = 0

    def forward(self, view: View) -> Tensor:
        object.__setattr__(self, "measured", self.measured + 1)
        if self.measured > 3:
            raise Failure
        return super().forward(view)


class Shrinking(UniformKL):
    """A blocking loss that reads the adversary's weights."""

    measured = 0

    def forward(self, view: View) -> Tensor:
        return super().forward(view) + sum(weight.square().sum() for weight in view.weights)


class Sharding:
    """A live model in the middle of an outer step: it has gradients, and in several processes shards.

    Args:
        case: Name of one of ``CASES``.
    """

    def __init__(
        self,
        case: str,
        *,
        prepare: Callable[[PreTrainedModel], object] | None = None,
        policies: Sequence[Any] = (),
        root: Callable[[PreTrainedModel], Any] | None = None,
        then: Callable[[Any], object] | None = None,
        loss: Any = None,
        **settings: Any,
    ) -> None:
        language = case in ("a language model", "checkpointed")
        model = language_model(vocab_size=43).double() if language else tiny_model().double()
        self.model: PreTrainedModel = model.base_model if case == "a bare trunk" else model
        task = language_task() if language else toy_task()
        data = language_rows(20, 3, longest=10) if language else toy_rows(40, seed=4)
        if prepare:
            prepare(self.model)
        self.loss = loss or Failing()
        self.simulator = simulator_of(self.model, task, [self.loss], data, {**CASES[case], **settings})
        if case == "checkpointed":
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        if torch.distributed.is_initialized():
            layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
            shard(root(self.model) if root else self.model, layers, policies)
        if then:
            then(self.model)
        for number, weight in enumerate(self.model.parameters()):
            weight.grad = torch.full_like(weight.detach(), float(number))

    def meta_gradient(self) -> Mapping[str, Tensor]:
        """The whole meta-gradient by name; the live model is as before."""
        before = self.state()
        draw = self.simulator.draw(0)
        object.__setattr__(self.loss, "measured", -10)
        found = self.simulator.meta_gradient(self.model, draw)
        assert found is not None
        self.assert_as(before)
        object.__setattr__(self.loss, "measured", 0)
        try:
            self.simulator.meta_gradient(self.model, draw)
        except Failure:
            self.assert_as(before)
            return {name: whole(value) for name, value in found.weights.items()}
        raise AssertionError("nothing failed")

    def state(self) -> list[tuple[Tensor, Tensor | None, Tensor, Tensor]]:
        """Each parameter and its gradient, as objects and as bits."""
        return [(p, p.grad, _bits(p), _bits(p.grad)) for p in self.model.parameters() if p.grad is not None]

    def assert_as(self, before: list[tuple[Tensor, Tensor | None, Tensor, Tensor]]) -> None:
        """Nothing of the live model has changed."""
        now = self.state()
        assert len(now) == len(before) == len([*self.model.parameters()])
        for (p, g, bits, slope), (q, h, others, slopes) in zip(now, before, strict=True):
            assert (p is q, g is h) == (True, True)
            assert [torch.equal(bits, others), torch.equal(slope, slopes)] == [True, True]


def _bits(value: Tensor) -> Tensor:
    value = value.detach()
    return (value.to_local() if isinstance(value, DTensor) else value).clone()


def refusals() -> dict[str, str]:
    """What is said of models and settings that cannot run in place on shards, by what is wrong."""
    cases: dict[str, dict[str, Any]] = {
        "half": {"prepare": lambda model: model.bfloat16()},
        "frozen": {"prepare": lambda model: model.base_model.embeddings.requires_grad_(False)},
        "a policy": {"policies": [MixedPrecisionPolicy(param_dtype=torch.bfloat16)] * 3},
        "one layer's policy": {"policies": [MixedPrecisionPolicy(param_dtype=torch.bfloat16), None, None]},
        "a pool elsewhere": {"adversary": {"learns_rate": False, "pool": 2, "pool_storage": "cpu"}},
        "a probe": {"adversary": {"head": "probe", "reads": "all_layers", "learns_rate": False, "batch_size": 8}},
        "each its own": {"adversary": {"scope": "local", "learns_rate": False}},
        "the trunk alone": {"root": lambda model: model.base_model},
        "no gradients": {"then": lambda model: model.set_requires_gradient_sync(False)},
        "hidden states": {"case": "a bare trunk", "loss": RepresentationProbe()},
        "weights": {"loss": Shrinking()},
    }
    found = {}
    for name, settings in cases.items():
        try:
            Sharding(settings.pop("case", "a prelude"), **settings).meta_gradient()
        except ValueError as error:
            found[name] = str(error)
    return found


def main(folder: Path) -> None:
    """Find every case's meta-gradient and hand it in."""
    for case in CASES:
        hand_in(folder, case, Sharding(case).meta_gradient(), refused=refusals() if case == [*CASES][-1] else {})
    leave()


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    main(Path(sys.argv[1]))
