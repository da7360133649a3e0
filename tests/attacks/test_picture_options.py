"""What an attacker of image classifiers turns in each step: statistics of batch normalisation, moved pictures."""

import dataclasses
import itertools

import pytest
import torch
from picture_cases import pictures_of
from torch import nn
from toy_models import tiny_model, toy_pictures
from transformers import default_data_collator

from hf_selfdestruct.attacks import FullFineTuning, ProbedFirst, Target, Trial, Tuning
from hf_selfdestruct.attacks.methods.benign import heal
from hf_selfdestruct.attacks.methods.picture_options import moved
from hf_selfdestruct.attacks.methods.tamper import NotApplicable, batch_norms
from hf_selfdestruct.attacks.methods.training_loop import train

SMALL = {"learning_rates": (3e-3,), "steps": (6,), "looks": 2}


@pytest.fixture(scope="module")
def pictures():
    return pictures_of(40)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A network with batch normalisation, of which pictures moved the statistics away from 0 and 1."""
    folder, model = tmp_path_factory.mktemp("resnet"), tiny_model("resnet").float().train()
    model(torch.cat([torch.tensor(row["pixel_values"])[None] for row in toy_pictures(20, seed=8)]))
    model.save_pretrained(folder)
    return Target("hardened", str(folder))


def trial_of(attack, target, data, **fields):
    return Trial(target, data, examples=len(data.train.labels), seed=0, settings=attack.space()[0], **fields)


def test_options_that_are_not_used_are_not_stated():
    """Else runs on record would not be found."""
    assert not {"batch_norm", "crops"} & {*Tuning("x").space()[0]}
    assert {"batch_norm": "stored", "crops": 2}.items() <= Tuning("x", batch_norm="stored", crops=2).space()[0].items()
    for wrong, got in (({"batch_norm": "eval"}, "'eval' and 0"), ({"crops": -1}, "'batch' and -1")):
        with pytest.raises(ValueError, match=f"batch_norm must be batch or stored, crops 0 or more; got {got}"):
            Tuning("x", **wrong)


# Batch normalisation


def parts_of(model):
    """Statistics and weights of every batch normalisation."""
    norms = batch_norms(model)
    buffers = [value.clone() for norm in norms for value in norm.buffers()]
    return buffers, [value.detach().clone() for norm in norms for value in norm.parameters()]


def same(one, other):
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("batch_norm", ["batch", "stored"])
def test_stored_statistics_stay_and_those_of_batches_move_while_weights_are_trained(seeing, pictures, batch_norm):
    attack = FullFineTuning(**SMALL, batch_norm=batch_norm)
    model = seeing.load(2, 0)
    statistics, weights = parts_of(model)
    train(model, pictures.train, trial_of(attack, seeing, pictures))
    found, trained = parts_of(model)
    assert {*same(statistics, found)} == {batch_norm == "stored"}
    assert not any(same(weights, trained))


@pytest.mark.parametrize("batch_norm", ["batch", "stored"])
def test_benign_steps_go_by_the_same_statistics(seeing, pictures, batch_norm):
    model = seeing.load(2, 0)
    statistics, weights = parts_of(model)
    attack = FullFineTuning(**SMALL, batch_norm=batch_norm, prelude=2)
    heal(model, pictures, 0, attack.space()[0])
    found, trained = parts_of(model)
    assert {*same(statistics, found)} == {batch_norm == "stored"}
    assert not all(same(weights, trained))


def test_a_step_by_stored_statistics_is_that_of_a_model_in_eval_mode(seeing, pictures):
    """One step of SGD, written out; the network has no dropout, by which the modes would differ too."""
    rate = 1e-2
    attack = FullFineTuning(
        optimizers=("sgd",), learning_rates=(rate,), steps=(1,), looks=1, warmup=0.0, schedule="constant",
        batch_size=len(pictures.train.labels), batch_norm="stored",
    )  # fmt: skip
    model, twin = seeing.load(2, 0), seeing.load(2, 0).eval()
    train(model, pictures.train, trial_of(attack, seeing, pictures))
    twin(**default_data_collator([dict(row) for row in pictures.train.features])).loss.backward()
    nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    for (name, weight), other in zip(twin.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(other.data, weight.data - rate * weight.grad, msg=name)


def test_without_batch_normalisation_there_are_no_stored_statistics(target, readable, pictures, tmp_path):
    tiny_model("vit").float().save_pretrained(tmp_path)
    for model, data in ((target, readable), (Target("hardened", str(tmp_path)), pictures)):
        attack = FullFineTuning(**SMALL, batch_norm="stored")
        with pytest.raises(NotApplicable, match="batch_norm='stored': the model has no batch normalisation"):
            attack.run(trial_of(attack, model, data))


# Moved pictures


def candidates(picture, most):
    """All that may become of one picture, by torch's own padding: every shift, as it is and flipped."""
    _, height, width = picture.shape
    padded = nn.functional.pad(picture[None], (most,) * 4, mode="reflect")[0]
    for top, left in itertools.product(range(2 * most + 1), repeat=2):
        shown = padded[:, top : top + height, left : left + width]
        yield from (shown, shown.flip(-1))


