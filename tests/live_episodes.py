"""Toy episodes in place: around a live model, which is in the middle of an outer step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from toy_episodes import Toy, toy_episode
from toy_models import tiny_model
from transformers import PreTrainedModel

from hf_selfdestruct.meta_gradient.episode import Episode
from hf_selfdestruct.models import heads
from hf_selfdestruct.models.functional import call
from hf_selfdestruct.models.in_place import held


@dataclass(frozen=True)
class Live:
    """A live model with the weights of a toy episode, and that episode, flat and in place."""

    model: PreTrainedModel
    toy: Toy
    before: dict

    @property
    def flat(self) -> Episode:
        def forward(weights, batch):  # on the kernels that the live model has
            return call(self.toy.module, {**self.toy.buffers, **weights}, inputs_of(batch)).logits

        return replace(self.toy, forward=forward).episode()

    @property
    def in_place(self) -> Episode:
        def forward(_, batch):
            return self.toy.module(**inputs_of(batch)).logits

        names = heads.names_between(self.toy.module, self.model)

        def holding(weights, k):
            inner = {n: {**self.toy.buffers, **weights}[outer] for n, outer in names.items()}
            inner |= {n: weights[n] for n in self.toy.head}
            return held(self.toy.module, self.model, inner, published=names)

        return replace(replace(self.toy, forward=forward).episode(), held=holding)

    def assert_untouched(self) -> None:
        """Everything of the live model is the same object as before, with the same bits."""
        for (one, bits), (other, now) in zip(self.before["tensors"], tensors(self.model), strict=True):
            assert one is other
            assert torch.equal(bits, now)
        for name in ("modules", "training", "requires_grad", "forward"):
            assert self.before[name] == state(self.model)[name], name


def live_episode(
    architecture: str = "bert",
    *,
    change: Callable[[Toy], Toy] = lambda toy: toy,
    prepare: Callable[[PreTrainedModel], object] = lambda model: None,
    **fields,
) -> Live:
    """The live model is in training mode, has frozen weights, gradients and a wrapped forward."""
    toy = toy_episode(architecture, **fields)
    model = tiny_model(architecture, num_labels=5, dropout=0.3).double().train()
    model.load_state_dict({**toy.published, **toy.buffers}, strict=False)
    generator = torch.Generator().manual_seed(5)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.requires_grad_(number % 7 != 3)
    model.forward = model.forward
    prepare(model)
    shared = dict(model.named_parameters())
    toy = change(replace(toy, published={n: shared[n].detach() for n in toy.published}))
    return Live(model, toy, state(model))


def inputs_of(batch: dict) -> dict:
    return {n: v for n, v in batch.items() if n != "labels"}


def tensors(model: PreTrainedModel) -> list:
    found = [*model.parameters(), *model.buffers()]
    return [(t, t.detach().clone()) for t in (*found, *(p.grad for p in model.parameters())) if t is not None]


def state(model: PreTrainedModel) -> dict:
    return {
        "tensors": tensors(model),
        "modules": {n: (id(m), {**m._modules}, len(m._forward_hooks)) for n, m in model.named_modules()},
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "forward": {n: {*vars(m)} for n, m in model.named_modules()},
    }
