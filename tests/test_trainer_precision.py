"""bf16 is for the outer step, float32 for the inner loop."""

from __future__ import annotations

import pytest
import torch
from trainer_state import bones_of, still, weights_of


def test_bf16_is_for_the_outer_step_and_float32_for_the_inner_loop(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, bf16=True, max_steps=2)
    live, inner = [], []
    layer = "bert.encoder.layer.0.intermediate.dense"
    trainer.model.get_submodule(layer).register_forward_hook(lambda m, i, out: live.append(out.dtype))
    for bones in bones_of(trainer):
        bones.get_submodule(layer).register_forward_hook(lambda m, i, out: inner.append(out.dtype))
    before = weights_of(trainer.model)
    trainer.train()
    assert live == [torch.bfloat16] * 2
    assert inner == [torch.float32] * 2 * (3 * 2 + 1)  # forwards, Hessian-vector products, and K + 1 readings
    assert still(before, weights_of(trainer.model)) == set()
    assert all(value.dtype == torch.float32 for value in weights_of(trainer.model).values())
    first = trainer.state.log_history[0]
    full = make_trainer(tmp_path, max_steps=1)
    full.train()
    exact = full.state.log_history[0]
    assert first["desired_loss"] != exact["desired_loss"]
    assert first["desired_loss"] == pytest.approx(exact["desired_loss"], rel=2e-2)
    assert first["blocking_loss"] == exact["blocking_loss"]
    assert first["meta_grad_norm"] == exact["meta_grad_norm"]


def test_bf16_weights_take_part_in_the_inner_loop_in_float32(make_trainer, tiny_model, tmp_path) -> None:
    trainer = make_trainer(tmp_path, model=tiny_model().bfloat16(), learning_rate=1e-2)
    inner = []
    for bones in bones_of(trainer):
        bones.register_forward_hook(lambda m, i, out: inner.append(out.logits.dtype))
    before = weights_of(trainer.model)
    trainer.train()
    assert inner
    assert set(inner) == {torch.float32}
    after = weights_of(trainer.model)
    assert {value.dtype for value in after.values()} == {torch.bfloat16}
    assert {n for n in still(before, after) if before[n].dim() > 1} == set()


@pytest.mark.parametrize(
    "options",
    [{"meta_gradient": "first_order"}, {"hvp": "double_backward"}, {"hvp": "finite_difference"}],
    ids=lambda options: next(iter(options.values())),
)
def test_autocast_stays_outside_the_inner_loop(make_trainer, tiny_model, tmp_path, options) -> None:
    """In bfloat16, finite differences would be noise; see benchmarks/precision.md."""

    def gradient(model, *, autocast):
        trainer = make_trainer(tmp_path, model=model, **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return trainer.simulation.meta_gradient(model, trainer.simulation.draw(0)).weights

    plain, under = (gradient(tiny_model(), autocast=autocast) for autocast in (False, True))
    double = gradient(tiny_model().double(), autocast=False)
    assert all(torch.equal(plain[name], under[name]) for name in plain)
    single, wanted = (torch.cat([w.double().flatten() for w in found.values()]) for found in (plain, double))
    assert torch.nn.functional.cosine_similarity(single, wanted, dim=0) > 0.9999