@pytest.mark.parametrize("most", [1, 2])
def test_pictures_are_shifted_and_flipped_as_padding_and_cutting_would(most):
    pixels, labels = torch.randn(1, 2, 5, 7).expand(600, -1, -1, -1), torch.arange(600)
    torch.manual_seed(0)
    found = moved({"pixel_values": pixels, "labels": labels}, most)
    assert torch.equal(found["labels"], labels)
    known = list(candidates(pixels[0], most))
    counts = [sum(torch.equal(picture, one) for picture in found["pixel_values"]) for one in known]
    assert sum(counts) == 600, "nothing else may come of a picture"
    assert min(counts) > 0, "everything that can come of it does"


def test_every_picture_is_moved_by_itself():
    """Rows of one batch stay apart, and each shows pixels of its own alone."""
    pixels = torch.arange(32.0)[:, None, None, None] * 1000 + torch.rand(32, 3, 6, 6)
    torch.manual_seed(0)
    found = moved({"pixel_values": pixels}, 3)["pixel_values"]
    for before, after in zip(pixels, found, strict=True):
        for old, new in zip(before, after, strict=True):
            assert {*new.flatten().tolist()} <= {*old.flatten().tolist()}
    assert not torch.equal(moved({"pixel_values": pixels}, 3)["pixel_values"], found), "drawn anew"


def test_what_is_no_picture_or_too_small_is_not_moved():
    with pytest.raises(NotApplicable, match="crops=2: the batch has no pixel_values of four dimensions"):
        moved({"input_ids": torch.ones(2, 5)}, 2)
    with pytest.raises(NotApplicable, match="no pixel_values"):
        moved({"pixel_values": torch.ones(2, 5, 5)}, 2)
    with pytest.raises(NotApplicable, match="crops=5: pictures of 5 x 7 pixels are too small"):
        moved({"pixel_values": torch.ones(2, 3, 5, 7)}, 5)


@pytest.mark.parametrize("of", [FullFineTuning, ProbedFirst])
def test_each_option_changes_the_run_and_a_seed_repeats_it(of, seeing, pictures):
    found = {}
    for options in ({}, {"batch_norm": "stored"}, {"crops": 3}, {"batch_norm": "stored", "crops": 3}):
        attack = of(**SMALL, **options)
        once, again = (attack.run(trial_of(attack, seeing, pictures)).probabilities for _ in range(2))
        assert (once == again).all()
        found[str(options)] = once.tobytes()
    assert len({*found.values()}) == 4


def test_a_refit_moves_its_pictures_too(seeing, pictures):
    plain, cropped = (FullFineTuning(**SMALL, crops=crops) for crops in (0, 3))
    chosen = dataclasses.replace(cropped.run(trial_of(cropped, seeing, pictures)), curve=((6, 1.0),))
    answers = [
        attack.run(trial_of(attack, seeing, pictures, refit=chosen)).probabilities for attack in (plain, cropped)
    ]
    assert (answers[0] != answers[1]).any()
