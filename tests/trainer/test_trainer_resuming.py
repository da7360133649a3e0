"""Resuming is bitwise the uninterrupted run, from whatever was left behind."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file
from trainer_state import MODES, assert_bitwise, learned_of, moments_of, still, weights_of

from hf_selfdestruct.trainer.intact import STATE_FILE

RESUME = {
    "max_steps": 6,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 2,
    "save_steps": 3,
    "save_strategy": "steps",
    "adversary": {"learning_rate": 1e-3},
}


def run(make_trainer, tiny_model, folder, *, resume=None, **arguments):
    trainer = make_trainer(folder, model=tiny_model(dropout=0.2), **{**RESUME, **arguments})
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("mode", MODES)
def test_resuming_is_bitwise_the_uninterrupted_run(make_trainer, tiny_model, tmp_path, mode) -> None:
    whole = run(make_trainer, tiny_model, tmp_path / "whole", meta_gradient=mode)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    resumed = run(make_trainer, tiny_model, tmp_path / "cut", meta_gradient=mode, resume=True)
    assert resumed.state.global_step == whole.state.global_step == 6
    assert_bitwise(weights_of(resumed.model), weights_of(whole.model))
    assert_bitwise(learned_of(resumed), learned_of(whole))
    assert_bitwise(moments_of(resumed), moments_of(whole))
    assert len(learned_of(whole)) == 3 + 3 * 3  # head, bias and rate, each with Adam's step and two moments
    third = load_file(tmp_path / "whole" / "checkpoint-3" / "model.safetensors")
    assert not still(weights_of(whole.model), third)  # the second half did train


def test_resuming_by_path_and_dropout_matters(make_trainer, tiny_model, tmp_path) -> None:
    whole = run(make_trainer, tiny_model, tmp_path)
    resumed = run(make_trainer, tiny_model, tmp_path, resume=str(tmp_path / "checkpoint-3"))
    assert_bitwise(weights_of(resumed.model), weights_of(whole.model))
    other = run(make_trainer, tiny_model, tmp_path / "other", seed=8)
    assert still(weights_of(other.model), weights_of(whole.model)) == set()


def test_checkpoint_100_is_newer_than_checkpoint_20(make_trainer, tiny_model, tmp_path) -> None:
    from hf_selfdestruct.trainer.intact import last_complete

    run(make_trainer, tiny_model, tmp_path)
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "checkpoint-100")
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "checkpoint-20")
    assert last_complete(str(tmp_path)) == str(tmp_path / "checkpoint-100")


def test_resuming_from_nothing_is_an_error(make_trainer, tmp_path) -> None:
    with pytest.raises(ValueError, match="no complete checkpoint"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_resuming_from_a_plain_checkpoint_or_with_other_tasks_is_an_error(
    make_trainer, tiny_model, toy_task, tmp_path
) -> None:
    run(make_trainer, tiny_model, tmp_path)
    folder = tmp_path / "checkpoint-3"
    with pytest.raises(ValueError, match="blocked tasks and adversaries of the first run"):
        run(make_trainer, tiny_model, tmp_path, resume=str(folder), blocked_tasks=[toy_task("another")])
    (folder / STATE_FILE).unlink()
    with pytest.raises(ValueError, match=f"{STATE_FILE} is missing; the newest intact checkpoint is .*checkpoint-6"):
        run(make_trainer, tiny_model, tmp_path, resume=str(folder))


def test_going_on_otherwise_than_the_run_began_is_refused(make_trainer, tiny_model, tmp_path) -> None:
    """The report would state for all steps what is asked now, and words that were never merged as merged."""
    start = {"max_steps": 2, "save_steps": 1, "meta_gradient": "first_order"}
    run(make_trainer, tiny_model, tmp_path, **start)
    for change, told in (
        ({"learning_rate": 2e-3}, "learning_rate=0.001, and this run has 0.002"),
        ({"seed": 8}, "seed=7, and this run has 8"),
        ({"inner_steps": 3}, r"adversaries\.0\.steps=2, and this run has 3"),
        ({"adversary": {"learning_rate": 2e-3}}, r"adversaries\.0\.learning_rate=0.001, and this run has 0.002"),
        ({"meta_gradient": "unrolled"}, "meta_gradient=first_order, and this run has unrolled"),
        ({"method_options": {"merge_words": 0.5}}, "merge_words=nothing, and this run has 0.5"),
        ({"method_options": {"keep_directions": 2}}, "keep_directions=nothing, and this run has 2"),
        ({"blocking_loss": "entropy"}, r"blocking_losses\.0\."),
        ({"per_device_train_batch_size": 4}, "per_device_train_batch_size=2, and this run has 4"),
    ):
        with pytest.raises(ValueError, match=f"cannot resume from .*: it was trained with {told}.*; resume"):
            run(make_trainer, tiny_model, tmp_path, resume=True, **{**start, **change})
    longer = run(make_trainer, tiny_model, tmp_path, resume=True, **{**start, "max_steps": 3})
    assert longer.state.global_step == 3


def test_checkpoints_hold_the_stock_model(make_trainer, tiny_model, tmp_path) -> None:
    trainer = run(make_trainer, tiny_model, tmp_path)
    trainer.save_model()
    again = type(trainer.model).from_pretrained(tmp_path)
    assert_bitwise(weights_of(again), weights_of(trainer.model))
    base = type(trainer.model).from_pretrained(tmp_path / "_base")
    assert_bitwise(weights_of(base), weights_of(tiny_model(dropout=0.2)))
