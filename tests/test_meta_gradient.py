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

from hf_selfdestruct import heads
from hf_selfdestruct.functional import SGD, Adam, logits
from hf_selfdestruct.losses import HeadAdjustedCrossEntropy, NegativeCrossEntropy, UniformKL
from hf_selfdestruct.meta_gradient import MODES, Episode, MetaGradient, first_order, unrolled

EPSILON = 1e-3
SHARES = {0: [1.0], 2: [0.2, 0.3, 0.5], 3: [0.1, 0.2, 0.3, 0.4]}


@pytest.fixture
def make_episode(tiny_model, toy_batch):
    """An episode against a five-class model of any architecture, by an adversary with a two-class head."""

    def make(architecture: str = "bert", *, steps: int = 3, rate: float = 0.05, **fields) -> Episode:
        model = tiny_model(architecture, num_labels=5).double().eval()
        bones = heads.skeleton(model, 2, attention="eager")
        trunk = heads.trunk_prefix(model)
        # Larger than at initialisation, so that every part of the network matters.
        published = {
            n: p.detach() * (5 if p.dim() > 1 else 1) for n, p in model.named_parameters() if n.startswith(trunk)
        }
        head = {n: 10 * p.double() for n, p in heads.draw_head(bones, 3).items()}
        buffers = dict(model.named_buffers())
        return Episode(
            **{
                "forward": lambda weights, batch: logits(bones, {**buffers, **weights}, batch),
                "published": published,
                "head": head,
                "moving": frozenset(published) | frozenset(head),
                "batches": [toy_batch(6, seed=k) for k in range(steps)],
                "held_out": toy_batch(8, seed=101),
                "loss": UniformKL(),
                "step_weights": SHARES[steps],
                "optimizer": Adam(epsilon=EPSILON),
                "learning_rate": torch.tensor(rate, dtype=torch.float64),
                "learns_rate": True,
                **fields,
            }
        )

    return make


@pytest.fixture
def plain_model(tiny_model):
    """The adversary's whole model: an ordinary two-class one with an episode's weights in it."""

    def make(episode: Episode, architecture: str = "bert"):
        model = tiny_model(architecture, num_labels=2).double().eval()
        model.set_attn_implementation("eager")
        missing, unknown = model.load_state_dict({**episode.published, **episode.head}, strict=False)
        assert not unknown
        assert not set(missing) & {name for name, _ in model.named_parameters()}
        return model

    return make


def run(model, weights, batch):
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return torch.func.functional_call(model, weights, kwargs=inputs).logits


def objectives(model, episode: Episode, start, rate, *, graph: bool):
    """Weighted blocking loss and weighted cross-entropy along K steps of Adam, and the readings."""
    weights = dict(start)
    first = {n: torch.zeros_like(w) for n, w in weights.items()}
    second = {n: torch.zeros_like(w) for n, w in weights.items()}
    blocked = adversarial = 0.0
    losses, accuracies = [], []
    for k in range(len(episode.batches) + 1):
        z, y = run(model, weights, episode.held_out), episode.held_out["labels"]
        blocked = blocked + episode.step_weights[k] * episode.loss(z, y)
        adversarial = adversarial + episode.step_weights[k] * cross_entropy(z, y)
        losses.append(episode.loss(z, y).item())
        accuracies.append((z.argmax(1) == y).double().mean().item())
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


def leaves(episode: Episode):
    start = {**episode.published, **episode.head}
    rate = episode.learning_rate.clone().requires_grad_()
    return {n: w.clone().requires_grad_() for n, w in start.items()}, rate


def assert_same(found: MetaGradient, expected: MetaGradient, **tolerance) -> None:
    for part in ("loss", "weights", "head", "learning_rate", "losses", "accuracies"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), **tolerance)


def relative(one: MetaGradient, other: MetaGradient) -> float:
    gaps = [(one.weights[n] - other.weights[n]).norm() for n in one.weights]
    return (torch.stack(gaps).norm() / torch.stack([w.norm() for w in other.weights.values()]).norm()).item()


