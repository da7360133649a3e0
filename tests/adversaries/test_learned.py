"""What an adversary learns moves as torch's Adam would move it, stays in bounds and survives a restart."""

from __future__ import annotations

import math

import pytest
import torch

from hf_selfdestruct.adversaries.learned import RATE_BOUNDS, LearnedAdversary


def draw_gradients(step: int) -> tuple[dict[str, torch.Tensor], float]:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(2, 4, generator=generator) * (1 + step)
    bias = torch.randn(2, generator=generator)
    return {"head.weight": weight, "bias": bias}, 100 * torch.randn((), generator=generator).item()


def start() -> dict[str, torch.Tensor]:
    return {n: v / 10 for n, v in draw_gradients(99)[0].items()}


def make(head=None, *, rate=1e-3, learns_rate=True, learning_rate=1e-2) -> LearnedAdversary:
    head = start() if head is None else head
    return LearnedAdversary(head, rate=rate, learns_rate=learns_rate, learning_rate=learning_rate)


def go(learned: LearnedAdversary, steps, *, learns_rate=True) -> None:
    for step in steps:
        gradients, slope = draw_gradients(step)
        learned.accumulate(gradients, slope if learns_rate else None, share=1.0)
        learned.step()


def test_head_and_log_rate_move_as_torchs_adam_would_move_them() -> None:
    learned = make(rate=3e-4, learning_rate=1e-3)
    head = [torch.nn.Parameter(v) for v in start().values()]
    log_rate = torch.nn.Parameter(torch.tensor(math.log(3e-4)))
    optimizer = torch.optim.Adam([{"params": head, "lr": 1e-3}, {"params": [log_rate], "lr": 1e-2}])
    for step in range(10):
        optimizer.zero_grad()
        for part, share in ((2 * step, 0.25), (2 * step + 1, 0.75)):  # two micro-batches
            gradients, slope = draw_gradients(part)
            learned.accumulate(gradients, slope, share=share)
            objective = sum((p * g).sum() for p, g in zip(head, gradients.values(), strict=True))
            (share * (objective + log_rate.exp() * slope)).backward()
        assert learned.drawn
        assert len(learned.gradients()) == 3
        learned.step()
        optimizer.step()
        assert not learned.drawn
        for p, (name, value) in zip(head, learned.head.items(), strict=True):
            torch.testing.assert_close(value, p.data, rtol=1e-5, atol=1e-7)
            assert not torch.equal(value, start()[name])
        torch.testing.assert_close(learned.log_rate, log_rate.data, rtol=1e-5, atol=1e-6)
    assert learned.learning_rate == pytest.approx(math.exp(log_rate.item()), rel=1e-4)
    assert abs(learned.learning_rate / 3e-4 - 1) > 1e-2


def test_it_goes_downhill_on_what_it_is_given() -> None:
    learned = make()
    learned.accumulate({n: torch.ones_like(v) for n, v in start().items()}, -5.0, share=1.0)
    learned.step()
    assert all((learned.head[n] < v).all() for n, v in start().items())
    assert learned.learning_rate > 1e-3


def test_given_tensors_are_copied() -> None:
    head = start()
    gradients = {n: torch.ones_like(v) for n, v in head.items()}
    learned = make(head)
    for _ in range(2):
        learned.accumulate(gradients, None, share=1.0)
        learned.accumulate(gradients, None, share=1.0)
        for gradient in learned.gradients():
            gradient *= 3  # as averaging over processes would
        learned.step()
    assert all(torch.equal(v, start()[n]) for n, v in head.items())
    assert all((v == 1).all() for v in gradients.values())


