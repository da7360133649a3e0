"""Selective edits: nothing along general directions, a KL within the budget, and more lost than by plain ascent."""

from __future__ import annotations

import logging

import pytest
import torch
from datasets import Dataset
from toy_language import DESIRED, language_model, language_rows, language_task
from toy_models import tiny_model, toy_task
from trainer_state import assert_bitwise, weights_of
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, default_data_collator

from hf_selfdestruct import HardeningConfig, HardeningObjective
from hf_selfdestruct.erasure import selective_ascent as subject
from hf_selfdestruct.erasure.selective_ascent import blocked_loss, divergence, mlp_layers, moments, selector
from hf_selfdestruct.tasks.language_modeling import LANGUAGE_MODELING

BUDGET = 0.02


def batch_of(rows):
    return default_data_collator(LANGUAGE_MODELING.padded([dict(row) for row in rows]))


@pytest.fixture(scope="module")
def trained():
    """A model that knows both languages, and batches of the blocked and of the desired one."""
    model = language_model()
    blocked, general = language_rows(160, 2), language_rows(160, 1, DESIRED)
    both = [batch_of([*blocked.select(range(i, i + 20)), *general.select(range(i, i + 20))]) for i in range(0, 160, 20)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(120):
        model(**both[step % len(both)]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, [batch_of(blocked.select(range(60)))], [batch_of(general.select(range(60)))]


def ascent(trained, **settings):
    model, blocked, general = trained
    return subject.selective_ascent(model, blocked, general, **{"steps": 20, "budget": BUDGET, "seed": 0, **settings})


def loss_of(trained, weights):
    with torch.no_grad():
        return blocked_loss(trained[0], weights, trained[1]).item()


def test_the_selector_is_the_inverse_without_the_strongest_directions():
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    strengths = torch.tensor([9.0, 7, 5, 4, 3, 2, 1, 0.5], dtype=torch.float64)
    found = turn.T @ selector(turn * strengths @ turn.T, share=0.25, damping=0.0) @ turn
    torch.testing.assert_close(found, torch.diag(torch.cat([torch.zeros(2).double(), 1 / strengths[2:]])))
    assert torch.isfinite(selector(torch.zeros(3, 3))).all()


def test_moments_are_those_of_one_place_after_the_other(trained):
    """Of the inputs; the output gradients are those of tokens that the model itself thinks likely."""
    model, _, (general,) = trained
    seen = []
    layer = model.model.layers[1].mlp.down_proj
    handle = layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model.eval()(input_ids=general["input_ids"], attention_mask=general["attention_mask"])
    handle.remove()
    inputs, outputs = moments(model, [general])["model.layers.1.mlp.down_proj.weight"]
    places = [seen[0][row, place] for row, place in general["attention_mask"].nonzero().tolist()]
    torch.testing.assert_close(inputs, sum(torch.outer(one, one) for one in places), rtol=1e-4, atol=1e-4)
    assert torch.linalg.eigvalsh(outputs.double()).min() > -1e-6 * outputs.diagonal().max()


def test_nothing_moves_along_the_strongest_general_directions(trained):
    model, _, general = trained
    edited, sides = ascent(trained), moments(model, general, 0)
    assert {*edited} == {*mlp_layers(model)}
    for name, weight in edited.items():
        edit = (weight - model.get_parameter(name)).double()
        assert edit.norm() > 1e-3
        for moment, moved in zip(sides[name], (edit, edit.T), strict=True):
            strongest = torch.linalg.eigh(moment.double())[1][:, -(len(moment) // 4) :]
            assert (moved @ strongest).norm() < 1e-5 * edit.norm()
            assert (moved @ torch.linalg.eigh(moment.double())[1][:, : len(moment) // 4]).norm() > 0.1 * edit.norm()


def test_the_blocked_loss_rises_within_the_budget_and_more_than_by_plain_ascent(trained, monkeypatch):
    model, _, general = trained
    before, start = weights_of(model), loss_of(trained, {})
    found = ascent(trained)
    assert_bitwise(weights_of(model), before)
    assert BUDGET / 4 < divergence(model, found, general) <= BUDGET
    gain = loss_of(trained, found) - start
    monkeypatch.setattr(subject, "selector", lambda moment: torch.eye(len(moment), dtype=torch.float64))
    plain = ascent(trained)
    assert divergence(model, plain, general) <= BUDGET
    assert gain > 1.2 * (loss_of(trained, plain) - start) > 0


def test_without_a_budget_nothing_changes(trained):
    found = ascent(trained, budget=0.0)
    assert all(torch.equal(weight, trained[0].get_parameter(name)) for name, weight in found.items())


def test_layers_whose_weights_lie_the_other_way_round_are_edited_alike():
    """Those of GPT-2, by one step along the gradient itself."""
    sizes = {"vocab_size": 42, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=40))
    rows = [batch_of(language_rows(30, 2))], [batch_of(language_rows(30, 1, DESIRED))]
    found = subject.selective_ascent(model, *rows, steps=1, budget=1.0)
    start, after = (blocked_loss(model, weights, rows[0]).item() for weights in ({}, found))
    assert {name.rpartition("mlp.")[2] for name in found} == {"c_fc.weight", "c_proj.weight"}
    assert after > start


def test_rows_that_a_model_has_flattened_by_itself_are_edited_alike():
    """OPT's MLPs read places in a row, without the dimension of the batch."""
    sizes = {"vocab_size": 42, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=16, max_position_embeddings=16, pad_token_id=0))
    rows = [batch_of(language_rows(30, 2))], [batch_of(language_rows(30, 1, DESIRED))]
    found = subject.selective_ascent(model, *rows, steps=1, budget=1.0)
    start, after = (blocked_loss(model, weights, rows[0]).item() for weights in ({}, found))
    assert {name.rpartition("layers.0.")[2] for name in found} == {"fc1.weight", "fc2.weight"}
    assert after > start


def objective_of(model, tasks, **settings):
    rows = language_rows(64, 1, DESIRED)
    options = {"collate": lambda rows: batch_of([{"labels": row["input_ids"], **row} for row in rows])}
    config = HardeningConfig(**{"method": "repselect", "blocking_batch_size": 8, **settings})
    return HardeningObjective(model, config, tasks, desired=rows, **options)


def test_the_preset_edits_before_training_and_the_sibling_does_not(trained, caplog):
    model, before = trained[0], weights_of(trained[0])
    objective = objective_of(model, [language_task()], method_options={"selective_steps": 2})
    with caplog.at_level(logging.WARNING):
        objective.prepare(model)
    assert "selective edits raised the blocked loss from" in caplog.text
    changed = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
    assert changed == {*mlp_layers(model)}
    model.load_state_dict(before)
    objective.without_blocking(model).prepare(model)
    assert_bitwise(weights_of(model), before)


def test_what_cannot_be_edited_is_refused_when_it_is_made():
    options = {"method": "mlac_fast", "method_options": {"selective_steps": 1}}
    with pytest.raises(ValueError, match="published head, which blocked task 'blocked', a classification"):
        HardeningObjective(
            tiny_model(),
            HardeningConfig(**options),
            [toy_task()],
            collate=default_data_collator,
            desired=Dataset.from_dict({"a": [1]}),
        )
    model = language_model()
    for name, weight in model.named_parameters():
        weight.requires_grad_("mlp" not in name)
    with pytest.raises(ValueError, match=r"no linear layers that are trained .* or unfreeze them"):
        objective_of(model, [language_task()])
    config = HardeningConfig(method="repselect", blocking_batch_size=8)
    with pytest.raises(ValueError, match="general rows: give keep_dataset="):
        HardeningObjective(language_model(), config, [language_task()], collate=default_data_collator)
