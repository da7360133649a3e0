"""New heads are drawn as their architecture initialises them."""

from __future__ import annotations

import pytest
import torch
from head_cases import EVERY, HEADLESS, everything, made
from torch import nn
from toy_models import tiny_config, tiny_model
from transformers import BertForSequenceClassification

from hf_selfdestruct.models import heads

# Drawing


@pytest.mark.parametrize("name", [*EVERY, *HEADLESS])
def test_drawn_heads_depend_on_the_seed_alone(name) -> None:
    bones = heads.skeleton(tiny_model(name) if name in EVERY else made(name), 5)
    names = heads.head_names(bones)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    one = heads.draw(bones, names, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    junk = [torch.full((64, 64), 7.0) for _ in range(50)]  # what an uninitialised tensor might pick up
    del junk
    again, other = heads.draw(bones, names, 3), heads.draw(bones, names, 4)
    assert list(one) == names
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not any(torch.equal(one[n], other[n]) for n in one if one[n].dim() > 1)
    assert all(not value.requires_grad and value.device.type == "cpu" for value in one.values())
    assert all(value.is_meta for value in everything(bones).values())  # the skeleton itself gets no weights


def test_drawing_seeds_no_gpu(monkeypatch) -> None:
    bones, seeded = heads.skeleton(tiny_model(), 5), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    heads.draw(bones, heads.head_names(bones), 3)
    assert seeded == []


@pytest.mark.parametrize("name", EVERY)
def test_drawn_heads_are_distributed_as_the_architecture_initialises_them(name) -> None:
    bones = heads.skeleton(tiny_model(name, hidden=128, layers=2 if name == "resnet" else 1), 40)
    fresh = type(bones)(bones.config)
    drawn = heads.draw(bones, heads.head_names(bones), 0)
    for part in heads.head_names(fresh):
        expected = fresh.get_parameter(part).detach()
        if expected.std() > 0:
            close = 0.1 if expected.dim() > 1 else 0.4  # a bias has 40 numbers only
            assert drawn[part].std().item() == pytest.approx(expected.std().item(), rel=close), part
            assert abs(drawn[part].mean().item()) < close * expected.std().item(), part
        else:
            assert torch.equal(drawn[part], expected), part


def test_drawn_weights_go_where_they_are_wanted() -> None:
    bones = heads.skeleton(tiny_model(), 5)
    drawn = heads.draw(bones, heads.head_names(bones), 0, device="meta")
    assert all(value.is_meta for value in drawn.values())
    assert heads.draw(bones, [], 0) == {}


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(5))


class ForgetfulBert(BertForSequenceClassification):
    """Its head has a weight that ``_init_weights`` does not know."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.scaled = Scaled()


def test_a_weight_that_nobody_initialises_is_refused() -> None:
    bones = heads.skeleton(ForgetfulBert(tiny_config("bert")), 2)
    with pytest.raises(ValueError, match=r"ForgetfulBert does not initialise scaled.scale;"):
        heads.draw(bones, heads.head_names(bones), 0)
