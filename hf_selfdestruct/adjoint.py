"""Exact meta-gradients at flat memory: the discrete adjoint of the inner loop.

Forwards, K inner steps without a graph. Backwards, the gradient with respect to theta_k follows from that with
respect to theta_{k+1}: through the transpose of the optimizer's update, and through the inner gradient, whose
Jacobian is the Hessian of the inner loss: one Hessian-vector product per step. With ``lambda_k`` for the
objective's gradient at (theta_k, optimizer state), ``A`` the update's transpose and ``H_k`` the Hessian::

    lambda_k = A_theta(lambda_{k+1}) + H_k A_g(lambda_{k+1}) + share_k * grad(blocking loss at theta_k)

Weights that the adversary does not move get the mixed part of ``H_k`` likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .curvature import HVPS
from .episode import Course, Episode, MetaGradient
from .inner_optimizer import State
from .trajectory import Trajectory


@dataclass
class _Costate:
    """Gradients of one objective with respect to everything that the rest of the course depends on."""

    x: Tensor
    f: Tensor
    state: State
    rate: Tensor


def exact(episode: Episode, *, hvp: str = "double_backward", trajectory: str = "device") -> MetaGradient:
    """Exact gradients with activation memory flat in K.

    Args:
        episode: The simulated fine-tuning.
        hvp: ``"double_backward"`` (its losses must be twice differentiable: eager or math attention), 5K+1
            forward-backward passes, or ``"finite_difference"`` (any kernel), 4K+1.
        trajectory: See :class:`~hf_selfdestruct.trajectory.Trajectory`; ``"recompute"`` costs about K more.

    Returns:
        Exact gradients for the published weights and, where it learns, for the adversary: that is a second
        objective, with Hessian-vector products of its own.
    """
    course = Course(episode)
    x, f = course.start()
    optimizer, rate = episode.optimizer, episode.learning_rate
    path = Trajectory(course, f, trajectory)
    last = path.run(x, optimizer.init(x))
    objectives = 2 if episode.learns or episode.learns_rate else 1
    costates = _end(course, last, f, objectives)
    products, worst = HVPS[hvp](), None
    for k, x, state, g in path.back():
        steps = [optimizer.adjoint(x, g, state, k + 1, rate, c.x, c.state) for c in costates]
        found, error = products(course, k, x, f, g, [step.gradient for step in steps])
        worst = max(worst or 0.0, error) if error is not None else worst
        measured = course.measured(k, x, f, objectives) if episode.shares[k] is not None else None
        for i, (costate, step) in enumerate(zip(costates, steps, strict=True)):
            costate.x = step.weights.add_(found[i][0])
            costate.f.add_(found[i][1])
            costate.state = step.state
            costate.rate = costate.rate + step.learning_rate
            if measured:
                costate.x.add_(measured[i][0])
                costate.f.add_(measured[i][1])
        del steps, found, measured
    own = costates[1] if objectives == 2 else None
    return course.result(
        (costates[0].x, costates[0].f), (own.x, own.f) if own else None, own.rate if own else None, worst
    )


def _end(course: Course, x: Tensor, f: Tensor, objectives: int) -> list[_Costate]:
    """Costates at theta_K: the last blocking loss, nothing through the optimizer's state."""
    episode = course.episode
    if episode.shares[-1] is None:
        found = [(x.new_zeros(x.shape), f.new_zeros(f.shape)) for _ in range(objectives)]
    else:
        found = course.measured(episode.steps, x, f, objectives)
    return [_Costate(gx.clone(), gf.clone(), episode.optimizer.init(x), x.new_zeros(())) for gx, gf in found]
