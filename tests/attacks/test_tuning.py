"""Tuning learns by every optimizer and from every set of weights, and trains what it says."""

import copy

import pytest
import torch
from transformers import ConvNextConfig, ConvNextForImageClassification

from hf_selfdestruct.attacks import Trial
from hf_selfdestruct.attacks.methods.fine_tuning import Tuning, prepare
from hf_selfdestruct.attacks.methods.optimizers import OPTIMIZERS, SignSGD
from hf_selfdestruct.attacks.methods.tamper import NotApplicable, Prune, ReinitialiseLast
from hf_selfdestruct.attacks.methods.training_loop import train

RATES = {"sgd": 0.1, "nesterov": 0.1, "adagrad": 1e-2, "adadelta": 2.0, "adafactor": 0.1, "sign": 1e-3}


def outcome(target, data, **fields):
    attack = Tuning("it", **{"learning_rates": (3e-3,), "steps": (60,), **fields})
    return attack.run(Trial(target, data, examples=140, seed=0, settings=attack.space()[0]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_what_can_be_learned(target, readable, name):
    found = outcome(target, readable, optimizers=(name,), learning_rates=(RATES.get(name, 3e-3),), steps=(120,))
    assert found.test.accuracy > 0.7
    assert found.steps == 120


@pytest.mark.parametrize("trainable", ["all", "last_1", "lora"])
def test_every_set_of_weights_learns(target, readable, trainable):
    assert outcome(target, readable, trainable=trainable, learning_rates=(1e-2,)).test.accuracy > 0.8


def test_the_same_run_gives_the_same_scores(target, readable):
    for fields in ({}, {"trainable": "lora"}, {"tamper": ReinitialiseLast()}):
        assert outcome(target, readable, **fields) == outcome(target, readable, **fields)


def test_noise_is_not_learned(target, noise):
    assert abs(outcome(target, noise).test.accuracy - 0.5) < 4 * 0.5 / 200**0.5


def trained(target, trainable):
    """Names of the weights that an optimizer step changes."""
    model = target.load(2, 0)
    prepare(model, trainable, rank=2)
    before = copy.deepcopy(dict(model.named_parameters()))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # adapters' second factor starts at 0, so the first one moves from the second step on
        optimizer.zero_grad()
        ids = torch.randint(4, 60, (8, 6), generator=generator)
        model(input_ids=ids, labels=ids[:, 0] % 2).loss.backward()
        optimizer.step()
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}, set(before)


def test_head_alone(target):
    assert trained(target, "head")[0] == {"classifier.weight", "classifier.bias"}


def test_last_layers_and_what_follows_them(target):
    moved, everything = trained(target, "last_1")
    expected = {n for n in everything if "embeddings" not in n}
    assert moved == {n for n in expected if not n.endswith("key.bias")} or moved == expected
    with pytest.raises(ValueError, match="trainable='last_2': BertForSequenceClassification has 1 layers"):
        trained(target, "last_2")


def test_adapters_and_head(target):
    moved, everything = trained(target, "lora")
    assert moved <= {n for n in everything if "lora_" in n or n.startswith("classifier")}
    assert {"classifier.weight", "classifier.bias"} <= moved
    assert sum("lora_B" in n for n in moved) == 7  # six linear layers of the only block, and the pooler


def test_settings_say_everything():
    attack = Tuning("x", ("adam", "sign"), (1e-3, 1e-2), (10,), trainable="lora", tamper=Prune(0.5))
    space = attack.space()
    assert [(s["optimizer"], s["learning_rate"]) for s in space] == [
        ("adam", 1e-3),
        ("adam", 1e-2),
        ("sign", 1e-3),
        ("sign", 1e-2),
    ]
    assert all(s["tamper"] == {"name": "Prune", "fraction": 0.5} and s["rank"] == 8 for s in space)
    with pytest.raises(ValueError, match=r"optimizers must be of .*; got adamm"):
        Tuning("x", ("adamm",))
    with pytest.raises(ValueError, match=r"last_n .*; got 'some'"):
        Tuning("x", trainable="some")


def test_sign_steps_by_hand():
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    optimizer = SignSGD([weight], lr=0.5, momentum=0.5)
    for gradient, expected in (([2.0, -1.0, 0.0], [0.5, -1.5, 3.0]), ([-3.0, 0.5, 0.0], [1.0, -1.5, 3.0])):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        torch.testing.assert_close(weight.data, torch.tensor(expected))


def test_embeddings_at_a_rate_of_their_own(target, readable):
    """The same step, with the input embeddings moved a hundred times as far and all else alike."""

    def moved(factor):
        model = target.load(2, 0)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        settings = Tuning("x", learning_rates=(1e-4,), steps=(1,), looks=1, warmup=0.0, embedding_factor=factor).space()
        rows = readable.train
        train(model, rows, Trial(target, readable, examples=len(rows.labels), seed=0, settings=settings[0]))
        return {n: (p.detach() - before[n]).abs().max().item() for n, p in model.named_parameters()}

    slow, fast = moved(1.0), moved(100.0)
    table = next(n for n in slow if "word_embeddings" in n)
    assert fast[table] == pytest.approx(100 * slow[table], rel=0.02)
    assert all(fast[n] == pytest.approx(slow[n], abs=1e-6) for n in slow if n != table)


def test_faster_embeddings_that_are_not_there(target, readable):
    with pytest.raises(NotApplicable, match="no input embeddings are trained"):
        outcome(target, readable, trainable="head", embedding_factor=10.0)
    with pytest.raises(ValueError, match="embedding_factor must be positive; got -1"):
        Tuning("x", embedding_factor=-1)


def test_adapters_pass_depthwise_convolutions_by():
    """Their groups have no room for a rank; a model with nothing else takes no adapters."""
    config = ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, num_labels=2)
    model = ConvNextForImageClassification(config)
    prepare(model, "lora", rank=4)
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if "lora_" in name and p.requires_grad}
    assert any("pwconv" in name for name in adapted)
    assert not [name for name in adapted if "dwconv" in name]
