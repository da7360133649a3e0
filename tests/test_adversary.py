"""The adversary: its recipe is checked, its rate is drawn by key, and it learns as torch's Adam would."""

from __future__ import annotations

import math

import pytest
import torch

from hf_selfdestruct.adversary import RATE_BOUNDS, Adversary, LearnedAdversary


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "new"}, "head must be 'learned', 'random' or 'keep'; got 'new'"),
        ({"trainable": "lora"}, "trainable must be 'all' or 'head'; got 'lora'"),
        ({"steps": -1}, "steps must be 0 or more"),
        ({"batch_size": 0}, "batch_size 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate positive"),
        ({"learning_rate": math.nan}, "learning_rate positive"),
        ({"learning_rate": 1e-2, "learning_rate_max": 1e-3}, "must be at least learning_rate"),
        ({"learning_rate_max": 1e-2, "learns_rate": True}, "cannot also be learned"),
    ],
)
def test_mistakes(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        Adversary(**fields)


def test_a_fixed_rate_is_that_rate() -> None:
    assert Adversary(learning_rate=2e-4).draw_rate("any", 1) == 2e-4


def test_drawn_rates_are_log_uniform_and_decided_by_the_key() -> None:
    adversary = Adversary(learning_rate=1e-5, learning_rate_max=1e-2)
    state = torch.random.get_rng_state()
    rates = [adversary.draw_rate("gender", 7, step, 0, 0) for step in range(2000)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert rates[:5] == [adversary.draw_rate("gender", 7, step, 0, 0) for step in range(5)]
    assert len(set(rates)) == len(rates)
    assert 1e-5 <= min(rates) < 1.1e-5
    assert 0.9e-2 < max(rates) <= 1e-2
    for decade in (1e-5, 1e-4, 1e-3):
        share = sum(decade <= rate < 10 * decade for rate in rates) / len(rates)
        assert share == pytest.approx(1 / 3, abs=0.04)
    assert adversary.draw_rate("age", 7, 0, 0, 0) != rates[0]
    same = Adversary(learning_rate=1e-3, learning_rate_max=1e-3)
    assert same.draw_rate("x") == pytest.approx(1e-3)


def draw_gradients(step: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    head = {"weight": torch.randn(2, 4, generator=generator) * (1 + step), "bias": torch.randn(2, generator=generator)}
    return head, torch.randn((), generator=generator) * 100


def start() -> dict[str, torch.Tensor]:
    return {n: v / 10 for n, v in draw_gradients(99)[0].items()}


def test_head_and_log_rate_move_as_torchs_adam_would_move_them() -> None:
    learned = LearnedAdversary(Adversary(learning_rate=3e-4, learns_rate=True), start(), learning_rate=1e-3)
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
        assert len(learned.gradients()) == 3
        learned.step()
        optimizer.step()
        assert learned.gradients() == []
        for p, (name, value) in zip(head, learned.head.items(), strict=True):
            torch.testing.assert_close(value, p.data, rtol=1e-5, atol=1e-7)
            assert not torch.equal(value, start()[name])
        torch.testing.assert_close(learned.log_rate, log_rate.data, rtol=1e-5, atol=1e-6)
    assert learned.learning_rate == pytest.approx(math.exp(log_rate.item()), rel=1e-4)
    assert abs(learned.learning_rate / 3e-4 - 1) > 1e-2


def test_it_goes_downhill_on_what_it_is_given() -> None:
    learned = LearnedAdversary(Adversary(learning_rate=1e-3, learns_rate=True), start(), learning_rate=1e-2)
    before = {n: v.clone() for n, v in learned.head.items()}
    learned.accumulate({n: torch.ones_like(v) for n, v in before.items()}, torch.tensor(-5.0), share=1.0)
    learned.step()
    assert all((learned.head[n] < before[n]).all() for n in before)
    assert learned.learning_rate > 1e-3


def test_the_given_head_is_copied() -> None:
    head = start()
    learned = LearnedAdversary(Adversary(), head, learning_rate=0.1)
    learned.accumulate({n: torch.ones_like(v) for n, v in head.items()}, None, share=1.0)
    learned.step()
    assert all(torch.equal(v, start()[n]) for n, v in head.items())


@pytest.mark.parametrize(("slope", "bound"), [(1.0, 0), (-1.0, 1)])
def test_the_learned_rate_stays_within_its_bounds(slope, bound) -> None:
    learned = LearnedAdversary(Adversary(learning_rate=1e-3, learns_rate=True), {}, learning_rate=0.2)
    for _ in range(20):
        learned.accumulate({}, torch.tensor(slope), share=1.0)
        learned.step()
        assert RATE_BOUNDS[0] * 0.999 <= learned.learning_rate <= RATE_BOUNDS[1] * 1.001
    assert learned.learning_rate == pytest.approx(RATE_BOUNDS[bound], rel=1e-4)


def test_nothing_learned_nothing_moved() -> None:
    learned = LearnedAdversary(Adversary(head="random"), {}, learning_rate=0.1)
    learned.step()
    assert learned.learning_rate == pytest.approx(3e-4)
    assert learned.gradients() == []
    fixed = LearnedAdversary(Adversary(learning_rate=0.5), start(), learning_rate=0.1)
    fixed.accumulate(start(), None, share=1.0)
    fixed.step()
    assert not any(torch.equal(v, start()[n]) for n, v in fixed.head.items())


@pytest.mark.parametrize("learns_rate", [True, False])
@pytest.mark.parametrize("steps_before", [0, 1, 4])
def test_a_restored_adversary_goes_on_bitwise(learns_rate, steps_before) -> None:
    adversary = Adversary(learns_rate=learns_rate)

    def go(learned: LearnedAdversary, steps) -> None:
        for step in steps:
            gradients, slope = draw_gradients(step)
            learned.accumulate(gradients, slope if learns_rate else None, share=1.0)
            learned.step()

    whole = LearnedAdversary(adversary, start(), learning_rate=1e-2)
    go(whole, range(8))
    first = LearnedAdversary(adversary, start(), learning_rate=1e-2)
    go(first, range(steps_before))
    state = first.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = LearnedAdversary(adversary, {n: v + 1 for n, v in start().items()}, learning_rate=1e-2)
    other.load_state_dict(state)
    go(first, range(steps_before, 8))  # the one that gave its state does not disturb the one that took it
    go(other, range(steps_before, 8))
    expected = whole.state_dict()
    assert len(expected) == 3 + 3 * (3 if learns_rate else 2)
    for found in (first.state_dict(), other.state_dict()):
        assert set(found) == set(expected)
        assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_restoring_an_early_state_forgets_later_moments() -> None:
    """Loading into an adversary that has already stepped is loading all the same."""
    learned = LearnedAdversary(Adversary(), start(), learning_rate=1e-2)
    early = {name: value.clone() for name, value in learned.state_dict().items()}
    gradients, _ = draw_gradients(0)
    learned.accumulate(gradients, None, share=1.0)
    learned.step()
    once = {n: v.clone() for n, v in learned.head.items()}
    learned.load_state_dict(early)
    learned.accumulate(gradients, None, share=1.0)
    learned.step()
    assert all(torch.equal(v, once[n]) for n, v in learned.head.items())


def test_config_is_plain_and_complete() -> None:
    found = Adversary(learning_rate=1e-3, steps=4).config()
    assert found["optimizer"].startswith("Adam{")
    assert "1e-06" in found["optimizer"]
    assert {"learning_rate": 1e-3, "steps": 4, "head": "learned", "trainable": "all"}.items() <= found.items()
    assert set(found) == set(Adversary.__dataclass_fields__)
    assert all(isinstance(value, str | int | float | bool | None) for value in found.values())
