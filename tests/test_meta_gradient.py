"""Both ways to a meta-gradient against slow twins written out plainly, and against finite differences.

All in float64 (as far as the architecture allows it: Llama's norms compute in float32 whatever the weights).
"""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_episodes import EPSILON, SHARES, Toy, assert_same, relative, run, toy_episode, way

from hf_selfdestruct.episode import MetaGradient
from hf_selfdestruct.inner_optimizers import SGD, Adam
from hf_selfdestruct.losses import HeadAdjustedCrossEntropy, NegativeCrossEntropy, UniformKL

unrolled, first_order, exact = way("unrolled"), way("first_order"), way("exact")
MODES = {"unrolled": unrolled, "exact": exact, "first_order": first_order}


@pytest.fixture
def plain_model(tiny_model):
    """The adversary's whole model: an ordinary two-class one with an episode's weights in it."""

    def make(episode: Toy, architecture: str = "bert"):
        model = tiny_model(architecture, num_labels=2).double().eval()
        if architecture != "resnet":
            model.set_attn_implementation("sdpa")
        missing, unknown = model.load_state_dict({**episode.published, **episode.head}, strict=False)
        assert not unknown
        assert not set(missing) & {name for name, _ in model.named_parameters()}
        return model

    return make


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
    assert len(found.losses) == len(found.accuracies) == steps + 1
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


def fine_tune_and_sum(model, episode: Toy) -> MetaGradient:
    """First order, plainly: fine-tune a copy with torch's Adam, adding up gradients on the way."""
    copied = copy.deepcopy(model)
    optimizer = torch.optim.Adam(copied.parameters(), lr=episode.learning_rate, eps=EPSILON)
    toward = {n: torch.zeros_like(w) for n, w in episode.published.items()}
    own = {n: torch.zeros_like(w) for n, w in episode.head.items()}
    total, losses, accuracies = 0.0, {}, {}
    y = episode.held_out["labels"]
    inputs = {n: v for n, v in episode.held_out.items() if n != "labels"}
    for k, share in enumerate(episode.step_weights):
        z = copied(**inputs).logits
        total += share * episode.loss(z, y).item()
        losses[k] = episode.loss(z, y).item()
        accuracies[k] = (z.argmax(1) == y).double().mean().item()
        for objective, sums in ((episode.loss, toward), (cross_entropy, own)):
            copied.zero_grad()
            objective(copied(**inputs).logits, y).backward()
            for n, p in copied.named_parameters():
                if n in sums and p.grad is not None:
                    sums[n] += share * p.grad
        if k < len(episode.batches):
            copied.zero_grad()
            copied(**episode.batches[k]).loss.backward()
            optimizer.step()
    return MetaGradient(total, toward, own, None, losses, accuracies)


@pytest.mark.parametrize("loss", [UniformKL(), HeadAdjustedCrossEntropy(), NegativeCrossEntropy()])
def test_first_order_equals_fine_tuning_a_copy_and_summing_gradients(plain_model, loss) -> None:
    episode = toy_episode(loss=loss, learns_rate=False)
    if isinstance(loss, NegativeCrossEntropy):  # labels on which the adversary starts well: no clamp, a gradient
        right = episode.forward({**episode.published, **episode.head}, episode.held_out).argmax(1)
        episode = replace(episode, held_out={**episode.held_out, "labels": right})
    expected = fine_tune_and_sum(plain_model(episode), episode)
    assert_same(first_order(episode), expected, rtol=1e-7, atol=1e-11)
    assert expected.losses[0] != pytest.approx(expected.losses[3], abs=1e-3)  # the fine-tuning did something


def test_first_order_tends_to_unrolled_in_proportion_to_the_inner_rate() -> None:
    gaps = []
    for rate in (1e-4, 1e-5, 1e-6, 1e-7):
        episode = toy_episode(rate=rate)
        gaps.append(relative(first_order(episode), unrolled(episode)))
    assert gaps[-1] < 1e-3
    for wide, narrow in pairwise(gaps):
        assert wide / narrow == pytest.approx(10, rel=0.3)


@pytest.mark.parametrize("rate", [1e-2, 5e-2])
def test_the_two_ways_differ_at_a_rate_worth_taking(rate) -> None:
    episode = toy_episode(rate=rate)
    assert relative(first_order(episode), unrolled(episode)) > 0.1


def test_without_inner_steps_both_ways_are_the_same() -> None:
    episode = toy_episode(steps=0)
    assert_same(first_order(episode), unrolled(episode), rtol=1e-12, atol=1e-15)
    assert first_order(episode).learning_rate == 0


def test_first_order_rate_gradient_is_that_of_the_objective_with_fixed_directions(plain_model) -> None:
    episode = toy_episode()
    rate = episode.learning_rate
    copied = plain_model(episode)
    optimizer = torch.optim.Adam(copied.parameters(), lr=rate, eps=EPSILON)
    published = {n: p.detach().clone() for n, p in copied.named_parameters()}
    displacements = []  # of theta_k from theta_0, in units of the rate
    for k in range(len(episode.batches) + 1):
        displacements.append({n: (p.detach() - published[n]) / rate for n, p in copied.named_parameters()})
        if k < len(episode.batches):
            copied.zero_grad()
            copied(**episode.batches[k]).loss.backward()
            optimizer.step()

    def objective(other_rate: float) -> float:
        total = 0.0
        for share, displacement in zip(episode.step_weights, displacements, strict=True):
            weights = {n: w + other_rate * displacement[n] for n, w in published.items()}
            z = run(copied, weights, episode.held_out)
            total += share * cross_entropy(z, episode.held_out["labels"]).item()
        return total

    width = 1e-5
    slope = (objective(rate + width) - objective(rate - width)) / (2 * width)
    assert abs(slope) > 1e-2
    assert first_order(episode).learning_rate == pytest.approx(slope, rel=1e-5)


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
    assert len(found.losses) == len(found.accuracies) == steps + 1
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