def test_averaging_gradients_in_place_is_felt() -> None:
    found = []
    for factor in (1.0, -1.0):
        learned = make()
        gradients, slope = draw_gradients(0)
        learned.accumulate(gradients, slope, share=1.0)
        for gradient in learned.gradients():
            gradient *= factor
        learned.step()
        found.append((learned.head["bias"] - start()["bias"], learned.log_rate - math.log(1e-3)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, -other, rtol=1e-3, atol=1e-5)
        assert one.any()


@pytest.mark.parametrize(("slope", "bound"), [(1.0, 0), (-1.0, 1)])
def test_the_learned_rate_stays_within_its_bounds(slope, bound) -> None:
    learned = make({}, learning_rate=0.2)
    for _ in range(20):
        learned.accumulate({}, slope, share=1.0)
        learned.step()
        assert RATE_BOUNDS[0] * 0.999 <= learned.learning_rate <= RATE_BOUNDS[1] * 1.001
    assert learned.learning_rate == pytest.approx(RATE_BOUNDS[bound], rel=1e-4)


@pytest.mark.parametrize("rate", [0.1, 1e-8])
def test_a_rate_that_starts_beyond_the_bounds_is_not_thrown_back(rate) -> None:
    learned = make({}, rate=rate)
    learned.accumulate({}, 0.0, share=1.0)
    learned.step()
    assert learned.learning_rate == pytest.approx(rate, rel=1e-4)
    for _ in range(20):
        learned.accumulate({}, -1.0 if rate > 1e-2 else 1.0, share=1.0)
        learned.step()
    assert learned.learning_rate == pytest.approx(rate, rel=1e-4)  # but that is as far as it goes


def test_nothing_learned_nothing_moved() -> None:
    learned = make({}, rate=3e-4, learns_rate=False)
    learned.step()
    assert learned.learning_rate == pytest.approx(3e-4)
    assert learned.gradients() == []
    assert not learned.drawn


@pytest.mark.parametrize(("head", "learns_rate", "count"), [(None, True, 3), (None, False, 2), ({}, True, 1)])
def test_processes_that_drew_another_adversary_bring_zeros(head, learns_rate, count) -> None:
    """Every process averages tensors of the same shapes in the same order, whatever it drew itself."""
    idle, busy = make(head, learns_rate=learns_rate), make(head, learns_rate=learns_rate)
    gradients, slope = draw_gradients(0)
    busy.accumulate(gradients if head is None else {}, slope if learns_rate else None, share=1.0)
    assert (idle.drawn, busy.drawn) == (False, True)
    one, other = idle.gradients(), busy.gradients()
    assert [g.shape for g in one] == [g.shape for g in other]
    assert len(one) == count
    assert not any(g.any() for g in one)
    assert all(g.any() for g in other)
    for mine, theirs in zip(one, other, strict=True):
        mine += theirs
    idle.step()
    busy.step()
    assert all(torch.equal(v, busy.state_dict()[n]) for n, v in idle.state_dict().items())


def test_a_rate_that_is_not_learned_stays_as_the_head_moves() -> None:
    learned = make(rate=5e-3, learns_rate=False)
    go(learned, range(3), learns_rate=False)
    assert learned.learning_rate == pytest.approx(5e-3)
    assert not any(torch.equal(v, start()[n]) for n, v in learned.head.items())


@pytest.mark.parametrize("learns_rate", [True, False])
@pytest.mark.parametrize("steps_before", [0, 1, 4])
def test_a_restored_adversary_goes_on_bitwise(learns_rate, steps_before) -> None:
    whole, first = make(learns_rate=learns_rate), make(learns_rate=learns_rate)
    go(whole, range(8), learns_rate=learns_rate)
    go(first, range(steps_before), learns_rate=learns_rate)
    state = first.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = make({n: v + 1 for n, v in start().items()}, learns_rate=learns_rate)
    other.load_state_dict(state)
    go(first, range(steps_before, 8), learns_rate=learns_rate)  # does not disturb the one that took its state
    go(other, range(steps_before, 8), learns_rate=learns_rate)
    expected = whole.state_dict()
    assert len(expected) == 3 + 3 * (3 if learns_rate else 2)
    for found in (first.state_dict(), other.state_dict()):
        assert {*found} == {*expected}
        assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_restoring_an_early_state_forgets_later_moments() -> None:
    """Loading into an adversary that has already stepped is loading all the same."""
    learned = make()
    early = {name: value.clone() for name, value in learned.state_dict().items()}
    go(learned, [0])
    once = {n: v.clone() for n, v in learned.head.items()}
    go(learned, [5])
    learned.load_state_dict(early)
    go(learned, [0])
    assert all(torch.equal(v, once[n]) for n, v in learned.head.items())


def test_moments_return_to_the_device_of_what_they_belong_to() -> None:
    """A checkpoint is read on the CPU; torch's Adam wants its moments beside the weights, and its step here."""
    learned = make()
    go(learned, range(2))
    other = make({n: v.to("meta") for n, v in start().items()})  # stands for any other device
    other.load_state_dict(learned.state_dict())
    for name, value in other.state_dict().items():
        assert value.device.type == ("cpu" if name.startswith("adam.step") else "meta"), name
