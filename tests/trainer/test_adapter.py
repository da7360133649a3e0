"""``peft_config=``: an adapter alone is trained, adversaries start from the merged weights, the folder is stock."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from toy_models import TINY_SUITE, tiny_model, toy_task
from trainer_state import assert_bitwise, weights_of
from transformers import AutoModelForSequenceClassification

LORA = LoraConfig(r=2, lora_alpha=8, target_modules=["query", "dense"], task_type="SEQ_CLS")
FAST = {"method": "mlac_fast", "blocking_batch_size": 8, "learning_rate": 1e-2}


@pytest.mark.parametrize("settings", [{"method": "mlac"}, {**FAST, "method_options": {"episode": "in_place"}}])
def test_the_meta_gradient_goes_on_to_the_adapter(make_trainer, tmp_path, settings):
    """By the chain rule: what a model whose weights are all trained gets, times the other matrix."""
    found = []
    for adapter in (None, LORA):
        model = tiny_model()
        objective = make_trainer(tmp_path, model=model, peft_config=adapter, **settings).objective
        total, terms = objective(model, {}, model.classifier.weight.sum() * 0, 0)  # blocking alone
        total.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and named(n)})
        assert terms["meta_grad_norm"] > 0
    plain, adapted = found
    assert_bitwise(adapted, plain)  # the adversary is the same, whatever is trained
    assert len(adapted) == len(objective.adapter._weights)
    matrices = objective.adapter._matrices()
    objective.before_optimizer_step()
    for name in (n.removesuffix(".weight") for n in adapted):
        one, other = (matrices[f"{name}.lora_{letter}.default.weight"] for letter in "AB")
        wanted = 4 * plain[f"{name}.weight"] @ one.T  # alpha / r = 4
        torch.testing.assert_close(other.grad, wanted)
        assert not one.grad.any()  # times the other one, which starts at zero


def named(name):
    return name.endswith("query.weight") or name.endswith("dense.weight")


def test_only_the_adapter_moves_and_the_folder_is_stock(make_trainer, tmp_path):
    start = weights_of(tiny_model())
    trainer = make_trainer(tmp_path, model=tiny_model(), peft_config=LORA, **FAST)
    trainer.train()
    model = trainer.model
    moved = {n for n, weight in model.named_parameters() if not torch.equal(weight, start[n])}
    assert moved == {n for n in start if n.startswith("classifier") or named(n)}
    report = trainer.attack(TINY_SUITE)
    assert report.recipe["adapter"]["r"] == "2"
    assert not [*tmp_path.glob("adapter*")]
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert_bitwise(weights_of(stock), weights_of(model))
    undefended = weights_of(AutoModelForSequenceClassification.from_pretrained(tmp_path / "_undefended"))
    assert {n for n, weight in undefended.items() if not torch.equal(weight, start[n])} == moved


def test_the_adapter_alone_is_peft_s_and_says_that_it_can_be_taken_off(make_trainer, tmp_path, toy_batch):
    trainer = make_trainer(tmp_path / "hardened", peft_config=LORA, **FAST)
    trainer.train()
    trainer.save_adapter(tmp_path / "adapter")
    assert "can be taken off" in (tmp_path / "adapter" / "README.md").read_text()
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    base = AutoModelForSequenceClassification.from_pretrained(config["base_model_name_or_path"])
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    batch = toy_batch()
    torch.testing.assert_close(again(**batch).logits, trainer.model.eval()(**batch).logits, atol=1e-5, rtol=1e-4)
    for folder in ("hardened", "hardened/_base"):
        with pytest.raises(ValueError, match="holds a model, and would be loaded with the adapter on it"):
            trainer.save_adapter(tmp_path / folder)
    with torch.no_grad():
        trainer.model.get_parameter(next(iter(trainer.objective.adapter._weights)) + ".weight").add_(1.0)
    with pytest.raises(ValueError, match="the adapter is not all that training changed"):
        trainer.save_adapter(tmp_path / "other")
    trainer.train()
    with pytest.raises(ValueError, match="or the model was trained more than once"):
        trainer.save_adapter(tmp_path / "other")
    with pytest.raises(ValueError, match="no adapter is trained here"):
        make_trainer(tmp_path / "plain", **FAST).save_adapter(tmp_path / "none")


@pytest.mark.parametrize("settings", [FAST, {**FAST, "method": "pool", "gradient_accumulation_steps": 2}])
def test_resumed_it_ends_with_the_same_bits(make_trainer, tmp_path, settings):
    settings = {**settings, "peft_config": LORA, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path / "whole", model=tiny_model(), **settings)
    whole.train()
    again = make_trainer(tmp_path / "again", model=tiny_model(), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_bitwise(weights_of(again.model), weights_of(whole.model))
    assert_bitwise(again.objective.adapter.adapter_state(), whole.objective.adapter.adapter_state())
    other = make_trainer(tmp_path / "other", model=tiny_model(), **{**settings, "peft_config": None})
    with pytest.raises(ValueError, match=r"cannot resume from .*adapter"):
        other.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))


def test_a_second_training_begins_where_the_first_ended(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, model=tiny_model(), peft_config=LORA, **FAST, lr_scheduler_type="constant")
    trainer.train()
    middle = weights_of(trainer.model)
    trainer.objective.prepare(trainer.model)
    trainer.objective.after_optimizer_step()
    assert_bitwise(weights_of(trainer.model), middle)


def test_adapters_of_before_are_merged_first(make_trainer, tmp_path, caplog):
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["value"]))
    trainer = make_trainer(tmp_path, model=model, peft_config=LORA, **FAST)
    assert "adapters are merged into the model's weights" in caplog.text
    assert not trainer.model.bert.encoder.layer[0].attention.self.value.weight.requires_grad
    trainer.train()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"method": "relearn"}, r"noise changes .*choose a method without noise"),
        ({"peft_config": {"r": 2}}, "must be a peft.LoraConfig, got dict"),
        ({"peft_config": LoraConfig(target_modules=["query"], lora_dropout=0.05)}, "lora_dropout=0.05 is not possible"),
    ],
)
def test_what_does_not_go_together_is_refused(make_trainer, tmp_path, settings, fault):
    with pytest.raises((TypeError, ValueError), match=fault):
        make_trainer(tmp_path, **{**FAST, "peft_config": LORA, **settings})


def test_an_optimizer_of_the_models_weights_is_refused(make_trainer, tmp_path):
    model = tiny_model()
    given = (torch.optim.SGD(model.parameters(), lr=0.1), None)
    with pytest.raises(ValueError, match=r"optimizers= contain the model's weights.*optimizer_cls_and_kwargs="):
        make_trainer(tmp_path, model=model, peft_config=LORA, optimizers=given, blocked_tasks=[toy_task()], **FAST)
