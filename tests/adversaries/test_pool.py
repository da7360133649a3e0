"""Members of a pool take turns, are reset at staggered ages, and survive a restart."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hf_selfdestruct.adversaries.pool import AdversaryPool, Members
from hf_selfdestruct.models.distributed import Processes

CPU = torch.device("cpu")


def walk(members: Members, *, score: float = 0.5, steps: int = 4, value: float = 1.0, key: object = 0):
    """One stretch of the member whose turn it is."""
    member = members.next(key)
    end = {"w": torch.full((3,), value)}
    members.store(
        member,
        **{"offset": end, "own": {"own.head": torch.ones(2)}, "moments": {"first": end, "second": end}},
        **{"blocked": steps, "taken": steps, "score": score},
    )
    members.turn += 1
    return member


def test_members_take_turns_and_are_reset_at_the_horizon_at_staggered_times():
    members = Members(AdversaryPool(size=4, horizon=20), CPU)
    lives = {number: [] for number in range(4)}
    for _ in range(4 * 15):
        before = members.next().life, members.next().age
        member = walk(members)
        if member.life > before[0]:
            assert (member.age, member.taken, member.offset, member.own, member.moments) == (0, 0, {}, {}, {})
            lives[member.number].append(before[1] + 4)
    # K = 4: ages of 5, 10, 15 and 20 at first, 20 afterwards.
    assert lives == {0: [8, 20, 20], 1: [12, 20, 20], 2: [16, 20, 20], 3: [20, 20, 20]}


def test_what_diverges_or_learns_nothing_new_is_reset():
    members = Members(AdversaryPool(size=1, horizon=1000, patience=8), CPU)
    for score, age in ((0.5, 4), (0.6, 8), (0.6, 12), (0.7, 16), (0.7, 20), (0.65, 0), (0.1, 4)):
        assert walk(members, score=score).age == age
    assert members.next().life == 1
    forever = Members(AdversaryPool(size=1, horizon=1000), CPU)
    for _ in range(20):
        walk(forever)
    assert forever.next().age == 80


def test_those_that_succeed_are_visited_more_often():
    members = Members(AdversaryPool(size=3, horizon=10**6, by_success=True), CPU)
    scores = {0: 0.9, 1: -0.2, 2: 0.6}
    visits = Counter()
    for key in range(1200):
        member = members.next(key)
        assert member is members.next(key)
        walk(members, score=scores[member.number], key=key)
        visits[member.number] += 1
    for number, share in {0: 3 / 6, 1: 1 / 6, 2: 2 / 6}.items():
        assert visits[number] / 1200 == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(("precision", "storage"), [("full", "device"), ("bfloat16", "cpu"), ("bfloat16", "disk")])
def test_a_restored_pool_goes_on_bitwise_wherever_it_is_stored(precision, storage):
    settings = AdversaryPool(size=3, horizon=20, precision=precision, patience=12)
    whole, first = Members(settings, CPU), Members(replace(settings, storage=storage), CPU)
    scores = [0.1 * ((7 * i) % 10) for i in range(20)]
    for i in range(20):
        walk(whole, score=scores[i], value=1 / (i + 3))
        if i < 8:
            walk(first, score=scores[i], value=1 / (i + 3))
    other = Members(first.settings, CPU)
    other.load_state_dict(first.state_dict())
    for i in range(8, 20):
        walk(other, score=scores[i], value=1 / (i + 3))
    expected, found = whole.state_dict(), other.state_dict()
    assert {*expected} == {*found}
    assert sum("/moment.second/" in name for name in expected) >= 2
    assert all(torch.equal(found[n], value) for n, value in expected.items())
    with pytest.raises(ValueError, match=r"\[0, 1, 2\] of the pool, but this process has \[0, 1\]; resume with"):
        Members(AdversaryPool(size=2), CPU).load_state_dict(expected)


def test_each_process_has_adversaries_of_its_own_and_of_the_same_ages():
    settings = AdversaryPool(size=4, horizon=20)
    pools = [Members(settings, CPU, Processes(rank, 3)) for rank in range(3)]
    assert [[*pool.numbers] for pool in pools] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert {pool.total for pool in pools} == {12}
    for _ in range(30):
        first, *others = [walk(pool) for pool in pools]
        for rank, member in enumerate(others, start=1):
            assert member.number == first.number + 4 * rank
            assert (member.life, member.age) == (first.life, first.age)
    with pytest.raises(ValueError, match="as many processes as in the first run"):
        pools[1].load_state_dict(pools[0].state_dict())


def file_of(value: torch.Tensor) -> str:
    """The file whose pages a tensor's numbers are; empty for memory of no file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(place, 16) for place in line.split()[0].split("-"))
        if start <= value.data_ptr() < end:
            return " ".join(word for word in line.split()[5:] if not word.startswith("["))  # [heap]
    return ""


def test_a_pool_on_disk_is_not_in_memory_and_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pools = [Members(AdversaryPool(size=1, storage=storage), CPU) for storage in ("disk", "cpu")]
    for pool, where in zip(pools, (str(tmp_path), ""), strict=True):
        member = walk(pool)
        stored = [member.offset["w"], *(moment["w"] for moment in member.moments.values())]
        assert all(file_of(value).startswith(where) and bool(file_of(value)) == bool(where) for value in stored)
    assert [*tmp_path.iterdir()] == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(OSError, match=r"could not be stored in .*missing.*: set TMPDIR to a folder with more room, or"):
        walk(pools[0])


def test_half_precision_takes_half_the_memory():
    members = Members(AdversaryPool(size=1, precision="bfloat16"), CPU)
    member = walk(members, value=1 / 3)
    stored = [member.offset["w"], member.moments["first"]["w"], member.moments["second"]["w"]]
    assert {value.dtype for value in stored} == {torch.bfloat16}
    assert sum(value.nbytes for value in stored) == members.settings.bytes(9)
    assert AdversaryPool(size=1).bytes(9) == 2 * members.settings.bytes(9) == 36


def test_ages_are_named_by_their_bins():
    pool = AdversaryPool(horizon=200)
    ages = {0: 0, 1: 50, 4: 50, 50: 50, 51: 100, 199: 200, 200: 200, 203: 200}
    assert {age: pool.bin(age) for age in ages} == ages


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"size": 0}, "a pool's size must be a whole number of at least 1; got 0"),
        ({"horizon": 2.5}, "a pool's horizon must be a whole number of at least 1; got 2.5"),
        ({"patience": True}, "a pool's patience must be a whole number of at least 0; got True"),
        ({"storage": "disc"}, "a pool's storage must be one of device, cpu, disk; got 'disc'"),
        ({"precision": "half"}, "a pool's precision must be one of full, bfloat16; got 'half'"),
    ],
)
def test_what_is_wrong_is_named(fields, told):
    with pytest.raises(ValueError, match=told):
        AdversaryPool(**fields)
