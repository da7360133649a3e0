"""An adversary that goes on from outer step to outer step."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from simulation_parts import on_whole_tables

from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.adversaries.optimizers import SGD
from hf_selfdestruct.meta_gradient.methods import first_order


@pytest.mark.parametrize("trainable", ["all", "lora"])
@pytest.mark.parametrize("head", ["random", "learned"])
@pytest.mark.parametrize("mode", ["exact", "first_order", "unrolled"])
def test_an_adversary_that_goes_on_takes_one_long_way(
    make_trainer, tiny_model, tmp_path, mode, head, trainable
) -> None:
    """Two outer steps of K = 2 from a model that stands still are one way of four steps; the third starts anew."""

    def made():
        adversary = Adversary(SGD(), 0.05, steps=2, batch_size=3, head=head, trainable=trainable, carries=3)
        return make_trainer(tmp_path, model=tiny_model(), meta_gradient=mode, adversaries=[adversary])

    whole = made()
    on_whole_tables(whole)
    draws = [whole.objective.simulator.draw(step) for step in range(2)]
    first, second = (whole.objective.simulator.builder(whole.model, draw).episode() for draw in draws)
    losses = [*first.inner_losses, *second.inner_losses]
    # The second scene's losses look up its own constants, which are the same.
    long = replace(first, inner_losses=losses, measure=second.measure, shares=[None, None, None, None, 1.0])
    expected = first_order(long)

    trainer = made()
    learned = next(iter(trainer.objective.simulator.learned.values()))
    draws = [trainer.objective.simulator.draw(step) for step in range(3)]
    for draw in draws[:2]:
        found = trainer.objective.simulator.meta_gradient(trainer.model, draw)
    assert learned.age == 2
    for name, end in expected.fast.items():
        value = learned.own[name] if name in learned.own else first.published[name] + learned.offset[name]
        torch.testing.assert_close(value, end, atol=1e-5, rtol=1e-4)
        # A key's bias has no effect, and adapters move by their second matrix first.
        moved = not torch.equal(value, {**first.published, **first.own}[name])
        assert moved or "key.bias" in name or "lora_A" in name
    assert found.losses[2] == pytest.approx(expected.losses[4], rel=1e-3)
    trainer.objective.simulator.meta_gradient(trainer.model, draws[2])
    assert (learned.age, learned.offset, learned.own) == (0, {}, {})


def test_an_adversary_that_goes_on_follows_the_model_and_survives_resuming(make_trainer, tiny_model, tmp_path) -> None:
    def trained(**resume):
        made = make_trainer(
            tmp_path, model=tiny_model(), adversary={"carries": 4}, max_steps=6, save_steps=3, save_strategy="steps"
        )
        made.train(**resume)
        state = next(iter(made.objective.simulator.learned.values())).state_dict()
        return {**{n: p.detach().clone() for n, p in made.model.named_parameters()}, **state}

    whole = trained()
    assert whole["age"] == 2
    assert any(name.startswith("offset.") for name in whole)
    shutil.rmtree(tmp_path / "checkpoint-6")
    again = trained(resume_from_checkpoint=True)
    assert {*whole} == {*again}
    assert all(torch.equal(whole[n], again[n]) for n in whole)


def test_an_adversary_that_goes_on_may_heal_first_every_time(make_trainer, tmp_path) -> None:
    adversary = Adversary(steps=2, prelude=(1, 2), carries=4, batch_size=4)
    trainer = make_trainer(tmp_path, adversaries=[adversary], max_steps=6)
    trainer.train()
    assert {trainer.objective.simulator.draw(step).fine_tuning.prelude for step in range(6)} == {1, 2}


def test_ways_that_cannot_go_on_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(carries\) needs one value of trainable"):
        Adversary(carries=2, trainable=("all", "lora"))
    with pytest.raises(ValueError, match="carries must be a whole number of at least 1; got 0"):
        Adversary(carries=0)
