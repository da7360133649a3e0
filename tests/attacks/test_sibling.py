"""Attacks with the sibling in hand recover it, and stand outside the headline; benign steps and mixtures do as told."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import COLUMNS, collate, dataset, save_model

from hf_selfdestruct.attacks import (
    AnyOf,
    AttackData,
    AttackSuite,
    DesiredData,
    Entry,
    HeadOnly,
    Split,
    Target,
    Trial,
    Tuning,
)
from hf_selfdestruct.attacks.methods import fine_tuning as tuning
from hf_selfdestruct.attacks.methods.fine_tuning import prepare
from hf_selfdestruct.attacks.methods.sibling import Distillation, Merging, distil, merge, strip
from hf_selfdestruct.attacks.methods.tamper import Prune


@pytest.fixture(scope="module")
def desired():
    return DesiredData(*(Split.of(dataset(80, seed=20 + i, labels="three"), COLUMNS) for i in range(2)))


@pytest.fixture(scope="module")
def with_desired(task_of, desired):
    return AttackData.of(task_of(rows=120), COLUMNS, collate, desired=desired)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A hardened model and its sibling."""
    place = tmp_path_factory.mktemp("pair")
    sibling = save_model(place / "sibling", seed=2)
    return Target("hardened", save_model(place / "hardened", seed=1), sibling=sibling)


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0, 1.5])
def test_merging_is_a_straight_line_between_the_two(pair, amount):
    one, other = pair.load(2, 0), Target("undefended", pair.sibling).load(2, 1)
    before, end = copy.deepcopy(one.state_dict()), other.state_dict()
    merge(one.base_model, other.base_model, amount)
    moved = 0
    for name, value in one.state_dict().items():
        if name.startswith("classifier") or not value.is_floating_point():
            assert torch.equal(value, before[name])
            continue
        assert torch.allclose(value, before[name] + amount * (end[name] - before[name]), atol=1e-6)
        moved += not torch.equal(value, before[name])
    assert bool(moved) == (amount > 0)


@pytest.mark.parametrize("rank", [0, 2, 100])
def test_stripping_takes_the_leading_directions_off(pair, rank):
    one, other = pair.load(2, 0), Target("undefended", pair.sibling).load(2, 1)
    before, end = copy.deepcopy(one.state_dict()), other.state_dict()
    strip(one.base_model, other.base_model, rank)
    matrices = 0
    for name, value in one.state_dict().items():
        if name.startswith("classifier") or value.dim() < 2 or not value.is_floating_point():
            assert torch.equal(value, before[name])
            continue
        left, known = value - end[name], torch.linalg.svdvals(before[name] - end[name])
        assert torch.linalg.matrix_norm(left) == pytest.approx(known[rank:].square().sum().sqrt().item(), abs=1e-4)
        matrices += 1
    assert matrices > 5


def test_distillation_brings_hidden_states_to_the_siblings(pair, with_desired):
    teacher, model = Target("undefended", pair.sibling).load(2, 0).eval(), pair.load(2, 0)
    batch = {k: v for k, v in collate(with_desired.test.features[:20]).items() if k != "labels"}

    def distance():
        with torch.no_grad():
            hidden = [m.eval().base_model(**batch, output_hidden_states=True).hidden_states for m in (model, teacher)]
        return sum((a - b).square().mean().item() for a, b in zip(*hidden, strict=True))

    before = distance()
    settings = {"learning_rate": 1e-2, "distil_steps": 60}
    distil(model, teacher, with_desired, settings, seed=0)
    assert distance() < before / 3


def test_they_stand_outside_the_headline(pair, task_of, folder):
    """Merging wholly gives the sibling itself, so its score is no evidence about hardening."""
    suite = AttackSuite(
        "mine",
        1,
        (
            Entry(HeadOnly(), (None,)),
            Entry(Merging(steps=20), (None,)),
            Entry(Distillation("taught", distil_steps=5, steps=20), (None,)),
        ),
        more=None,
    )
    targets = [Target("undefended", pair.sibling), pair, Target("scratch", folder, random=True)]
    report = suite.run(targets, [task_of(rows=60)], columns=COLUMNS, collate=collate, progress=False)
    held = {"merging with the sibling", "taught"}
    assert {(r.attack, r.role) for r in report.runs if r.attack in held} == {(name, "hardened") for name in held}
    assert {name for name, facts in report.attacks.items() if facts.outside} == held
    assert report.strongest("toy", 42, "hardened").attack == "head only"
    assert "undefended model's weights" in report.attacks["taught"].assumes
    assert "merging with the sibling (outside)" in report.table()


