"""Keeping losses in training: what is kept, resumed, guarded."""

from __future__ import annotations

import logging

import pytest
import torch
from datasets import Dataset
from kept_models import built, unlabelled
from transformers import AutoModel, BertForMaskedLM, BertModel, GPT2LMHeadModel, default_data_collator

from hf_selfdestruct.losses.keeping import (
    EmbeddingDistillation,
    HiddenStateDistillation,
    LanguageModeling,
    LogitDistillation,
)


def language_rows(toy_rows, seed: int = 70) -> Dataset:
    data = unlabelled(toy_rows, seed=seed)
    labels = [
        [t if m else -100 for t, m in zip(*row, strict=True)]
        for row in zip(data["input_ids"], data["attention_mask"], strict=True)
    ]
    return data.add_column("labels", labels)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def drift(model, original, batch) -> float:
    with torch.no_grad():
        here, there = (m.eval()(**batch).last_hidden_state for m in (model, original))
    return ((here - there).square().mean() / there.square().mean()).item()


def test_keeping_keeps(make_trainer, tiny_model, toy_rows, toy_batch, tmp_path) -> None:
    """The same hardening with and without keeping losses, on rows that neither has seen."""
    batch = {n: v for n, v in toy_batch(40, seed=99).items() if n != "labels"}
    found = {}
    for weight in (1e-6, 30.0):
        model = built(BertModel, tiny_model)
        original = built(BertModel, tiny_model)
        trainer = make_trainer(
            tmp_path,
            model=model,
            train_dataset=unlabelled(toy_rows),
            eval_dataset=unlabelled(toy_rows, seed=61),
            keeping_losses=[HiddenStateDistillation(), EmbeddingDistillation()],
            keeping_weight=weight,
            max_steps=15,
            learning_rate=3e-3,
        )
        trainer.train()
        found[weight] = drift(model, original, batch)
        losses = [entry["keeping_loss"] for entry in trainer.state.log_history if "keeping_loss" in entry]
        assert len(losses) == 15
    assert 0 < found[30.0] < found[1e-6] / 3


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("mode", ["exact", "first_order"])
def test_a_bare_trunk_is_hardened_by_keeping_losses_alone(
    make_trainer, tiny_model, toy_rows, tmp_path, architecture, mode
) -> None:
    model = AutoModel.from_config(tiny_model(architecture, dropout=0.1).config)
    trainer = make_trainer(
        tmp_path,
        model=model,
        meta_gradient=mode,
        train_dataset=unlabelled(toy_rows),
        eval_dataset=unlabelled(toy_rows, seed=61),
        keeping_losses=[HiddenStateDistillation()],
    )
    before = weights_of(model)
    assert trainer.evaluate()["eval_loss"] < 1e-10  # nothing has moved yet
    trainer.train()
    still = {n for n, value in before.items() if torch.equal(value, dict(model.named_parameters())[n])}
    assert {n for n in still if not n.endswith("key.bias")} <= {"pooler.dense.weight", "pooler.dense.bias"} - set(
        before if architecture == "bert" else ()
    )
    assert trainer.evaluate()["eval_loss"] > 1e-10
    # Noise is no distance: before the first step there is none, dropout or not.
    losses = [entry["keeping_loss"] for entry in trainer.state.log_history if "keeping_loss" in entry]
    assert losses[0] < 1e-9 < losses[1]
    trainer.save_model()
    saved = AutoModel.from_pretrained(tmp_path)
    assert not [n for n, p in saved.named_parameters() if not torch.equal(p, dict(model.named_parameters())[n])]


@pytest.mark.parametrize("kind", [BertForMaskedLM, GPT2LMHeadModel])
def test_a_language_model_keeps_its_own_loss(make_trainer, tiny_model, toy_rows, tmp_path, kind) -> None:
    architecture = "bert" if kind is BertForMaskedLM else "gpt2"
    model = built(kind, tiny_model, architecture)
    trainer = make_trainer(
        tmp_path,
        model=model,
        train_dataset=language_rows(toy_rows),
        eval_dataset=language_rows(toy_rows, seed=71),
        keep_dataset=language_rows(toy_rows, seed=72),
        keeping_losses=[LogitDistillation(), LanguageModeling(weight=0.5)],
    )
    before = weights_of(model)
    trainer.train()
    assert not {n for n, v in before.items() if torch.equal(v, weights_of(model)[n]) and not n.endswith("key.bias")}
    entry = trainer.state.log_history[0]
    assert entry["desired_loss"] > 1
    assert entry["keeping_loss"] > 0.5
    assert entry["meta_grad_norm"] > 1e-6
    (skeletons,) = trainer.objective.simulator._skeletons.values()
    assert {type(s.module).__name__ for s in skeletons.values()} == {
        kind.__name__.replace("MaskedLM", "Sequence").replace("LMHeadModel", "ForSequence").replace("ForForS", "ForS")
        + "Classification"
    }


