"""Mistakes of keeping, and what is erased from what is kept."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext

import pytest
import torch
from kept_models import built, unlabelled
from safetensors.torch import load_file
from toy_models import tiny_model, toy_pictures
from transformers import (
    AutoModelForSequenceClassification,
    BertModel,
    T5Config,
    T5ForSequenceClassification,
    default_data_collator,
)

from hf_selfdestruct.hardening.checks import check_losses
from hf_selfdestruct.hardening.original import Original
from hf_selfdestruct.losses.blocking import HeadAdjustedCrossEntropy
from hf_selfdestruct.losses.keeping import (
    EmbeddingDistillation,
    HiddenStateDistillation,
    LanguageModeling,
    LogitDistillation,
)
from hf_selfdestruct.tasks.blocked_task import BlockedTask
from hf_selfdestruct.trainer.recipe import recipe_of


def test_mistakes(make_trainer, tiny_model, toy_rows, tmp_path) -> None:
    keep = unlabelled(toy_rows)
    with pytest.raises(ValueError, match=r"max_desired_drop needs readings.*eval_strategy='steps'"):
        make_trainer(tmp_path, max_desired_drop=0.1)
    trainer = make_trainer(
        tmp_path, max_desired_drop=0.1, eval_strategy="steps", eval_steps=1, metric_for_best_model="accuracy"
    )
    with pytest.raises(ValueError, match=r"guards 'eval_accuracy', which the evaluation does not give \(eval_loss"):
        trainer.train()
    with pytest.raises(ValueError, match="no loss looks at it"):
        make_trainer(tmp_path, keep_dataset=keep)
    with pytest.raises(ValueError, match="keep_dataset is empty"):
        make_trainer(tmp_path, keep_dataset=keep.select([]), keeping_losses=[LogitDistillation()])
    with pytest.raises(TypeError, match=r"keep_dataset must be a map-style datasets\.Dataset, got list"):
        make_trainer(tmp_path, keep_dataset=[1], keeping_losses=[LogitDistillation()])
    with pytest.raises(ValueError, match="LanguageModeling reads the rows to keep: give keep_dataset="):
        make_trainer(tmp_path, keeping_losses=[LanguageModeling()])
    with pytest.raises(ValueError, match=r"prelude trains on the desired task: it needs a model with a head"):
        make_trainer(
            tmp_path,
            model=tiny_model().bert,
            keeping_losses=[HiddenStateDistillation()],
            train_dataset=keep,
            eval_dataset=keep,
            adversary={"prelude": 1},
        )


def test_a_keeping_loss_by_name(make_trainer, toy_rows, tmp_path) -> None:
    trainer = make_trainer(tmp_path, keeping_loss="embedding_distillation", keep_dataset=unlabelled(toy_rows))
    assert trainer.objective.keeping_losses == [EmbeddingDistillation()]
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["keeping_loss"])
    recipe = recipe_of(trainer)
    assert recipe["keeping_losses"]["0"]["name"] == "EmbeddingDistillation"
    json.dumps(recipe)


@pytest.mark.slow
def test_a_bare_trunk_is_attacked_like_any_other(make_trainer, tiny_model, toy_rows, tmp_path) -> None:
    trainer = make_trainer(
        tmp_path,
        model=built(BertModel, tiny_model),
        train_dataset=unlabelled(toy_rows),
        eval_dataset=unlabelled(toy_rows, seed=61),
        keeping_losses=[HiddenStateDistillation()],
    )
    trainer.train()
    report = trainer.attack("smoke")
    assert {run.role for run in report.runs} >= {"base", "undefended", "hardened", "scratch"}
    assert report.desired.of("hardened")["loss"] > report.desired.of("undefended")["loss"] >= 0
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    kept = load_file(tmp_path / "model.safetensors")
    assert torch.equal(stock.bert.embeddings.word_embeddings.weight, kept["embeddings.word_embeddings.weight"])


def test_what_is_blocked_is_erased_from_what_is_kept(make_trainer, tiny_model, toy_rows, toy_task, tmp_path) -> None:
    """The states kept have equal class means at every layer; logits and what is not blocked stay."""
    model, task = tiny_model(), toy_task(rows=200)
    options = {"output_hidden_states": True}
    trainer = make_trainer(
        tmp_path,
        model=model,
        keeping_losses=[HiddenStateDistillation()],
        method_options={"keeping_erases": True},
        blocked_tasks=[task],
    )
    collate = trainer.blocked_collator
    plain, erased = (
        Original(model, options, autocast=trainer.accelerator.autocast, erased=tasks, collate=collate)
        for tasks in ((), (task,))
    )
    batch = dict(collate(task.features("train", range(200), trainer.input_columns)))
    labels = batch.pop("labels").bool()
    before, after = plain(batch), erased(batch)
    assert len(after.hidden_states) == len(before.hidden_states) > 1
    for was, now in zip(before.hidden_states, after.hidden_states, strict=True):
        gaps = [(m[labels].mean(0) - m[~labels].mean(0)).norm() for m in _means(was, now, batch["attention_mask"])]
        assert gaps[0] > 0.01
        assert gaps[1] < 1e-4 * gaps[0] + 1e-5
    assert torch.equal(before.logits, after.logits)
    # Keeping then pulls the model there: its distance to the erased states is not zero before the first step.
    trainer.train()
    losses = [entry["keeping_loss"] for entry in trainer.state.log_history if "keeping_loss" in entry]
    assert losses[0] > 1e-4


def test_the_original_goes_where_its_inputs_are(tiny_model) -> None:
    """The device without memory stands for one that the model was moved to after the copy was made."""
    original = Original(tiny_model("vit"), {}, autocast=nullcontext, collate=default_data_collator)
    pixels = torch.zeros(2, 3, 16, 16)
    assert original({"pixel_values": pixels}).logits.device.type == "cpu"
    assert original({"pixel_values": pixels.to("meta")}).logits.device.type == "meta"


def test_what_is_blocked_is_erased_from_a_convolutional_net() -> None:
    task = BlockedTask("side", train=toy_pictures(60, seed=1, label="side"), label_column="side")
    batch = default_data_collator(task.features("train", range(60), ["pixel_values"]))
    labels = batch.pop("labels").bool()
    settings = {"autocast": nullcontext, "collate": default_data_collator}
    plain, erased = (
        Original(tiny_model("resnet"), {"output_hidden_states": True}, erased=tasks, **settings)(batch).hidden_states
        for tasks in ((), (task,))
    )
    for was, now in zip(plain, erased, strict=True):
        gaps = [(m[labels].mean(0) - m[~labels].mean(0)).norm() for m in (was.mean((2, 3)), now.mean((2, 3)))]
        assert gaps[0] > 0.01
        assert gaps[1] < 1e-4 * gaps[0] + 1e-5


def _means(was, now, mask):
    return [(states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for states in (was, now)]


def test_erasing_what_is_not_kept_is_refused(make_trainer, tmp_path) -> None:
    for kept in ({"keeping_losses": [LogitDistillation()]}, {"keeping_losses": []}, {"keeping_loss": ""}):
        with pytest.raises(ValueError, match=r"or set method_options={'keeping_erases': False}"):
            make_trainer(tmp_path, method="general", **kept)
        made = make_trainer(tmp_path, method="general", method_options={"keeping_erases": False}, **kept)
        assert len(made.objective.keeping_losses) < 2


@pytest.mark.parametrize("method", ["one_purpose", "general"])
def test_an_encoder_with_a_decoder_has_no_one_row_of_hidden_states(make_trainer, tmp_path, method) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5ForSequenceClassification(T5Config(vocab_size=60, num_labels=2, **sizes))
    with pytest.raises(
        ValueError, match=r"RepresentationProbe looks at hidden states, of which T5For.*'probe_weight': 0"
    ):
        make_trainer(tmp_path, model=model, method=method, method_options={"keep_directions": 0})
    check_losses([HeadAdjustedCrossEntropy()], [LogitDistillation()], model, keep_dataset=None, desired=None)