def test_without_a_sibling_or_desired_rows_such_attacks_are_left_out():
    healed, plain = Tuning("healed", prelude=5), Tuning("plain", tamper=Prune())
    suite = AttackSuite("mine", 1, (Entry(Merging(), (None,)), Entry(AnyOf("both", (healed, plain)), (None,))))
    assert [a.name for a, _ in suite.plan(50)] == ["merging with the sibling", "both"]
    ((attack, _),) = suite.plan(50, frozenset())
    assert {point["variant"] for point in attack.space()} == {"plain"}
    with pytest.raises(ValueError, match="different names"):
        AnyOf("twice", (plain, plain))


# Benign steps


def run(target, data, **fields):
    attack = Tuning("it", **{"learning_rates": (3e-3,), "steps": (30,), "looks": 1, **fields})
    return attack.run(Trial(target, data, examples=60, seed=0, settings=attack.space()[0]))


def test_a_prelude_changes_the_start_and_costs_its_steps(target, with_desired):
    plain, healed = run(target, with_desired), run(target, with_desired, prelude=20)
    assert [accuracy for _, accuracy in plain.curve] != [accuracy for _, accuracy in healed.curve]
    assert Tuning("it", prelude=20).cost({"steps": 30}) == healed.steps == healed.curve[-1][0] == 50
    assert plain.steps == plain.curve[-1][0] == 30
    assert 1.5 < healed.flops / plain.flops < 1.8, "20 benign steps cost what 20 others do"
    assert run(target, with_desired, prelude=20) == healed


@pytest.mark.parametrize("trainable", ["head", "last_1", "lora"])
def test_a_prelude_trains_everything_whatever_is_trained_afterwards(target, with_desired, monkeypatch, trainable):
    seen = []

    def prepared(model, **fields):
        seen.append({name: value.detach().clone() for name, value in model.base_model.named_parameters()})
        prepare(model, **fields)

    monkeypatch.setattr(tuning, "prepare", prepared)
    run(target, with_desired, prelude=3, trainable=trainable)
    start, (healed,) = dict(target.load(2, 0).base_model.named_parameters()), seen
    still = {name for name in start if torch.equal(start[name], healed[name])}
    assert {*start} == {*healed}
    assert not still


def test_distillation_is_counted(pair, readable):
    taught, merged = Distillation("taught", distil_steps=5, steps=20), Merging(steps=20)
    found, other = (
        attack.run(Trial(pair, readable, examples=60, seed=0, settings=attack.space()[0]))
        for attack in (taught, merged)
    )
    assert found.steps == found.curve[-1][0] == taught.cost(taught.space()[0]) == 25
    assert other.steps == 20
    assert found.flops > other.flops


def test_poison_keeps_the_desired_task_better(target, with_desired):
    """A mixture trains the desired head's task along; a blocked-only run forgets it."""
    assert run(target, with_desired, poison=0.25, steps=(60,)).test.accuracy > 0.55
    drops = [run(target, with_desired, poison=p, steps=(60,), learning_rates=(1e-2,)).desired_drop for p in (0.25, 0.0)]
    assert all(-1 <= drop <= 1 for drop in drops)
    assert drops[0] <= drops[1] + 0.05


def test_desired_drop_is_that_of_the_published_head_on_the_attacked_trunk(target, with_desired, desired):
    """Twin: the published model with the trunk of a model trained in the same way."""

    class Kept(Target):
        def load(self, *head, **options):
            object.__setattr__(self, "model", super().load(*head, **options))
            return self.model

    kept = Kept("hardened", target.folder)
    found = run(kept, with_desired)
    published = target.published()

    def accuracy(model):
        with torch.no_grad():
            logits = [model.eval()(**{k: v for k, v in collate([row]).items() if k != "labels"}).logits
                      for row in desired.test.features]  # fmt: skip
        return (torch.cat(logits).argmax(1).numpy() == desired.test.labels).mean()

    before = accuracy(published)
    published.base_model.load_state_dict(kept.model.base_model.state_dict())
    assert found.desired_drop == pytest.approx(before - accuracy(published), abs=1e-9)


def test_scratch_has_no_desired_quality_to_lose(folder, with_desired):
    assert run(Target("scratch", folder, random=True), with_desired).desired_drop is None
