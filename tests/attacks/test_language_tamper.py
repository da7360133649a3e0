"""What is done to a language model's weights first: directions ablated, prompts trained, differences stripped."""

from __future__ import annotations

import copy

import pytest
import torch
from toy_language import DESIRED, language_model, language_rows, language_task
from transformers import GPT2Config, GPT2LMHeadModel, default_data_collator

from hf_selfdestruct.attacks import AttackData, Target, Trial, Tuning
from hf_selfdestruct.attacks.methods.directions import AblateDirections, mean_states, project_out, writing
from hf_selfdestruct.attacks.methods.general import desired_texts
from hf_selfdestruct.attacks.methods.sibling import Distillation, Merging, StripDelta
from hf_selfdestruct.attacks.methods.tamper import Chain, NotApplicable, Quantize, ShrinkAndPerturb, layers_of

COLUMNS = ["input_ids", "attention_mask"]


@pytest.fixture(scope="module")
def data():
    desired = desired_texts(language_rows(30, 8, DESIRED), language_rows(20, 9, DESIRED), COLUMNS)
    return AttackData.of(language_task(), COLUMNS, default_data_collator, desired=desired)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A hardened model and its sibling, with different random weights."""
    folder = tmp_path_factory.mktemp("languages")
    for seed, name in enumerate(("hardened", "undefended")):
        language_model(seed=seed).save_pretrained(folder / name)
    return Target("hardened", str(folder / "hardened"), sibling=str(folder / "undefended"))


def outcome(attack, target, data, at=0):
    return attack.run(Trial(target, data, 42, 0, attack.space()[at]))


def gpt2():
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 42}
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))


def inputs(seed, jump):
    rows = language_rows(8, seed, jump, longest=10)
    return {name: torch.tensor(rows[name][:]) for name in COLUMNS}


@pytest.mark.parametrize("made", [language_model, gpt2])
def test_no_layer_adds_to_its_direction(made):
    """What each part of a layer writes has no share in the direction that was found, and other matrices stay."""
    model = made()
    batches, benign = [inputs(0, 7)], [inputs(1, DESIRED)]
    layers = layers_of(model.base_model)
    apart = [a - b for a, b in zip(*(mean_states(model, layers, one) for one in (batches, benign)), strict=True)]
    before = copy.deepcopy(model.state_dict())
    AblateDirections().apply(model, 0, batches, benign)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    ends = ("o_proj.weight", "down_proj.weight", "c_proj.weight", "c_proj.bias")
    assert {name for name in changed if not name.endswith(ends)} == set()
    assert len([name for name in changed if name.endswith("weight")]) == 4
    for name, direction in zip(layers, apart, strict=True):
        for linear in writing(model.base_model.get_submodule(name), 16):
            given = linear(torch.randn(5, 32 if "mlp" in str(linear) else linear.weight.numel() // 16))
            assert (given @ direction).abs().max() < 1e-4 * given.norm() * direction.norm()


def test_the_first_layer_no_longer_tells_them_apart_by_it():
    """Of a layer whose parts write nothing else, nothing of the difference is left but what the embeddings say."""
    model = language_model()
    batches, benign = [inputs(0, 7)], [inputs(1, DESIRED)]
    layers = layers_of(model.base_model)[:1]
    before = [mean_states(model, layers, one)[0] for one in (batches, benign)]
    direction = torch.nn.functional.normalize(before[0] - before[1], dim=0)
    table = model.get_input_embeddings()
    for linear in writing(model.base_model.get_submodule(layers[0]), 16):
        project_out(linear, direction)
    with torch.no_grad():
        embedded = [(table(one["input_ids"]) * one["attention_mask"][..., None]).sum(1) for one in (batches[0], benign[0])]
        words = [
            (states / one["attention_mask"].sum(1, keepdim=True)).mean(0)
            for states, one in zip(embedded, (batches[0], benign[0]), strict=True)
        ]
    after = [mean_states(model, layers, one)[0] for one in (batches, benign)]
    left, said = (torch.dot(one - other, direction) for one, other in (after, words))
    assert left == pytest.approx(said.item(), abs=1e-5)


def test_directions_need_benign_rows_and_layers():
    attack = Tuning("ablated", tamper=Chain((AblateDirections(), Quantize(8))))
    assert attack.needs == {"desired"}
    assert "rows of the desired task" in attack.assumes
    assert attack.fitting(frozenset()) is None
    with pytest.raises(NotApplicable, match="no layer of LlamaForCausalLM was read"):
        AblateDirections().apply(language_model(), 0)


@pytest.mark.parametrize("tamper", [AblateDirections(), Quantize(8), Quantize(4), ShrinkAndPerturb()])
@pytest.mark.parametrize("tied", [False, True])
def test_a_shaken_language_model_can_be_tuned(tmp_path, data, tamper, tied):
    language_model(tied=tied).save_pretrained(tmp_path)
    attack = Tuning("shaken", tamper=tamper, learning_rates=(1e-2,), steps=(30,), prelude=4)
    plain = Tuning("plain", learning_rates=(1e-9,), steps=(1,), looks=1)
    target = Target("hardened", str(tmp_path))
    assert outcome(attack, target, data).test.score > outcome(plain, target, data).test.score + 0.5


@pytest.mark.parametrize("attack", [Merging(steps=1, learning_rates=(1e-9,)), StripDelta((99,), steps=1)])
def test_the_head_is_taken_from_the_sibling_too(pair, data, attack):
    """Merged wholly, or stripped of all that differs, a language model answers as its sibling does."""
    plain = Tuning("plain", learning_rates=(1e-9,), steps=(1,), looks=1)
    sibling = outcome(plain, Target("undefended", pair.sibling), data)
    settings = {**attack.space()[-1], "learning_rate": 1e-9}
    found = attack.run(Trial(pair, data, 42, 0, settings))
    assert found.test.score == pytest.approx(sibling.test.score, abs=1e-4)
    assert found.test.score != outcome(plain, pair, data).test.score


def test_a_language_model_is_taught_by_its_sibling(pair, data):
    assert outcome(Distillation(distil_steps=3, steps=2), pair, data).steps == 5
