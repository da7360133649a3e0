"""What stands in the training log between two of its lines."""

import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import TensorBoardCallback

from hf_selfdestruct import JudgeCallback
from hf_selfdestruct.trainer.meters import Readings
from hf_selfdestruct.trainer.sibling import sibling_of


def test_means_since_the_last_time_only():
    readings = Readings()
    readings.add({"a": 1.0, "b": 5.0}, step=0)
    readings.add({"a": 3.0}, step=1)
    found = readings.take(step=2, batch=4)
    assert (found["a"], found["b"]) == (2.0, 5.0)
    readings.add({"a": 7.0}, step=2)
    later = readings.take(step=3, batch=4)
    assert later["a"] == 7.0
    assert "b" not in later


def test_throughput_counts_steps_since_the_last_time():
    readings = Readings()
    readings.add({}, step=100)  # a resumed run: the steps before are not its own
    time.sleep(0.2)
    found = readings.take(step=104, batch=8)
    assert 4 / 0.4 < found["outer_steps_per_second"] <= 4 / 0.2
    assert found["examples_per_second"] == pytest.approx(8 * found["outer_steps_per_second"])
    time.sleep(0.05)
    assert readings.take(step=105, batch=8)["outer_steps_per_second"] <= 1 / 0.05


def test_nothing_is_known_before_the_first_step():
    assert Readings().take(step=0, batch=8) == {}


def test_the_trainer_logs_its_throughput(make_trainer, tmp_path):
    trainer = make_trainer(
        tmp_path, max_steps=4, logging_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    start = time.perf_counter()
    trainer.train()
    least = 4 / (time.perf_counter() - start)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["outer_steps_per_second"] > least / 2
        assert line["examples_per_second"] == pytest.approx(8 * line["outer_steps_per_second"])


def test_tensorboard_gets_every_reading(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = make_trainer(tmp_path / "out", max_steps=2, logging_steps=1, report_to=["tensorboard"])
    trainer.train()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    names = {*events.Tags()["scalars"]}
    expected = {"desired_loss", "blocking_loss", "meta_grad_norm", "outer_steps_per_second", "examples_per_second"}
    assert {f"train/{name}" for name in expected} <= names
    assert any(name.startswith("train/blocked_accuracy/step_") for name in names)
    logged = [line["blocking_loss"] for line in trainer.state.log_history if "blocking_loss" in line]
    assert [event.value for event in events.Scalars("train/blocking_loss")] == pytest.approx(logged)
    trainer.add_callback(JudgeCallback(trainer))
    reported = [TensorBoardCallback, JudgeCallback]
    for one, there in ((trainer, True), (sibling_of(trainer, str(tmp_path / "out" / "_base")), False)):
        assert [any(isinstance(c, k) for c in one.callback_handler.callbacks) for k in reported] == [there] * 2
