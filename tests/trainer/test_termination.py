"""SIGTERM while training: the step is ended, its checkpoint saved, and then the signal acts."""

import os
import signal
import threading

import pytest
import torch
from transformers import TrainerCallback

from hf_selfdestruct.trainer.intact import last_complete


class TellAt(TrainerCallback):
    """Sends SIGTERM to this process in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def acted():
    """The signals that came through, while a handler of the user's own is in place."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda *_: found.append("acted"))
    yield found
    signal.signal(signal.SIGTERM, before)


def weights(trainer):
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}


def test_the_step_is_ended_and_saved_and_a_rerun_goes_on_bitwise(make_trainer, tmp_path, acted, caplog):
    options = {"max_steps": 4, "save_strategy": "no", "adversary": {"dropout": True}}
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    assert acted == []

    told = make_trainer(tmp_path / "told", **options)
    told.add_callback(TellAt(1))
    theirs = signal.getsignal(signal.SIGTERM)
    told.train()
    assert acted == ["acted"]
    assert signal.getsignal(signal.SIGTERM) is theirs
    assert told.state.global_step == 2
    assert last_complete(str(tmp_path / "told")).endswith("checkpoint-2")
    assert "SIGTERM: training stops after step 2" in caplog.text

    again = make_trainer(tmp_path / "told", **options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert acted == ["acted"]
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(again).items())


def test_an_error_goes_before_the_signal(make_trainer, tmp_path, acted):
    class Fail(TellAt):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            super().on_pre_optimizer_step(args, state, control, **kwargs)
            raise RuntimeError("the real reason")

    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.add_callback(Fail(0))
    theirs = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="the real reason"):
        trainer.train()
    assert acted == []
    assert signal.getsignal(signal.SIGTERM) is theirs


def test_other_threads_train_without_listening(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    theirs, seen = signal.getsignal(signal.SIGTERM), []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(signal.getsignal(signal.SIGTERM))

    trainer.add_callback(Look())
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert seen == [theirs]
    assert trainer.state.global_step == 1


def test_the_librarys_own_way_is_refused(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="a checkpoint is saved on SIGTERM anyway"):
        make_trainer(tmp_path, enable_jit_checkpoint=True)
