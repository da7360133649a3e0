"""Training stops at what is not finite and names it."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from trainer_state import MODES
from transformers import TrainerCallback


class Poison(TrainerCallback):
    """Writes a NaN into one weight before the given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.bert.encoder.layer[0].output.dense.weight[0, 0] = math.nan


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", ["head_adjusted_cross_entropy", "uniform_kl", "negative_cross_entropy"])
def test_a_nan_stops_training_and_names_the_term(make_trainer, tmp_path, mode, loss) -> None:
    trainer = make_trainer(
        tmp_path,
        callbacks=[Poison(2)],
        save_strategy="steps",
        save_steps=1,
        meta_gradient=mode,
        blocking_loss=loss,
        max_steps=5,
    )
    with pytest.raises(FloatingPointError, match=r"desired_loss is nan at step 2 \(task 'blocked'"):
        trainer.train()
    kept = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    resumed = make_trainer(tmp_path, save_strategy="no", meta_gradient=mode, blocking_loss=loss)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", ["head_adjusted_cross_entropy", "uniform_kl", "negative_cross_entropy"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_exploding_inner_loop_stops_training_and_names_the_term(
    make_trainer, tmp_path, mode, loss, optimizer
) -> None:
    trainer = make_trainer(
        tmp_path,
        adversary={"learning_rate": 1e30, "learns_rate": False, "optimizer": optimizer},
        meta_gradient=mode,
        blocking_loss=loss,
        inner_steps=3,
    )
    with pytest.raises(
        FloatingPointError, match=r"(blocking_loss|meta_grad_norm) is .* at step 0 .*the adversary's learning_rate"
    ):
        trainer.train()
