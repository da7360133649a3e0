"""Weights sharded by ``fully_shard``: first order, and second order too, as in one process."""

import pytest
import torch
from launched import TESTS, apart, handed_in, launch
from toy_models import tiny_model
from train_sharded import CASES, STEPS, Sharded

from hf_selfdestruct.models.distributed import Processes
from hf_selfdestruct.models.functional import Layout, whole

# of float64, whose differences divide rounding by their step
TOLERANCE = {"exact, finite differences": 1e-7, "in place, finite differences": 1e-7}


def test_sharded_weights_give_what_whole_ones_give(tmp_path):
    done = launch(TESTS / "train_sharded.py", str(tmp_path), processes=2)
    assert done.returncode == 0, done.stderr[-20_000:]
    for case in CASES:
        alone = Sharded(case)
        start = {n: v.clone() for n, v in alone.state().items()}
        for number in range(STEPS):
            alone.step(number)
        expected = alone.state()
        found, ranks = handed_in(tmp_path, case, 2)
        assert [rank["world"] for rank in ranks] == [2, 2]
        assert ranks[0]["digest"] == ranks[1]["digest"], case  # bitwise
        assert sum(rank["here"] for rank in ranks) == sum(p.numel() for p in tiny_model().parameters())
        still = {"log_rate"} if case.removeprefix("in place, ") in ("first order", "a pool") else set()
        moved = {n: v for n, v in start.items() if not n.startswith("/pool/")}
        assert {n for n, value in moved.items() if torch.equal(value, found[n])} == still, case
        assert {*found} == {*expected}, case
        assert apart(found, expected) < TOLERANCE.get(case, 1e-12), case
        torch.testing.assert_close(ranks[0]["losses"], alone.losses, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("total", [0, 1, 5, 6, 7])
def test_pieces_make_the_whole(total):
    vector = torch.arange(1.0, total + 1)
    pieces = [Processes(rank, 3, sharded=True).piece(vector) for rank in range(3)]
    assert {len(piece) for piece in pieces} == {Processes(0, 3, sharded=True).length(total)}
    assert torch.equal(torch.cat(pieces)[:total], vector)
    assert torch.cat(pieces)[total:].tolist() == [0.0] * (3 * len(pieces[0]) - total)


def test_windows_are_what_lies_between_two_places():
    layout = Layout({"a": torch.zeros(2, 3), "b": torch.zeros(2), "c": torch.zeros(3)})
    values = [torch.arange(6.0).view(3, 2).T, None, torch.tensor([7.0, 8.0, 9.0])]
    full = torch.tensor([0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 0.0, 0.0, 7.0, 8.0, 9.0, 0.0])
    for start in range(12):
        for stop in range(start, 13):
            assert torch.equal(layout.window(values, start, stop, like=full), full[start:stop])


def test_whole_tensors_are_left_as_they_are():
    value = torch.ones(3)
    assert whole(value) is value
    assert Processes(1, 2).piece(value) is value
    assert Layout({"a": value}).total == 3