def test_a_language_model_may_collapse(make_trainer, tiny_model, toy_rows, tmp_path) -> None:
    """Its collator labels tokens, its adversary's head answers for whole rows."""
    rows = unlabelled(toy_rows)
    trainer = make_trainer(
        tmp_path,
        model=built(BertForMaskedLM, tiny_model),
        train_dataset=rows,
        eval_dataset=rows,
        method="ctrap",
        data_collator=lambda found: {**(batch := default_data_collator(found)), "labels": batch["input_ids"]},
    )
    trainer.train()
    assert trainer.state.log_history[0]["blocking_loss"] > 0.1


def test_the_original_is_frozen_where_it_was(make_trainer, tiny_model, toy_rows, toy_batch, tmp_path) -> None:
    model = tiny_model(dropout=0.2)
    trainer = make_trainer(
        tmp_path,
        model=model,
        keeping_losses=[LogitDistillation()],
        keep_dataset=unlabelled(toy_rows),
        learning_rate=1e-2,
    )
    batch = toy_batch()
    start = trainer.objective.keeper._original(batch).logits.clone()
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, start)
    trainer.train()
    assert torch.equal(trainer.objective.keeper._original(batch).logits, start)
    assert not torch.equal(model.eval()(**batch).logits, start)
    assert not [
        p for p in trainer.objective.keeper._original._model.parameters() if p.requires_grad or p.grad is not None
    ]


def test_the_keeping_gradient_adds_up(make_trainer, tiny_model, toy_rows, toy_data, tmp_path) -> None:
    """Total gradient = desired + keeping_weight * (on the desired batch + on the rows to keep), by hand."""
    loss = HiddenStateDistillation()
    trainer = make_trainer(
        tmp_path, keeping_losses=[loss], keep_dataset=unlabelled(toy_rows), blocking_weight=0.0, keeping_weight=0.7
    )
    model = trainer.model
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    inputs = next(iter(trainer.get_train_dataloader()))
    model.train()
    trainer.training_step(model, dict(inputs))
    found = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    trainer.objective.simulator._last = (-1, 0)
    key = trainer.objective.simulator.draw(0).key
    kept = trainer.objective.keeper._rows.draw(4, "keep", *key)
    total = model.train()(**inputs).loss
    for batch in (inputs, kept):
        plain = {n: v for n, v in batch.items() if n != "labels"}
        ours = model.eval()(**plain, output_hidden_states=True)
        theirs = trainer.objective.keeper._original(plain)
        total = total + 0.7 * loss(ours, theirs, plain)
    total.backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(found[n], p.grad, rtol=1e-4, atol=1e-7)


def test_resuming_with_keeping_losses_and_a_guard_is_bitwise(make_trainer, tiny_model, toy_rows, tmp_path) -> None:
    def run(folder, resume=None):
        trainer = make_trainer(
            folder,
            model=tiny_model(dropout=0.2),
            keeping_losses=[HiddenStateDistillation(), LogitDistillation()],
            keep_dataset=unlabelled(toy_rows),
            max_desired_drop=1e-6,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=3,
            max_steps=6,
            learning_rate=1e-2,
            blocking_weight=20.0,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path)
    factors = [entry["blocking_factor"] for entry in whole.state.log_history if "blocking_factor" in entry]
    assert len(set(factors)) > 1
    resumed = run(tmp_path, str(tmp_path / "checkpoint-3"))
    assert resumed.guard == whole.guard
    ends = weights_of(whole.model), weights_of(resumed.model)
    assert not [n for n in ends[0] if not torch.equal(ends[0][n], ends[1][n])]


def test_the_guard_lowers_the_blocking_weight_and_says_so(make_trainer, tmp_path, caplog) -> None:
    arguments = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "max_steps": 12,
        "learning_rate": 2e-2,
        "blocking_weight": 200.0,
        "blocking_losses": None,
    }
    with caplog.at_level(logging.WARNING, logger="hf_selfdestruct.trainer.checkpoints"):
        guarded = make_trainer(tmp_path, max_desired_drop=0.01, **arguments)
        guarded.train()
    assert "blocking weight backs off to 0.5" in caplog.text
    factors = [entry["blocking_factor"] for entry in guarded.state.log_history if "blocking_factor" in entry]
    assert factors[0] == 1
    assert min(factors) < 0.5
    assert guarded.guard.best <= min(e["eval_loss"] for e in guarded.state.log_history if "eval_loss" in e) + 1e-9
    assert "eval_loss" in guarded.state.log_history[0]  # the start is read before the first step


def test_an_evaluation_after_training_does_not_move_the_guard(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, max_desired_drop=10.0, eval_strategy="steps", eval_steps=1)
    trainer.train()
    state = trainer.guard.state_dict()
    trainer.evaluate()
    assert trainer.guard.state_dict() == state
