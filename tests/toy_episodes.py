"""Small episodes of real architectures, in float64, by the parts that slow twins are written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cross_entropy
from toy_models import tiny_model, toy_batch, toy_images
from transformers import PreTrainedModel

from hf_selfdestruct.adversaries.optimizers import Adam, InnerOptimizer
from hf_selfdestruct.losses.blocking import BlockingLoss, UniformKL, View
from hf_selfdestruct.meta_gradient import methods as meta_gradient
from hf_selfdestruct.meta_gradient.episode import Episode, MetaGradient, Reading
from hf_selfdestruct.models import heads
from hf_selfdestruct.models.functional import call

EPSILON = 1e-3
SHARES = {k: [2 * (i + 1) / ((k + 1) * (k + 2)) for i in range(k + 1)] for k in range(10)}  # rising, their sum is 1


@dataclass(frozen=True)
class Toy:
    """An episode by its parts, so that slow twins can be written with them."""

    module: PreTrainedModel
    buffers: dict
    forward: Callable
    published: dict
    head: dict
    moving: frozenset
    batches: list
    held_out: dict
    loss: Callable
    step_weights: list
    optimizer: InnerOptimizer
    learning_rate: float
    learns_rate: bool = True
    wanted: frozenset | None = None
    view_loss: BlockingLoss | None = None  # instead of `loss`, with all that a loss may look at

    def episode(self) -> Episode:
        def inner(batch):
            return lambda weights: cross_entropy(self.forward(weights, batch), batch["labels"])

        def measure(weights) -> Reading:
            z, y = self.forward(weights, self.held_out), self.held_out["labels"]
            loss = self.loss(z, y) if self.view_loss is None else self.view_loss.forward(self.view(weights))
            return Reading(loss, cross_entropy(z, y), (z.argmax(1) == y).double().mean().item())

        return Episode(
            published=self.published,
            own=self.head,
            moving=self.moving,
            inner_losses=[inner(batch) for batch in self.batches],
            measure=measure,
            shares=self.step_weights,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            learns=True,
            learns_rate=self.learns_rate,
            wanted=self.wanted,
        )

    def view(self, weights) -> View:
        inputs = {n: v for n, v in self.held_out.items() if n != "labels"}
        answers = call(self.module, {**self.buffers, **weights}, {**inputs, "output_hidden_states": True}, twice=True)
        moving = [w for n, w in weights.items() if n in self.moving]
        return View(
            answers.logits, self.held_out["labels"], answers.hidden_states, inputs.get("attention_mask"), moving
        )


def way(name: str, **options) -> Callable[[Toy], MetaGradient]:
    return lambda toy: meta_gradient.method(name, **options)(toy.episode())


def run(model, weights, batch):
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return call(model, weights, inputs, twice=True).logits


def assert_same(found: MetaGradient, expected: MetaGradient, **tolerance) -> None:
    for part in ("loss", "weights", "own", "learning_rate", "losses", "scores"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), **tolerance)


def relative(one: MetaGradient, other: MetaGradient) -> float:
    gaps = [(one.weights[n] - other.weights[n]).norm() for n in one.weights]
    return (torch.stack(gaps).norm() / torch.stack([w.norm() for w in other.weights.values()]).norm()).item()


def toy_episode(architecture: str = "bert", *, steps: int = 3, rate: float = 0.05, **fields) -> Toy:
    model = tiny_model(architecture, num_labels=5).double().eval()
    bones = heads.skeleton(model, 2, twice=True)
    trunk = heads.trunk_prefix(model)
    # Larger than at initialisation, so that every part of the network matters; a conv net's weights are large
    # already, but its biases are 0, which is just where things bend.
    generator = torch.Generator().manual_seed(1)
    published = {n: p.detach().clone() for n, p in model.named_parameters() if n.startswith(trunk)}
    for p in published.values():
        if architecture == "resnet":
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        elif p.dim() > 1:
            p *= 5
    head = {n: 10 * p.double() for n, p in heads.draw(bones, heads.head_names(bones), 3).items()}
    buffers = dict(model.named_buffers())
    batch = toy_images if model.main_input_name == "pixel_values" else toy_batch
    return Toy(
        **{
            "module": bones,
            "buffers": buffers,
            "forward": lambda weights, batch: run(bones, {**buffers, **weights}, batch),
            "published": published,
            "head": head,
            "moving": frozenset(published) | frozenset(head),
            "batches": [batch(6, seed=k) for k in range(steps)],
            "held_out": batch(8, seed=101),
            "loss": UniformKL(),
            "step_weights": SHARES[steps],
            "optimizer": Adam(epsilon=EPSILON),
            "learning_rate": rate,
            "learns_rate": True,
            **fields,
        }
    )


unrolled, first_order, exact = way("unrolled"), way("first_order"), way("exact")


def head_alone(episode):
    return replace(episode, moving=frozenset(episode.head))


def half_moving(episode):
    """Adapters in spirit: own weights and some published ones move, the rest is fixed."""
    return replace(episode, moving=frozenset(episode.head) | {n for n in episode.published if "layer.1" in n})


def half_wanted(episode):
    return replace(episode, wanted=frozenset(n for n in episode.published if "attention" in n))


def frozen_and_unwanted(episode):
    return replace(head_alone(episode), wanted=frozenset(n for n in episode.published if "layer.1" in n))
