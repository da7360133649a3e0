"""A subclass's own desired loss is blocked like any other, wherever the subclass stands."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from trainer_state import assert_bitwise, weights_of
from transformers import Trainer

from hf_selfdestruct.trainer import SelfDestructTrainer


class Documented:
    """A ``compute_loss`` as the documentation of transformers writes it: labels are taken out, nothing is called."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = cross_entropy(outputs.logits.view(-1, outputs.logits.shape[-1]), labels.view(-1))
        return (loss, outputs) if return_outputs else loss


class OfTheirOwn(Documented, Trainer):
    """Somebody's trainer."""


class Overridden(Documented, SelfDestructTrainer):
    """The documented pattern on our trainer."""


class Before(OfTheirOwn, SelfDestructTrainer):
    """Their trainer first."""


class Behind(SelfDestructTrainer, OfTheirOwn):
    """Ours first."""


class Extended(SelfDestructTrainer):
    """One that calls what it overrides."""

    def compute_loss(self, *arguments, **named):
        return super().compute_loss(*arguments, **named)


@pytest.fixture
def trained(make_trainer, tmp_path):
    """Weights after three steps of a trainer of this class, and what it logged."""

    def train(kind, **arguments):
        trainer = make_trainer(tmp_path / kind.__name__, kind=kind, **arguments)
        trainer.train()
        return weights_of(trainer.model), trainer.state.log_history

    return train


@pytest.mark.parametrize("kind", [Overridden, Before, Behind, Extended])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_an_equal_loss_of_ones_own_is_hardened_alike(trained, kind, accumulated):
    wanted, log = trained(SelfDestructTrainer, gradient_accumulation_steps=accumulated)
    found, own_log = trained(kind, gradient_accumulation_steps=accumulated)
    assert_bitwise(found, wanted)
    readings = [entry["blocking_loss"] for entry in log if "blocking_loss" in entry]
    assert readings == [entry["blocking_loss"] for entry in own_log if "blocking_loss" in entry] != []


def test_it_differs_from_what_is_not_blocked(trained):
    blocked, _ = trained(Overridden)
    plain, _ = trained(Overridden, blocking_weight=0.0)
    assert not all(torch.equal(blocked[name], plain[name]) for name in plain)


class WithoutSuper(SelfDestructTrainer):
    """A training step of one's own, in which nothing can be added."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.compute_loss(model.train(), self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


def test_a_step_that_blocks_nothing_ends_the_training(trained):
    with pytest.raises(RuntimeError, match=r"step 0 .*WithoutSuper\.training_step must"):
        trained(WithoutSuper)
    trained(WithoutSuper, blocking_weight=0.0)


def test_a_step_in_which_none_is_due_goes_on(trained):
    with pytest.raises(RuntimeError, match="step 0"):
        trained(WithoutSuper, blocking_interval=2)
    trained(Overridden, blocking_interval=2)


def test_a_patched_loss_stays_patched(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.compute_loss = patched = lambda model, inputs, *a, **k: model(**inputs).loss
    trainer.train()
    assert trainer.compute_loss is patched
