"""What an attacker turns in each step: rates by layer, averaged weights, words left out, precision, patience."""

import dataclasses

import pytest
import torch
from torch import nn

from hf_selfdestruct.attacks import AnyOf, AttackSuite, Entry, FullFineTuning, ProbedFirst, Target, Trial, Tuning
from hf_selfdestruct.attacks.methods.probed_first import pooled, probed
from hf_selfdestruct.attacks.methods.step_options import Average, Precision, fewer_words, groups
from hf_selfdestruct.attacks.methods.tamper import NotApplicable, ReinitialiseEmbeddings
from hf_selfdestruct.attacks.methods.training_loop import train

SMALL = {"learning_rates": (3e-3,), "steps": (12,), "looks": 3}


def outcome(attack, target, data, **fields):
    return attack.run(
        Trial(target, data, examples=len(data.train.labels), seed=0, settings=attack.space()[0], **fields)
    )


def test_options_that_are_not_used_are_not_stated():
    """Else runs on record would not be found."""
    plain, every = (
        Tuning("x", **fields).space()[0]
        for fields in (
            {},
            {
                "layer_decay": 0.8,
                "unfreezing": 0.5,
                "average": 0.9,
                "word_dropout": 0.1,
                "patience": 5,
                "precision": "bf16",
            },
        )
    )
    assert {*every} - {*plain} == {"layer_decay", "unfreezing", "average", "word_dropout", "patience", "precision"}
    with pytest.raises(ValueError, match="layer_decay must lie in"):
        Tuning("x", layer_decay=1.1)
    with pytest.raises(ValueError, match="precision must be one of float32, bf16, fp16"):
        Tuning("x", precision="fp8")


def test_rates_fall_from_the_top_to_the_embeddings(save_model, tmp_path):
    model = Target("hardened", save_model(tmp_path, layers=3)).load(2, 0)
    weights = list(model.parameters())
    rates = {id(w): group["lr"] for group in groups(model, weights, {"learning_rate": 1.0, "layer_decay": 0.5})
             for w in group["params"]}  # fmt: skip
    assert len(rates) == len(weights)
    expected = {"embeddings": 0.125, "layer.0": 0.25, "layer.1": 0.5, "layer.2": 1.0, "pooler": 1.0, "classifier": 1.0}
    for name, weight in model.named_parameters():
        (place,) = [place for place in expected if f"{place}." in name.replace("embeddings.LayerNorm", "embeddings.x")]
        assert rates[id(weight)] == expected[place], name
    (same,) = groups(model, weights, {"learning_rate": 1.0})
    assert all(one is other for one, other in zip(same["params"], weights, strict=True))


def test_layers_join_from_the_top_to_the_embeddings(save_model, tmp_path, readable):
    """The first step of each part, written out: three layers and the embeddings join in the first 4 of 8 steps."""
    target = Target("hardened", save_model(tmp_path, layers=3))
    first = {"classifier": 1, "pooler": 2, "layer.2": 2, "layer.1": 3, "layer.0": 4, "embeddings": 5}
    attack = FullFineTuning(learning_rates=(1e-2,), steps=(8,), looks=1, unfreezing=0.5)
    whole = outcome(attack, target, readable)
    for step in range(1, 9):
        model, before = target.load(2, 0), target.load(2, 0).state_dict()
        until = dataclasses.replace(whole, curve=((step, 1.0),))
        train(model, readable.train, Trial(target, readable, 140, 0, attack.space()[0], refit=until))
        moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
        place = {name: next(p for p in first if f"{p}." in name) for name in before}
        assert {place[name] for name in moved} == {p for p, begins in first.items() if begins <= step}, step
    with pytest.raises(ValueError, match=r"unfreezing must lie in \[0, 1\]; got 2"):
        Tuning("x", unfreezing=2)


def test_an_average_is_the_mean_of_what_was_and_leaves_the_weights_alone():
    weight = nn.Parameter(torch.zeros(1))
    average, twin = Average([weight], 0.5), 0.0
    for step, value in enumerate((1.0, 3.0, -2.0), start=1):
        weight.data.fill_(value)
        average.update()
        kept = min(0.5, step / (step + 10))
        twin = kept * twin + (1 - kept) * value
    with average.in_place():
        assert weight.item() == pytest.approx(twin)
    assert weight.item() == -2.0


def test_the_better_of_the_weights_and_their_average_is_chosen_and_refitted(target, readable):
    attack = FullFineTuning(**SMALL, average=0.9)
    found = outcome(attack, target, readable)
    assert found.hits.shape[0] == 2 * len(found.curve) == 6
    assert [value for _, value in found.curve] == found.hits.reshape(3, 2, -1).mean(2).max(1).tolist()
    again = {}
    for weights in ("last", "averaged"):
        chosen = dataclasses.replace(found, found={"weights": weights}, curve=found.curve[:1])
        again[weights] = outcome(attack, target, readable, refit=chosen)
        assert again[weights].steps == 4
    assert (again["averaged"].probabilities != again["last"].probabilities).any()


