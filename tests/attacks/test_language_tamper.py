"""What is done to a language model's weights first: directions ablated, prompts trained, differences stripped."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from toy_language import DESIRED, language_model, language_rows, language_task
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM, default_data_collator

from hf_selfdestruct.attacks import AttackData, Target, Trial, Tuning
from hf_selfdestruct.attacks.methods.batches import averaged
from hf_selfdestruct.attacks.methods.directions import AblateDirections, mean_states, project_out, spanned, writing
from hf_selfdestruct.attacks.methods.general import desired_texts
from hf_selfdestruct.attacks.methods.sibling import Distillation, Merging, StripDelta
from hf_selfdestruct.attacks.methods.soft_prompts import Prompted, SoftPrompt
from hf_selfdestruct.attacks.methods.tamper import Chain, NotApplicable, Quantize, ShrinkAndPerturb, layers_of
from hf_selfdestruct.tasks.classification import CLASSIFICATION
from hf_selfdestruct.tasks.language_modeling import LANGUAGE_MODELING

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
def test_no_layer_adds_to_any_direction(made):
    """What each part of a layer writes has no share in a direction found at any layer, and other matrices stay."""
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
    for name, direction in itertools.product(layers, apart):
        for linear in writing(model.base_model.get_submodule(name), 16):
            given = linear(torch.randn(5, 32 if "mlp" in str(linear) else linear.weight.numel() // 16))
            assert (given @ direction).abs().max() < 1e-4 * given.norm() * direction.norm()


def test_the_first_layer_no_longer_tells_them_apart_by_it():
    """Of the difference along the direction only that of the embeddings is left, which pass the layer by."""
    model = language_model()
    kinds = [inputs(0, 7)], [inputs(1, DESIRED)]
    layers = layers_of(model.base_model)[:1]

    def apart():
        one, other = (mean_states(model, layers, batches)[0] for batches in kinds)
        return one - other

    direction = torch.nn.functional.normalize(apart(), dim=0)
    for linear in writing(model.base_model.get_submodule(layers[0]), 16):
        project_out(linear, direction[None])
    table = model.get_input_embeddings().weight.detach()
    words = [averaged(table[batch["input_ids"]], batch).mean(0) for (batch,) in kinds]
    left, passed = (torch.dot(difference, direction).item() for difference in (apart(), words[0] - words[1]))
    assert left == pytest.approx(passed, abs=1e-5)


def test_directions_of_several_layers_are_taken_once():
    one, other = torch.eye(4)[:2]
    directions = spanned(torch.stack([one, 3 * one, 1e-3 * (one + other), 0 * one]))
    torch.testing.assert_close(directions.T @ directions, torch.diag(one + other))


def test_a_mixture_of_experts_is_not_ablated():
    """Else its experts would go on writing the directions."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = MixtralForCausalLM(MixtralConfig(**sizes, vocab_size=42, num_key_value_heads=1, num_local_experts=2))
    with pytest.raises(NotApplicable, match="what MixtralSparseMoeBlock writes is not that of one linear layer"):
        AblateDirections().apply(model, 0, [inputs(0, 7)], [inputs(1, DESIRED)])


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


def rows_and_prompted(made):
    torch.manual_seed(3)
    model = made().eval()
    rows = default_data_collator(LANGUAGE_MODELING.padded([*map(dict, language_rows(6, 1))]))
    return model, rows, Prompted(model, 3).eval()


@pytest.mark.parametrize("made", [language_model, gpt2])
def test_a_prompt_of_tokens_is_those_tokens(made):
    """A soft prompt that is the embeddings of tokens gives what these tokens before the row give, padded or not."""
    model, rows, prompted = rows_and_prompted(made)
    written = torch.tensor([5, 6, 7])
    prompted.prompt.data = model.get_input_embeddings().weight[written].detach().clone()
    found = prompted(**rows)
    for i, mask in enumerate(rows["attention_mask"].bool()):
        row, labels = rows["input_ids"][i][mask], rows["labels"][i][mask]
        logits = model(torch.cat([written, row])[None]).logits[0, 3:]
        torch.testing.assert_close(found.logits[i][mask], logits, atol=1e-5, rtol=1e-4)
        here = labels[1:] != -100
        loss = torch.nn.functional.cross_entropy(logits[:-1][here], labels[1:][here])
        alone = prompted(row[None], labels=torch.cat([row[:1], labels[1:]])[None])
        assert alone.loss.item() == pytest.approx(loss.item(), abs=1e-5)


def test_a_prompt_leaves_out_columns_of_tokens_and_refuses_others():
    _, rows, prompted = rows_and_prompted(language_model)
    found = prompted(**rows)
    more = {name: torch.ones_like(rows["input_ids"]) for name in ("token_type_ids", "position_ids")}
    assert torch.equal(prompted(**rows, **more).logits, found.logits)
    with pytest.raises(NotApplicable, match="does not go before rows with pixel_values"):
        prompted(**rows, **more, pixel_values=torch.ones(6, 3, 8, 8))


def test_a_prompt_alone_is_trained(pair, data):
    _, rows, prompted = rows_and_prompted(language_model)
    prompted(**rows).loss.backward()
    assert {name for name, weight in prompted.named_parameters() if weight.grad is not None} == {"prompt"}
    attack = SoftPrompt(tokens=4, learning_rates=(1e-9, 0.3), steps=(30,))
    still, trained = (outcome(attack, pair, data, at=i) for i in range(2))
    assert trained.selection.score > still.selection.score + 0.005
    assert len(trained.general) == 3
    assert attack.fits(LANGUAGE_MODELING)
    assert not attack.fits(CLASSIFICATION)


def test_a_prompt_that_finds_no_place_is_not_tried(tmp_path, data):
    gpt2().save_pretrained(tmp_path)
    with pytest.raises(NotApplicable, match="a prompt of 30 tokens before rows of 14: GPT2LMHeadModel has 32 places"):
        outcome(SoftPrompt(tokens=30, steps=(1,)), Target("hardened", str(tmp_path)), data)
    with pytest.raises(ValueError, match="tokens must be at least 1; got 0"):
        SoftPrompt(tokens=0)


def test_a_language_model_is_taught_by_its_sibling(pair, data):
    assert outcome(Distillation(distil_steps=3, steps=2), pair, data).steps == 5