@pytest.mark.parametrize("steps", [0, 3])
def test_unrolled_equals_the_hand_unrolled_loop(make_episode, plain_model, steps) -> None:
    episode = make_episode(steps=steps)
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
        blocked.detach(),
        dict(zip(episode.published, toward, strict=True)),
        dict(zip(episode.head, own[:-1], strict=True)),
        own[-1],
        losses,
        accuracies,
    )
    assert_same(found, expected, rtol=1e-8, atol=1e-12)
    assert (found.learning_rate != 0) == (steps > 0)
    assert len(found.losses) == len(found.accuracies) == steps + 1
    # Every weight matters except those of positions and token types that no row has, and key biases.
    still = {n for n, g in found.weights.items() if g.abs().max() < 1e-12}
    assert all(n.endswith(".key.bias") for n in still), still
    assert all(g.abs().max() > 1e-6 for g in found.head.values())


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_unrolled_equals_finite_differences_of_the_objective(make_episode, plain_model, name) -> None:
    # Llama computes norms, softmax and rotations in float32: a wider stencil, and an Adam smooth enough for it.
    rough = name == "llama"
    width, tolerance = (1e-4, 1e-2) if rough else (1e-6, 1e-5)
    optimizer = Adam(epsilon=0.1) if rough else Adam(epsilon=EPSILON)
    episode = make_episode(name, steps=2, rate=0.1 if rough else 0.01, optimizer=optimizer)
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
    for n, g in found.head.items():
        assert slope(1, n, g / g.norm()) == pytest.approx(g.norm().item(), rel=tolerance), n
    expected = (found.learning_rate * episode.learning_rate).item()
    assert slope(1, None) == pytest.approx(expected, rel=tolerance)


def test_unrolled_through_the_head_adjustment_equals_finite_differences(make_episode, plain_model) -> None:
    episode = make_episode(steps=2, loss=HeadAdjustedCrossEntropy(iterations=20_000, tolerance=1e-12))
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


def fine_tune_and_sum(model, episode: Episode) -> MetaGradient:
    """First order, plainly: fine-tune a copy with torch's Adam, adding up gradients on the way."""
    copied = copy.deepcopy(model)
    optimizer = torch.optim.Adam(copied.parameters(), lr=episode.learning_rate.item(), eps=EPSILON)
    toward = {n: torch.zeros_like(w) for n, w in episode.published.items()}
    own = {n: torch.zeros_like(w) for n, w in episode.head.items()}
    total, losses, accuracies = 0.0, [], []
    y = episode.held_out["labels"]
    inputs = {n: v for n, v in episode.held_out.items() if n != "labels"}
    for k, share in enumerate(episode.step_weights):
        z = copied(**inputs).logits
        total += share * episode.loss(z, y).item()
        losses.append(episode.loss(z, y).item())
        accuracies.append((z.argmax(1) == y).double().mean().item())
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
    return MetaGradient(torch.tensor(total, dtype=torch.float64), toward, own, None, losses, accuracies)


@pytest.mark.parametrize("loss", [UniformKL(), HeadAdjustedCrossEntropy(), NegativeCrossEntropy()])
def test_first_order_equals_fine_tuning_a_copy_and_summing_gradients(make_episode, plain_model, loss) -> None:
    episode = make_episode(loss=loss, learns_rate=False)
    if isinstance(loss, NegativeCrossEntropy):  # labels on which the adversary starts well: no clamp, a gradient
        right = episode.forward({**episode.published, **episode.head}, episode.held_out).argmax(1)
        episode = replace(episode, held_out={**episode.held_out, "labels": right})
    expected = fine_tune_and_sum(plain_model(episode), episode)
    assert_same(first_order(episode), expected, rtol=1e-7, atol=1e-11)
    assert expected.losses[0] != pytest.approx(expected.losses[-1], abs=1e-3)  # the fine-tuning did something


def test_first_order_tends_to_unrolled_in_proportion_to_the_inner_rate(make_episode) -> None:
    gaps = []
    for rate in (1e-4, 1e-5, 1e-6, 1e-7):
        episode = make_episode(rate=rate)
        gaps.append(relative(first_order(episode), unrolled(episode)))
    assert gaps[-1] < 1e-3
    for wide, narrow in pairwise(gaps):
        assert wide / narrow == pytest.approx(10, rel=0.3)


@pytest.mark.parametrize("rate", [1e-2, 5e-2])
def test_the_two_ways_differ_at_a_rate_worth_taking(make_episode, rate) -> None:
    episode = make_episode(rate=rate)
    assert relative(first_order(episode), unrolled(episode)) > 0.1


def test_without_inner_steps_both_ways_are_the_same(make_episode) -> None:
    episode = make_episode(steps=0)
    assert_same(first_order(episode), unrolled(episode), rtol=1e-12, atol=1e-15)
    assert first_order(episode).learning_rate == 0


