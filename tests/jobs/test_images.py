"""Image classifiers are hardened through the same trainer, batch statistics untouched by the adversary."""

from __future__ import annotations

import pytest
import torch
from toy_models import tiny_model, toy_pictures
from transformers import CLIPConfig, CLIPForImageClassification, default_data_collator

from hf_selfdestruct.models import heads
from hf_selfdestruct.tasks.blocked_task import BlockedTask


def image_trainer(make_trainer, folder, model, **arguments):
    task = BlockedTask(
        "side",
        train=toy_pictures(40, seed=1, label="side"),
        attack=toy_pictures(30, seed=2, label="side"),
        label_column="side",
        num_labels=2,
    )
    return make_trainer(
        folder,
        model=model,
        train_dataset=toy_pictures(16, seed=3),
        eval_dataset=toy_pictures(8, seed=4),
        blocked_tasks=[task],
        data_collator=default_data_collator,
        remove_unused_columns=False,
        **arguments,
    )


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
@pytest.mark.parametrize("mode", ["exact", "first_order"])
def test_image_classifiers_train(make_trainer, tmp_path, architecture, mode) -> None:
    model = tiny_model(architecture, num_labels=3)
    trainer = image_trainer(make_trainer, tmp_path, model, meta_gradient=mode)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    trainer.objective.simulator.meta_gradient(model, trainer.objective.simulator.draw(0))
    assert not [n for n, b in model.named_buffers() if not torch.equal(b, buffers[n])]
    trainer.objective.simulator._last = (-1, 0)
    trainer.train()
    assert not [
        n for n, p in model.named_parameters() if torch.equal(p, before[n]) and not n.endswith("attention.key.bias")
    ]
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["meta_grad_norm"] > 1e-5 for entry in entries)


def test_a_classifier_whose_trunk_has_no_name_is_no_bare_trunk(make_trainer, tmp_path) -> None:
    """To transformers CLIP's is its own base model; with as many blocked classes as desired its head looks like it."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPForImageClassification(CLIPConfig(vision_config=vision, text_config=sizes, num_labels=2))
    assert model.base_model is model
    assert heads.head_names(model) == ["classifier.weight", "classifier.bias"]
    for trainable in ("head", "lora", "all"):
        trainer = image_trainer(make_trainer, tmp_path, model, adversary={"trainable": trainable})
        assert {*next(iter(trainer.objective.simulator.learned.values())).head} == {
            "classifier.weight",
            "classifier.bias",
        }
        assert not [n for n in trainer.objective.simulator.published if "classifier" in n]
        trainer.train()
        assert trainer.state.log_history[0]["desired_loss"] > 1e-3  # its own, and no keeping loss
        assert trainer.state.log_history[0]["meta_grad_norm"] > 1e-6


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_a_resumed_run_goes_on_bitwise(make_trainer, tmp_path, architecture) -> None:
    """The files of ViT name its layers otherwise than the model does."""

    def trained(folder, *, resume=None):
        model = tiny_model(architecture, num_labels=3, dropout=0.1 if architecture == "vit" else 0.0)
        trainer = image_trainer(make_trainer, folder, model, max_steps=4, save_steps=2, save_strategy="steps")
        trainer.train(resume_from_checkpoint=resume)
        return {n: value.detach().clone() for n, value in trainer.model.state_dict().items()}

    whole = trained(tmp_path)
    again = trained(tmp_path, resume=str(tmp_path / "checkpoint-2"))
    assert [n for n in whole if not torch.equal(whole[n], again[n])] == []


def test_the_best_model_is_loaded_whole(make_trainer, tmp_path) -> None:
    trainer = image_trainer(
        make_trainer,
        tmp_path,
        tiny_model("vit", num_labels=3),
        max_steps=2,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=1,
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        learning_rate=0.3,  # the second step makes it worse
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    best = type(trainer.model).from_pretrained(trainer.state.best_model_checkpoint).state_dict()
    found = trainer.model.state_dict()
    assert [n for n in best if not torch.equal(best[n], found[n])] == []


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_half_precision_weights_are_hardened_under_autocast(make_trainer, tmp_path, architecture) -> None:
    """Pictures come in float32, transformers loads such weights as they are, and a net's statistics are half too."""
    trainer = image_trainer(
        make_trainer,
        tmp_path,
        tiny_model(architecture, num_labels=2).bfloat16(),
        bf16=True,
        keeping_loss="hidden_state_distillation",
        method_options={"keeping_erases": True},
    )
    trainer.train()
    assert all(entry["meta_grad_norm"] > 1e-5 for entry in trainer.state.log_history if "loss" in entry)