def test_words_are_left_out_but_the_first_and_the_last(target, readable):
    mask = torch.ones(200, 8, dtype=torch.long)
    mask[::2, 6:] = 0
    batch = {"attention_mask": mask, "labels": torch.zeros(200)}
    torch.manual_seed(0)
    found = fewer_words(batch, 0.3)["attention_mask"]
    assert (found <= mask).all()
    assert found[:, 0].all()
    assert found[::2, 5].all()
    assert found[1::2, 7].all()
    assert (found[1::2, 1:7] == 0).float().mean().item() == pytest.approx(0.3, abs=0.06)
    with pytest.raises(NotApplicable, match="no attention_mask"):
        fewer_words({"pixel_values": mask}, 0.3)
    plain, fewer = (outcome(FullFineTuning(**SMALL, word_dropout=share), target, readable) for share in (0.0, 0.5))
    assert (plain.probabilities != fewer.probabilities).any()


def test_half_precision_changes_little(target, readable):
    plain, half = (
        outcome(ProbedFirst(**{**SMALL, "learning_rates": (1e-4,)}, precision=p), target, readable)
        for p in ("float32", "bf16")
    )
    apart = abs(plain.probabilities - half.probabilities).max()
    assert 0 < apart < 0.05


def test_half_precision_of_a_gpu_is_refused_on_a_cpu(target, readable, monkeypatch):
    monkeypatch.setattr("hf_selfdestruct.attacks.methods.training_loop.device", lambda: torch.device("cpu"))
    with pytest.raises(ValueError, match="precision='fp16' needs a CUDA device, and this is cpu: use precision='bf16'"):
        outcome(Tuning("half", **SMALL, precision="fp16"), target, readable)


def test_half_precision_of_a_gpu_is_refused_before_any_attack(monkeypatch):
    half = Tuning("half", **SMALL, precision="fp16")
    for attack in (half, AnyOf("any", (Tuning("whole", **SMALL), half))):
        suite = AttackSuite("mine", 1, (Entry(attack, (None,)),))
        monkeypatch.setattr("hf_selfdestruct.attacks.suites.attack_list.device", lambda: torch.device("cpu"))
        with pytest.raises(ValueError, match=f"suite 'mine', attack '{attack.name}': precision='fp16' needs a CUDA"):
            suite.check_fits([])
        monkeypatch.setattr("hf_selfdestruct.attacks.suites.attack_list.device", lambda: torch.device("cuda"))
        suite.check_fits([])


def test_scaled_losses_give_the_same_gradients_and_an_overflow_no_step(monkeypatch):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda _, enabled: scaler("cpu", enabled=enabled))
    weight, gradients = nn.Parameter(torch.tensor([1.0, -2.0])), []
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for name in ("float32", "fp16"):
        precision = Precision({"precision": name}, "cuda")
        for factor in (1.0, float("inf")):
            optimizer.zero_grad()
            before = weight.detach().clone()
            precision.backward((factor * weight.square()).sum(), optimizer)
            gradients.append((weight.grad / (2 * before)).tolist())
            if factor == 1.0 or name == "fp16":
                precision.step(optimizer)
            assert torch.equal(weight, before) == (factor != 1.0)
    assert gradients[0] == gradients[2] == [1.0, 1.0]


def test_training_ends_where_nothing_has_risen_for_a_third_of_it(target, noise):
    """At a rate that moves nothing the first look is the best; the floor is kept, and it ends at the next look."""
    common = {"learning_rates": (1e-12,), "schedule": "constant", "steps": (20,), "looks": 10}
    assert outcome(FullFineTuning(**common), target, noise).steps == 20
    for floor, steps in ((1, 4), (9, 10), (100, 20)):
        found = outcome(FullFineTuning(**common, patience=floor), target, noise)
        assert found.steps == steps, found.curve
        assert len({value for _, value in found.curve}) == 1


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "mix"])
def test_every_pooling_starts_where_its_probe_ends_and_is_trained(target, readable, pooling):
    attack = ProbedFirst(**SMALL, poolings=(pooling,))
    rows = readable.collate([dict(row) for row in readable.train.features[:16]])
    model, _ = probed(target.load(2, 0), readable.train, Trial(target, readable, 140, 0, {}), (pooling,))
    model.eval()(**rows).loss.backward()
    assert model.mix is None or model.mix.grad.abs().sum() > 0
    found = outcome(attack, target, readable)
    assert found.found["pooling"] == pooling
    assert pooling == "first" or found.curve[-1][1] > 0.8
    padded = {"attention_mask": torch.tensor([[1, 1, 0]])}
    states = [torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[[2.0], [6.0], [99.0]]])]
    assert pooled(states, padded, pooling).item() == {"mean": 4, "max": 6, "first": 2, "mix": 3}[pooling]


def test_the_pooling_that_probes_best_is_chosen(target, readable):
    poolings = ("first", "mean")
    chosen, _ = probed(target.load(2, 0), readable.train, Trial(target, readable, 140, 0, {}), poolings)
    assert chosen.pooling == "mean", "the first token of a random model says little of the rest"
    with pytest.raises(ValueError, match="poolings must be of mean, max, first, mix"):
        ProbedFirst(poolings=("cls",))


def test_tied_words_come_apart(target):
    model = target.load(2, 0)
    table = model.get_input_embeddings().weight.data
    table[[4, 5]] = table[[4, 5]].mean(0)
    before = table.clone()
    ReinitialiseEmbeddings(tied=True).apply(model, 0)
    assert (table[4] != table[5]).all()
    assert torch.equal(table[6:], before[6:])
    ReinitialiseEmbeddings().apply(model, 0)
    assert not (table[6:] == before[6:]).all(1).any()