def test_first_order_rate_gradient_is_that_of_the_objective_with_fixed_directions(make_episode, plain_model) -> None:
    episode = make_episode()
    rate = episode.learning_rate.item()
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
    assert first_order(episode).learning_rate.item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_what_goes_in_stays_bitwise_unchanged(make_episode, mode) -> None:
    episode = make_episode()
    fields = ("published", "head", "batches", "held_out", "learning_rate")
    before = {name: copy.deepcopy(getattr(episode, name)) for name in fields}
    state = torch.random.get_rng_state()
    once, twice = MODES[mode](episode), MODES[mode](episode)
    for name in fields:
        torch.testing.assert_close(getattr(episode, name), before[name], rtol=0, atol=0)
    for value in (*episode.published.values(), *episode.head.values(), episode.learning_rate):
        assert not value.requires_grad
        assert value.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same(once, twice, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_no_graph_outlives_the_call(make_episode, mode) -> None:
    episode, seen = make_episode(), []

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
    results = (found.loss, found.learning_rate, *found.weights.values(), *found.head.values())
    assert not any(value.requires_grad for value in results)


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_move_stays_where_it_is(make_episode, mode) -> None:
    episode, seen = make_episode(), []
    episode = replace(episode, moving=frozenset(episode.head))

    def forward(weights, batch):
        seen.append({n: w.detach().clone() for n, w in weights.items()})
        return episode.forward(weights, batch)

    found = MODES[mode](replace(episode, forward=forward))
    for weights in seen:
        for n, w in episode.published.items():
            assert torch.equal(weights[n], w), n
    for n, w in episode.head.items():
        assert (seen[-1][n] - w).abs().max() > 1e-4, n
    assert torch.stack([g.norm() for g in found.weights.values()]).norm() > 1e-3
    assert found.learning_rate != 0


def test_unrolled_with_a_moving_head_alone_equals_the_hand_unrolled_loop(make_episode, plain_model) -> None:
    episode = make_episode()
    episode = replace(episode, moving=frozenset(episode.head))
    start, rate = leaves(episode)
    blocked = objectives(plain_model(episode), episode, start, rate, graph=True)[0]
    expected = torch.autograd.grad(
        blocked, [start[n] for n in episode.published], allow_unused=True, materialize_grads=True
    )
    found = unrolled(episode).weights
    torch.testing.assert_close(found, dict(zip(episode.published, expected, strict=True)), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_kept_head_belongs_to_the_published_weights(make_episode, mode) -> None:
    episode = make_episode()
    kept = replace(episode, published={**episode.published, **episode.head}, head={}, learns_rate=False)
    found, own = MODES[mode](kept), MODES[mode](episode)
    assert found.head == {}
    assert found.learning_rate is None
    assert set(found.weights) == set(episode.published) | set(episode.head)
    assert all(found.weights[n].abs().max() > 1e-6 for n in episode.head)
    torch.testing.assert_close({n: found.weights[n] for n in own.weights}, own.weights, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_wanted_restricts_the_gradients_and_nothing_else(make_episode, mode) -> None:
    episode = make_episode()
    wanted = frozenset(n for n in episode.published if "layer.1" in n) | {"no such weight"}
    some, everything = MODES[mode](replace(episode, wanted=wanted)), MODES[mode](episode)
    assert set(some.weights) == wanted - {"no such weight"}
    assert len(some.weights) > 10
    assert_same(some, replace(everything, weights={n: everything.weights[n] for n in some.weights}), rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [0, 2, 3])
def test_one_reading_for_each_of_the_k_plus_one_steps(make_episode, mode, steps) -> None:
    episode = make_episode(steps=steps)
    found = MODES[mode](episode)
    assert len(found.losses) == len(found.accuracies) == steps + 1
    assert len(set(found.losses)) == steps + 1
    expected = sum(w * v for w, v in zip(SHARES[steps], found.losses, strict=True))
    assert found.loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), SGD(momentum=0.9, weight_decay=0.1)])
def test_with_another_optimizer_the_ways_still_agree_at_a_small_rate(make_episode, optimizer) -> None:
    gaps = []
    for rate in (1e-3, 1e-4):
        episode = make_episode(rate=rate, optimizer=optimizer)
        gaps.append(relative(first_order(episode), unrolled(episode)))
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)


def test_float32_is_close_to_float64(make_episode) -> None:
    episode = make_episode()

    def single(weights):
        return {n: w.float() for n, w in weights.items()}

    rough = unrolled(
        replace(
            episode,
            published=single(episode.published),
            head=single(episode.head),
            learning_rate=episode.learning_rate.float(),
        )
    )
    assert {g.dtype for g in rough.weights.values()} == {torch.float32}
    exact = unrolled(episode)
    assert relative(replace(rough, weights={n: g.double() for n, g in rough.weights.items()}), exact) < 1e-3
