"""A subclass's own desired loss is blocked like any other, wherever the subclass stands."""

import functools

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_models import TINY_SUITE, tiny_model, toy_task
from trainer_state import assert_bitwise, weights_of
from transformers import Trainer, TrainerCallback

from hf_selfdestruct import SelfDestructMixin
from hf_selfdestruct.trainer.sibling import trained_sibling
from hf_selfdestruct.trainer.trainer import SelfDestructTrainer


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


class Mixed(SelfDestructMixin, OfTheirOwn):
    """The mixin before their trainer, which knows nothing of ours."""


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


@pytest.mark.parametrize("kind", [Overridden, Before, Behind, Mixed, Extended])
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
        trained(WithoutSuper, method_options={"blocking_interval": 2})
    trained(Overridden, method_options={"blocking_interval": 2})


def test_a_patched_loss_stays_patched(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.compute_loss = patched = lambda model, inputs, *a, **k: model(**inputs).loss
    trainer.train()
    assert trainer.compute_loss is patched


class Weighted(SelfDestructTrainer):
    """A trainer with an argument of its own, an evaluation of its own, and a loss that needs the argument."""

    def __init__(self, *arguments, class_weights, **named):
        super().__init__(*arguments, **named)
        self.class_weights = class_weights

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = cross_entropy(outputs.logits, inputs["labels"], weight=self.class_weights)
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *arguments, **named):
        return super().evaluate(*arguments, **named) | {"eval_own": float(self.class_weights.sum())}


class Remembering(TrainerCallback):
    """A callback that knows its trainer, and changes its training."""

    def __init__(self):
        self.trainer, self.steps = None, 0

    def on_step_end(self, args, state, control, **named):
        assert self.trainer.state is state
        self.steps += 1


@pytest.fixture
def weighted(make_trainer, tmp_path):
    """A trained ``Weighted`` with these weights, the start it had, and its callback."""

    def make(*weights, **arguments):
        callback = Remembering()
        trainer = make_trainer(
            tmp_path,
            kind=functools.partial(Weighted, class_weights=torch.tensor(weights)),
            model=tiny_model(),
            callbacks=[callback],
            **arguments,
        )
        callback.trainer = trainer
        trainer.train()
        return trainer, callback

    return make


def test_a_sibling_has_what_its_user_built(weighted, tmp_path):
    trainer, callback = weighted(1.0, 3.0)
    sibling = trained_sibling(trainer, str(tmp_path / "_base"))
    assert type(sibling) is Weighted
    assert sibling.evaluate()["eval_own"] == trainer.evaluate()["eval_own"] == 4.0
    assert sibling.state.global_step == trainer.state.global_step == 3
    assert sibling.state is not trainer.state
    assert (callback.steps, callback.trainer) == (3, trainer)
    assert not any(
        torch.equal(p, q) for p, q in zip(sibling.model.parameters(), trainer.model.parameters(), strict=True)
    )


def test_a_sibling_of_other_class_weights_is_trained_anew(weighted, tmp_path):
    def trained_at(*weights):
        trained_sibling(weighted(*weights)[0], str(tmp_path / "_base"))
        return (tmp_path / "_undefended" / "model.safetensors").stat().st_mtime_ns

    first = trained_at(1.0, 3.0)
    assert trained_at(1.0, 3.0) == first
    assert trained_at(1.0, 2.0) > first


def test_the_twin_of_what_was_never_blocked_is_bitwise_the_same(weighted, tmp_path):
    """Data order, dropout and schedule are those of the trainer: without blocking both end at the same weights."""
    trainer, _ = weighted(1.0, 3.0, blocking_weight=0.0)
    tiny_model().save_pretrained(tmp_path / "start")
    sibling = trained_sibling(trainer, str(tmp_path / "start"))
    assert_bitwise(weights_of(sibling.model), weights_of(trainer.model))


def test_a_model_that_was_not_hardened_gets_a_card_that_says_so(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, kind=Overridden, blocked_tasks=[toy_task(rows=60)], blocking_weight=0.0)
    tiny_model().save_pretrained(tmp_path / "_base")
    trainer.train()
    report = trainer.attack(TINY_SUITE)
    assert report.distances["undefended"] == 0
    assert report.distances["base"] > 1e-3
    assert "**Not hardened.**" in (tmp_path / "README.md").read_text()
