"""What a method sets, and experts change: how the meta-gradient is computed, and what is done before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

from ..meta_gradient.hessian import HVPS
from ..meta_gradient.in_place_episode import EPISODES
from ..meta_gradient.outer_loss import STEP_WEIGHTS
from ..meta_gradient.trajectory import TRAJECTORIES
from .fields import check_choice, check_count, option


@dataclass(frozen=True)
class MethodOptions:
    """The settings behind ``method_options``, complete.

    Raises:
        ValueError: A value is out of range or misspelt.

    Example:
        >>> MethodOptions(merge_words=2).merge_words
        2.0
    """

    hvp: str = option(
        "double_backward",
        "Hessian-vector products of the exact meta-gradient.",
        HVPS,
    )
    trajectory: str = option(
        "device",
        "Where to store inner steps; recompute, logarithmic: less memory, slower.",
        TRAJECTORIES,
    )
    episode: str = option("flat", "Where to run inner steps: on copied weights, or in the model's modules.", EPISODES)
    blocking_every: int = option(1, "Measure the blocking loss at every so many inner steps.")
    blocking_interval: int = option(1, "Number of outer steps from one blocking loss to the next.")
    blocking_learning_rate: float = option(0.0, "Adam rate of outer steps that only block (SOPHON); 0: one sum.")
    step_weights: str = option("uniform", "Weights of the K+1 blocking losses.", STEP_WEIGHTS)
    max_blocking_grad_norm: float = option(
        0.0, "Maximum norm of the blocking gradient of a micro-batch; 0: not clipped."
    )
    blocking_ceiling: float = option(0.0, "Nats with which negative_cross_entropy is content; 0: chance level.")
    probe_weight: float = option(0.0, "Weight of probes of all hidden states in the blocking loss; 0: no probes.")
    keeping_erases: bool = option(False, "Distil from a copy of the original with blocked tasks erased (LEACE).")
    erase_directions: int = option(0, "Directions of each blocked task to erase from the input embeddings first.")
    merge_words: float = option(0.0, "Merge words that reveal labels beyond so many standard errors; 0: none.")
    merge_groups: int = option(0, "Maximum number of merged groups; fewer groups hide more. 0: no limit.")
    keep_directions: int = option(0, "Directions of the desired task that input embeddings retain; 0: all.")
    selective_steps: int = option(0, "Most selective edits of MLPs before training (RepSelect); 0: none.")
    selective_budget: float = option(0.01, "Maximum KL of these edits on general rows, in nats per token.")
    noise: float = option(0.0, "Share of noise mixed into weights first, or after unlearning (UNDO).")
    unlearn_steps: int = option(0, "Outer steps that unlearn first and make the teacher (UNDO); 0: none.")
    unlearn_weight: float = option(1.0, "Weight of the blocking loss in these steps.")

    LEAST: ClassVar[dict[str, int]] = {
        "blocking_every": 1,
        "blocking_interval": 1,
        "erase_directions": 0,
        "merge_groups": 0,
        "keep_directions": 0,
        "unlearn_steps": 0,
        "selective_steps": 0,
    }
    NUMBERS: ClassVar[tuple[str, ...]] = (
        *("max_blocking_grad_norm", "blocking_ceiling", "probe_weight", "merge_words", "selective_budget", "noise"),
        *("unlearn_weight", "blocking_learning_rate"),
    )
    # What changes the weights otherwise than by steps of the method, or the original that the model is compared with.
    CLOSED_FORMS: ClassVar[tuple[str, ...]] = (
        "keeping_erases",
        "erase_directions",
        "merge_words",
        "merge_groups",
        "keep_directions",
        "selective_steps",
        "noise",
        "unlearn_steps",
    )

    def __post_init__(self) -> None:
        """Check every value."""
        for name, known in {
            "hvp": HVPS,
            "trajectory": TRAJECTORIES,
            "episode": EPISODES,
            "step_weights": STEP_WEIGHTS,
        }.items():
            check_choice(name, getattr(self, name), known)
        for name, least in self.LEAST.items():
            check_count(name, getattr(self, name), least)
        if not isinstance(self.keeping_erases, bool):
            raise ValueError(f"keeping_erases must be true or false; got {self.keeping_erases!r}.")
        for name in self.NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be zero or more; got {value!r}.")
            object.__setattr__(self, name, float(value))
        if self.noise > 1:
            raise ValueError(f"noise is a share of the weights, from 0 to 1; got {self.noise!r}.")
        if self.blocking_learning_rate and self.blocking_interval == 1:
            raise ValueError(
                f"blocking_learning_rate={self.blocking_learning_rate:g} makes steps that only block, and with "
                "blocking_interval=1 they are all: set blocking_interval=2 for one step of the desired task after "
                "each, or blocking_learning_rate=0."
            )
        if self.blocking_learning_rate and self.unlearn_steps:
            raise ValueError(
                "unlearn_steps unlearn beside the desired task, and with blocking_learning_rate nothing blocks beside "
                "it: set one of them to 0."
            )
        if self.unlearn_steps and self.step_weights == "drop":
            raise ValueError(
                "step_weights='drop' blocks what an adversary gains; while a model unlearns none makes a step, and the "
                "blocked task would be taught: set unlearn_steps=0, or step_weights='uniform' with a blocking_loss "
                "such as 'entropy'."
            )


NOTHING = {f.name: f.default for f in fields(MethodOptions) if f.name in MethodOptions.CLOSED_FORMS}
