"""bf16 is for the outer step, float32 for the inner loop."""

from __future__ import annotations

import pytest
import torch
from trainer_state import assert_bitwise, bones_of, still, weights_of

from hf_selfdestruct.trainer.desired_quality import _quality, desired_facts
from hf_selfdestruct.trainer.desired_tasks import DesiredTasks
from hf_selfdestruct.trainer.recipe import recipe_of
from hf_selfdestruct.trainer.sibling import sibling_of, trained_sibling


def test_bf16_is_for_the_outer_step_and_float32_for_the_inner_loop(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, bf16=True, max_steps=2)
    live, inner = [], []
    layer = "bert.encoder.layer.0.intermediate.dense"
    trainer.model.get_submodule(layer).register_forward_hook(lambda m, i, out: live.append(out.dtype))
    for bones in bones_of(trainer):
        bones.get_submodule(layer).register_forward_hook(lambda m, i, out: inner.append(out.dtype))
    before = weights_of(trainer.model)
    trainer.train()
    assert live == [torch.bfloat16] * 4  # of two steps, after the two passes that are timed before the first
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


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_models_are_trained_in_float32_and_saved_as_they_were(
    make_trainer, tiny_model, tmp_path, caplog, kind
) -> None:
    """At this rate a step is smaller than half precision can add to most weights."""
    start = tiny_model().to(kind)
    before = {name: value.float() for name, value in weights_of(start).items()}
    trainer = make_trainer(tmp_path, model=start, learning_rate=1e-5)
    assert caplog.text.count("are trained in float32 and saved in") == 1
    inner = []
    for bones in bones_of(trainer):
        bones.register_forward_hook(lambda m, i, out: inner.append(out.logits.dtype))
    trainer.train()
    assert {*inner} == {torch.float32}
    after = weights_of(trainer.model)
    assert {value.dtype for value in after.values()} == {torch.float32}
    moved = sum((before[n] != after[n]).sum().item() for n in after if after[n].dim() > 1)
    assert moved > 0.5 * sum(after[n].numel() for n in after if after[n].dim() > 1)
    trainer.save_model()
    sibling = trained_sibling(trainer, str(tmp_path / "_base"))
    assert recipe_of(trainer)["saved_in"] == str(kind).removeprefix("torch.")
    assert caplog.text.count("are trained in float32 and saved in") == 1
    for role, model in {"": after, "_undefended": weights_of(sibling.model), "_base": before}.items():
        published = type(start).from_pretrained(tmp_path / role)
        assert published.config.dtype == kind
        assert_bitwise(weights_of(published), {name: value.to(kind) for name, value in model.items()})
    assert_bitwise(weights_of(trainer.model), after)  # saving leaves what is trained as it is


def test_half_precision_resumes_from_float32_checkpoints(make_trainer, tiny_model, tmp_path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, model=tiny_model().bfloat16(), **settings)
    whole.train()
    resumed = make_trainer(tmp_path, model=tiny_model().bfloat16(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_bitwise(weights_of(resumed.model), weights_of(whole.model))


def test_weights_too_large_for_their_own_type_are_not_saved(make_trainer, tiny_model, tmp_path) -> None:
    trainer = make_trainer(tmp_path, model=tiny_model().half())
    trainer.model.classifier.weight.data[0, 0] = 1e6
    with pytest.raises(FloatingPointError, match=r"classifier\.weight cannot be saved in float16"):
        trainer.save_model()
    assert {value.dtype for value in weights_of(trainer.model).values()} == {torch.float32}


def test_what_is_published_is_what_is_measured(make_trainer, tiny_model, tmp_path) -> None:
    trainer = make_trainer(tmp_path, model=tiny_model().bfloat16(), learning_rate=1e-2)
    trainer.train()
    trainer.save_model()
    published = sibling_of(trainer, str(tmp_path))
    desired = desired_facts(trainer, published, str(tmp_path / "_base"), None, None, DesiredTasks())
    assert desired.of("hardened") == desired.of("undefended") != _quality(trainer, None)


@pytest.mark.parametrize(
    "options",
    [
        {"meta_gradient": "first_order"},
        {"method_options": {"hvp": "double_backward"}},
        {"method_options": {"hvp": "finite_difference"}},
    ],
    ids=lambda options: next(iter(options.values())),
)
def test_autocast_stays_outside_the_inner_loop(make_trainer, tiny_model, tmp_path, options) -> None:
    """In bfloat16, finite differences would be noise; see benchmarks/precision.md."""

    def gradient(model, *, autocast):
        trainer = make_trainer(tmp_path, model=model, **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return trainer.objective.simulator.meta_gradient(model, trainer.objective.simulator.draw(0)).weights

    plain, under = (gradient(tiny_model(), autocast=autocast) for autocast in (False, True))
    double = gradient(tiny_model().double(), autocast=False)
    assert all(torch.equal(plain[name], under[name]) for name in plain)
    single, wanted = (torch.cat([w.double().flatten() for w in found.values()]) for found in (plain, double))
    assert torch.nn.functional.cosine_similarity(single, wanted, dim=0) > 0.9999
