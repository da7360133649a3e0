"""The outer step of ``outer_steps.py`` by other packages: ``higher`` and ``torchopt``, each as its manual has it.

Both differentiate through unrolled inner steps of the live module, with eager attention and whole embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import higher
import torch
import torchopt
from torch import Tensor
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from outer_steps import Problem

BETAS = (0.9, 0.999)
ROOT = 1e-30  # under torchopt's square root, whose derivative at 0 is else infinite; see `by_torchopt`


def by_higher(problem: Problem) -> dict[str, Tensor]:
    """``higher.innerloop_ctx`` around ``torch.optim.Adam``.

    Its Adam adds epsilon beside the square root *before* bias correction, as torch did until 1.0; an epsilon per
    step, handed over by ``override``, makes both the same.
    """
    model, shares = problem.model, 1 / (len(problem.batches) + 1)
    inner = torch.optim.Adam(model.parameters(), lr=problem.learning_rate, betas=BETAS)
    with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (fast, optimizer):
        total = problem.blocking_loss(fast(**problem.inputs(problem.held_out)).logits) * shares
        for step, batch in enumerate(problem.batches, 1):
            loss = cross_entropy(fast(**problem.inputs(batch)).logits, batch["labels"])
            optimizer.step(loss, override={"eps": [problem.epsilon * (1 - BETAS[1] ** step) ** 0.5]})
            total = total + problem.blocking_loss(fast(**problem.inputs(problem.held_out)).logits) * shares
        return gradient(problem, total, dict(model.named_parameters()))


def by_torchopt(problem: Problem) -> dict[str, Tensor]:
    """``torchopt.MetaAdam``.

    With its default ``eps_root=0`` the meta-gradient is not a number, because the square root has no derivative at
    0, where the second moments of untouched embedding rows are. ``1e-30`` there is below rounding anywhere else.
    Its bias corrections are computed in torch's default type; in a float64 run that is set to float64.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(problem.model.dtype)
    try:
        return _by_torchopt(problem)
    finally:
        torch.set_default_dtype(before)


def _by_torchopt(problem: Problem) -> dict[str, Tensor]:
    model, shares = problem.model, 1 / (len(problem.batches) + 1)
    start = dict(model.named_parameters())
    state = torchopt.extract_state_dict(model, by="reference")
    inner = torchopt.MetaAdam(
        model, lr=problem.learning_rate, betas=BETAS, eps=problem.epsilon, eps_root=ROOT, moment_requires_grad=False
    )
    total = problem.blocking_loss(model(**problem.inputs(problem.held_out)).logits) * shares
    for batch in problem.batches:
        inner.step(cross_entropy(model(**problem.inputs(batch)).logits, batch["labels"]))
        total = total + problem.blocking_loss(model(**problem.inputs(problem.held_out)).logits) * shares
    found = gradient(problem, total, start)
    torchopt.recover_state_dict(model, state)
    return found


def gradient(problem: Problem, total: Tensor, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of the blocking loss for the published weights, zeros where they take no part."""
    names = [name for name in start if name not in problem.head]
    leaves = [start[name] for name in names]
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))
