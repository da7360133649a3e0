"""An adapter merged into stock modules is trained as PEFT trains the same one beside frozen modules."""

import copy

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from toy_models import ARCHITECTURES, tiny_model, toy_batch, toy_images
from trainer_state import assert_bitwise, weights_of

from hf_selfdestruct.models.merged_adapter import MergedAdapter, take_up

TARGETS = {"resnet": ["convolution"], "distilbert": ["q_lin", "lin1"]}  # PEFT adapts no head that it saves


def batch_for(architecture, seed):
    if architecture not in ("vit", "resnet"):
        return toy_batch(seed=seed, label="labels")
    return {n: v.float() if v.is_floating_point() else v for n, v in toy_images(seed=seed).items()}


def settings(architecture, **more):
    return LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS.get(architecture, "all-linear"), **more)


def theirs_like(ours, model, config):
    """PEFT's model around the same base, with the same matrices."""
    peft = get_peft_model(copy.deepcopy(model), copy.deepcopy(config)).eval()
    named = {n.replace(".default", "").replace(".modules_to_save", ""): p for n, p in peft.named_parameters()}
    for name, value in ours._matrices().items():
        named[f"base_model.model.{name.replace('.default', '')}"].data.copy_(value)
    return peft


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "vit", "resnet"])
def test_trained_as_peft_trains_it(architecture, tmp_path):
    model, config = tiny_model(architecture).eval(), settings(architecture, task_type="SEQ_CLS")
    if architecture in ("vit", "resnet"):
        config.task_type, config.modules_to_save = None, ["classifier"]
    base, start = copy.deepcopy(model), weights_of(model)
    ours = MergedAdapter(model, config, 0)
    assert_bitwise(weights_of(model), start)
    theirs = theirs_like(ours, base, config)
    one, other = (torch.optim.SGD([p for p in part.parameters() if p.requires_grad], lr=0.3) for part in (ours, theirs))
    for step in range(3):
        batch = batch_for(architecture, step)
        for module, optimizer in ((model, one), (theirs, other)):
            module(**batch).loss.backward()
            if module is model:
                ours.gather()
            optimizer.step()
            if module is model:
                ours.spread()
            module.zero_grad()
    batch = batch_for(architecture, 9)
    torch.testing.assert_close(model(**batch).logits, theirs(**batch).logits, atol=1e-5, rtol=1e-4)
    assert (model(**batch).logits - base.eval()(**batch).logits).abs().max() > 1e-2  # it trained at all
    ours.save(tmp_path, "somewhere")
    again = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    torch.testing.assert_close(model(**batch).logits, again(**batch).logits, atol=1e-5, rtol=1e-4)


def test_only_a_change_of_low_rank_is_made():
    model = tiny_model()
    adapter, start = MergedAdapter(model, settings("bert"), 0), weights_of(model)
    optimizer = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=0.1)
    for step in range(4):
        model(**toy_batch(seed=step)).loss.backward()
        adapter.gather()
        assert all(model.get_parameter(f"{name}.weight").grad is None for name in adapter._weights)
        optimizer.step()
        adapter.spread()
    changes = {n: w - start[n] for n, w in weights_of(model).items() if not torch.equal(w, start[n])}
    assert changes.keys() == {f"{name}.weight" for name in adapter._weights}
    assert max(int(torch.linalg.matrix_rank(change, rtol=1e-4)) for change in changes.values()) == 2


def test_a_state_goes_on_from_its_own_base_alone():
    def made(seed=0, **more):
        return MergedAdapter(tiny_model(seed=seed), settings("bert", **more), 0)

    moved = made()
    for value in moved._matrices().values():
        value.data.add_(torch.rand_like(value))
    state = moved.adapter_state()
    again = made()
    assert take_up(again, {**state, "other": torch.zeros(1)}).keys() == {"other"}
    again.spread(), moved.spread()
    assert_bitwise(again.adapter_state(), state)
    for adapter, fault in (
        (made(seed=1), r"changes another base \(bert\..* differs\); resume with the model"),
        (made(rank_pattern={"query": 1}), "contains another adapter; resume with the peft_config="),
        (None, "contains an adapter, unlike this run"),
    ):
        with pytest.raises(ValueError, match=fault):
            take_up(adapter, state)
    with pytest.raises(ValueError, match="contains no adapter, unlike this run"):
        take_up(made(), {})


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (LoHaConfig(), "peft_config must be a peft.LoraConfig, got LoHaConfig"),
        (settings("bert", lora_dropout=0.1), r"lora_dropout=0.1 is not possible.*leave it at 0.0"),
        (settings("bert", use_dora=True), "use_dora=True is not possible"),
        (settings("bert", bias="all"), "bias='all' is not possible.*leave it at 'none'"),
        (settings("bert", init_lora_weights="pissa"), "'pissa' starts with other weights.*use True or 'gaussian'"),
        (LoraConfig(target_modules=["nowhere"]), "nowhere"),
    ],
)
def test_what_no_merged_adapter_has_is_refused(config, fault):
    with pytest.raises((TypeError, ValueError), match=fault):
        MergedAdapter(tiny_model(), config, 0)


def test_two_names_of_one_weight_are_refused():
    model = tiny_model("gpt2")
    model.score.weight = model.transformer.h[0].attn.c_proj.weight = model.transformer.h[1].attn.c_proj.weight
    with pytest.raises(ValueError, match=r"h.1.attn.c_proj and .*h.0.attn.c_proj are one weight|are one weight"):
        MergedAdapter(model, LoraConfig(target_modules=["c_proj"]), 0)
