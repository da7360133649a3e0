"""Exact meta-gradients with memory independent of K: the discrete adjoint of the inner loop.

The forward pass runs K inner steps without a graph. The backward pass computes the gradient with respect to theta_k
from that with respect to theta_{k+1}: through the transpose of the optimizer's update, and through the inner gradient,
whose Jacobian is the Hessian of the inner loss. This costs one Hessian-vector product per step. With ``lambda_k`` the
objective's gradient at (theta_k, optimizer state), ``A`` the update's transpose and ``H_k`` the Hessian::

    lambda_k = A_theta(lambda_{k+1}) + H_k A_g(lambda_{k+1}) + share_k * grad(blocking loss at theta_k)

Weights that the adversary does not train receive the mixed part of ``H_k`` in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..adversaries.optimizer import State
from .course import course_of
from .episode import Episode, MetaGradient
from .hessian import HVPS
from .trajectory import trajectory_of


def exact(episode: Episode, *, hvp: str = "double_backward", trajectory: str = "device") -> MetaGradient:
    """Compute exact gradients with activation memory independent of K.

    Args:
        episode: The simulated fine-tuning.
        hvp: ``"double_backward"`` needs twice differentiable losses (eager or math attention) and 5K+1
            forward-backward passes; ``"finite_difference"`` works with any kernel and needs 4K+1.
        trajectory: See :func:`~hf_selfdestruct.meta_gradient.trajectory.trajectory_of`; ``"recompute"`` costs about K
            more passes, and ``"logarithmic"`` 1.5 K at K = 4, 2.4 K at K = 32 and 3.7 K at K = 256.

    Returns:
        Exact gradients for the published weights and, for a learning adversary, for the adversary's own objective,
        which needs separate Hessian-vector products.

    Raises:
        ValueError: The episode runs in place, with modules that need not be twice differentiable, but ``hvp`` is not
            ``"finite_difference"``.
    """
    if episode.held is not None and hvp != "finite_difference":
        raise ValueError(f"an episode in place needs hvp='finite_difference', got {hvp!r}.")
    course = course_of(episode)
    x, f = course.start()
    optimizer = episode.optimizer
    path, state = trajectory_of(course, f, trajectory), course.state(x)
    path.run(x, state)
    course.end(x, state)
    # Costates: gradients of each objective with respect to x and f, the optimizer state, and the learning rate.
    sums = [course.zeros(x, f) for _ in range(2 if episode.learns or episode.learns_rate else 1)]
    states: list[State] = [optimizer.init(x) for _ in sums]
    rates: list[Tensor] = [x.new_zeros(()) for _ in sums]
    course.measure(episode.steps, x, f, sums)
    products, errors = HVPS[hvp](), [0.0]
    room = [torch.empty_like(x) for _ in sums]
    for k, x, state, g in path.back():
        number = course.number(k)
        for i, (total, onto) in enumerate(zip(sums, room, strict=True)):
            toward = total[: course.size]
            rates[i] += optimizer.adjoint_(
                x, g, state, number, episode.learning_rate, toward, states[i], out=onto, slope=episode.learns_rate
            )
        errors.append(products(course, k, x, f, g, room, sums) or 0.0)
        course.measure(k, x, f, sums)
    worst = max(errors) if hvp == "finite_difference" else None
    return course.result(sums[0], sums[1] if len(sums) > 1 else None, rates[-1], worst)
