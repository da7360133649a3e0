"""The ways to a meta-gradient against hand-unrolled loops, finite differences and each other."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_episodes import EPSILON, SHARES, Toy, assert_same, exact, first_order, relative, run, toy_episode, unrolled

from hf_selfdestruct.adversaries.optimizers import SGD, Adam
from hf_selfdestruct.losses.blocking import HeadAdjustedCrossEntropy
from hf_selfdestruct.meta_gradient.episode import MetaGradient

MODES = {"unrolled": unrolled, "exact": exact, "first_order": first_order}


def objectives(model, episode: Toy, start, rate, *, graph: bool):
    """Weighted blocking loss and weighted cross-entropy along K steps of Adam, and the readings."""
    weights = dict(start)
    first = {n: torch.zeros_like(w) for n, w in weights.items()}
    second = {n: torch.zeros_like(w) for n, w in weights.items()}
    blocked = adversarial = 0.0
    losses, accuracies = {}, {}
    for k in range(len(episode.batches) + 1):
        z, y = run(model, weights, episode.held_out), episode.held_out["labels"]
        blocked = blocked + episode.step_weights[k] * episode.loss(z, y)
        adversarial = adversarial + episode.step_weights[k] * cross_entropy(z, y)
        losses[k] = episode.loss(z, y).item()
        accuracies[k] = (z.argmax(1) == y).double().mean().item()
        if k == len(episode.batches):
            break
        names = [n for n in weights if n in episode.moving]
        loss = cross_entropy(run(model, weights, episode.batches[k]), episode.batches[k]["labels"])
        found = torch.autograd.grad(loss, [weights[n] for n in names], create_graph=graph, allow_unused=True)
        for n, g in zip(names, found, strict=True):
            g = torch.zeros_like(weights[n]) if g is None else g
            first[n] = 0.9 * first[n] + 0.1 * g
            second[n] = 0.999 * second[n] + 0.001 * g**2
            unbiased = second[n] / (1 - 0.999 ** (k + 1))
            root = torch.where(unbiased > 0, unbiased.clamp(min=1e-300).sqrt(), 0.0)
            moved = weights[n] - rate * first[n] / (1 - 0.9 ** (k + 1)) / (root + episode.optimizer.epsilon)
            weights[n] = moved if graph else moved.detach().requires_grad_()
    return blocked, adversarial, losses, accuracies


def leaves(episode: Toy):
    start = {**episode.published, **episode.head}
    rate = torch.tensor(episode.learning_rate, dtype=torch.float64, requires_grad=True)
    return {n: w.clone().requires_grad_() for n, w in start.items()}, rate


@pytest.mark.parametrize("steps", [0, 3])
def test_unrolled_equals_the_hand_unrolled_loop(plain_model, steps) -> None:
    episode = toy_episode(steps=steps)
    start, rate = leaves(episode)
    blocked, adversarial, losses, accuracies = objectives(plain_model(episode), episode, start, rate, graph=True)
    toward = torch.autograd.grad(
        blocked,
        [start[n] for n in episode.published],
        retain_graph=True,
        materialize_grads=True,
        allow_unused=True,
    )
    own = torch.autograd.grad(
        adversarial, [*(start[n] for n in episode.head), rate], allow_unused=True, materialize_grads=True
    )
    found = unrolled(episode)
    expected = MetaGradient(
        blocked.item(),
        dict(zip(episode.published, toward, strict=True)),
        dict(zip(episode.head, own[:-1], strict=True)),
        own[-1].item(),
        losses,
        accuracies,
    )
    assert_same(found, expected, rtol=1e-8, atol=1e-12)
    assert (found.learning_rate != 0) == (steps > 0)
    assert len(found.losses) == len(found.scores) == steps + 1
    # Every weight matters except those of positions and token types that no row has, and key biases.
    still = {n for n, g in found.weights.items() if g.abs().max() < 1e-12}
    assert all(n.endswith(".key.bias") for n in still), still
    assert all(g.abs().max() > 1e-6 for g in found.own.values())


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "resnet", "llama"])
def test_unrolled_equals_finite_differences_of_the_objective(plain_model, name) -> None:
    # Llama computes norms, softmax and rotations in float32: a wider stencil, and an Adam smooth enough for it.
    # A conv net's pooling bends where two pixels tie: a narrow stencil seldom meets that.
    rough = name == "llama"
    width, tolerance = {"llama": (1e-4, 1e-2), "resnet": (1e-7, 1e-5)}.get(name, (1e-6, 1e-5))
    optimizer = Adam(epsilon=0.1) if rough or name == "resnet" else Adam(epsilon=EPSILON)
    episode = toy_episode(name, steps=2, rate=0.1 if rough else 0.01, optimizer=optimizer)
    model = plain_model(episode, name)
    found = unrolled(episode)

    def value(which: int, name: str | None, direction, amount: float) -> float:
        start, rate = leaves(episode)
        if name is None:
            rate = (rate.detach() * (1 + amount)).requires_grad_()
        else:
            start[name] = (start[name].detach() + amount * direction).requires_grad_()
        return objectives(model, episode, start, rate, graph=False)[which].item()

    def slope(which: int, name: str | None, direction=None) -> float:
        """Fourth-order central difference."""
        at = {i: value(which, name, direction, i * width) for i in (-2, -1, 1, 2)}
        return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * width)

    generator = torch.Generator().manual_seed(0)
    names = [n for n in found.weights if found.weights[n].norm() > 1e-4]
    assert len(names) > len(found.weights) / 2
    largest = max(g.norm().item() for g in found.weights.values())
    for n in names[:: len(names) // 6]:
        # Along the gradient itself, where its length is measured, and along a random direction.
        up = found.weights[n] / found.weights[n].norm()
        side = torch.randn(up.shape, generator=generator, dtype=torch.float64)
        side = side / side.norm()
        for direction in (up, side):
            expected = (found.weights[n] * direction).sum().item()
            assert slope(0, n, direction) == pytest.approx(expected, rel=tolerance, abs=tolerance * largest), n
    for n, g in found.own.items():
        assert slope(1, n, g / g.norm()) == pytest.approx(g.norm().item(), rel=tolerance), n
    expected = found.learning_rate * episode.learning_rate
    assert slope(1, None) == pytest.approx(expected, rel=tolerance)


def test_unrolled_through_the_head_adjustment_equals_finite_differences(plain_model) -> None:
    episode = toy_episode(steps=2, loss=HeadAdjustedCrossEntropy(iterations=20_000, tolerance=1e-12))
    model, found = plain_model(episode), unrolled(episode)
    largest = max(found.weights, key=lambda n: found.weights[n].norm().item())
    for n in ("bert.encoder.layer.0.attention.self.value.weight", largest):
        direction = found.weights[n] / found.weights[n].norm()
        values = []
        for amount in (1e-5, -1e-5):
            start, rate = leaves(episode)
            start[n] = (start[n].detach() + amount * direction).requires_grad_()
            values.append(objectives(model, episode, start, rate, graph=False)[0].item())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(found.weights[n].norm().item(), rel=1e-4), n


@pytest.mark.parametrize("mode", MODES)
def test_what_goes_in_stays_bitwise_unchanged(mode) -> None:
    episode = toy_episode()
    fields = ("published", "head", "batches", "held_out")
    before = {name: copy.deepcopy(getattr(episode, name)) for name in fields}
    state = torch.random.get_rng_state()
    once, twice = MODES[mode](episode), MODES[mode](episode)
    for name in fields:
        torch.testing.assert_close(getattr(episode, name), before[name], rtol=0, atol=0)
    for value in (*episode.published.values(), *episode.head.values()):
        assert not value.requires_grad
        assert value.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same(once, twice, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_no_graph_outlives_the_call(mode) -> None:
    episode, seen = toy_episode(), []

    def forward(weights, batch):
        out = episode.forward(weights, batch)
        # Weights are saved for the backward: they live as long as any graph of the episode does.
        seen.extend(weakref.ref(w) for w in (out, *weights.values()) if w.requires_grad)
        return out

    gc.collect()
    gc.disable()  # freed by counting, not by some later collection
    try:
        found = MODES[mode](replace(episode, forward=forward))
        assert len(seen) > 20 * (2 * len(episode.batches) + 1)
        assert not [ref for ref in seen if ref() is not None]
    finally:
        gc.enable()
    results = (*found.weights.values(), *found.own.values())
    assert not any(value.requires_grad for value in results)


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_move_stays_where_it_is(mode) -> None:
    episode, seen = toy_episode(), []
    episode = replace(episode, moving=frozenset(episode.head))

    def forward(weights, batch):
        seen.append({n: w.detach().clone() for n, w in weights.items()})
        return episode.forward(weights, batch)

    found = MODES[mode](replace(episode, forward=forward))
    for weights in seen:
        for n, w in episode.published.items():
            assert torch.equal(weights[n], w), n
    for n, w in episode.head.items():
        assert max((weights[n] - w).abs().max() for weights in seen) > 1e-4, n
    assert torch.stack([g.norm() for g in found.weights.values()]).norm() > 1e-3
    assert found.learning_rate != 0


def test_unrolled_with_a_moving_head_alone_equals_the_hand_unrolled_loop(plain_model) -> None:
    episode = toy_episode()
    episode = replace(episode, moving=frozenset(episode.head))
    start, rate = leaves(episode)
    blocked = objectives(plain_model(episode), episode, start, rate, graph=True)[0]
    expected = torch.autograd.grad(
        blocked, [start[n] for n in episode.published], allow_unused=True, materialize_grads=True
    )
    found = unrolled(episode).weights
    torch.testing.assert_close(found, dict(zip(episode.published, expected, strict=True)), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_kept_head_belongs_to_the_published_weights(mode) -> None:
    episode = toy_episode()
    kept = replace(episode, published={**episode.published, **episode.head}, head={}, learns_rate=False)
    found, own = MODES[mode](kept), MODES[mode](episode)
    assert found.own == {}
    assert found.learning_rate is None
    assert set(found.weights) == set(episode.published) | set(episode.head)
    assert all(found.weights[n].abs().max() > 1e-6 for n in episode.head)
    torch.testing.assert_close({n: found.weights[n] for n in own.weights}, own.weights, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_wanted_restricts_the_gradients_and_nothing_else(mode) -> None:
    episode = toy_episode()
    wanted = frozenset(n for n in episode.published if "layer.1" in n) | {"no such weight"}
    some, everything = MODES[mode](replace(episode, wanted=wanted)), MODES[mode](episode)
    assert set(some.weights) == wanted - {"no such weight"}
    assert len(some.weights) > 10
    assert_same(some, replace(everything, weights={n: everything.weights[n] for n in some.weights}), rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [0, 2, 3])
def test_one_reading_for_each_of_the_k_plus_one_steps(mode, steps) -> None:
    episode = toy_episode(steps=steps)
    found = MODES[mode](episode)
    assert len(found.losses) == len(found.scores) == steps + 1
    assert len({*found.losses.values()}) == steps + 1
    expected = sum(w * v for w, v in zip(SHARES[steps], found.losses.values(), strict=True))
    assert found.loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), SGD(momentum=0.9, weight_decay=0.1)])
def test_with_another_optimizer_the_ways_still_agree_at_a_small_rate(optimizer) -> None:
    gaps = []
    for rate in (1e-3, 1e-4):
        episode = toy_episode(rate=rate, optimizer=optimizer)
        gaps.append(relative(first_order(episode), unrolled(episode)))
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)


def test_float32_is_close_to_float64() -> None:
    episode = toy_episode()

    def single(weights):
        return {n: w.float() for n, w in weights.items()}

    rough = unrolled(
        replace(
            episode,
            published=single(episode.published),
            head=single(episode.head),
        )
    )
    assert {g.dtype for g in rough.weights.values()} == {torch.float32}
    fine = unrolled(episode)
    assert relative(replace(rough, weights={n: g.double() for n, g in rough.weights.items()}), fine) < 1e-3
