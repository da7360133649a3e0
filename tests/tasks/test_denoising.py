"""Denoising as a blocked task: fixed noise, scores by hand, what is refused, and a meta-gradient that is exact."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the lowest supported versions of the libraries are too old for diffusers")

from datasets import Dataset
from toy_diffusion import KIND, SCHEDULER, TIMESTEPS, denoising_task, toy_pictures, toy_unet
from toy_models import tiny_model
from transformers import default_data_collator

from hf_selfdestruct import HardeningConfig, HardeningObjective
from hf_selfdestruct.hardening.draw import Draw
from hf_selfdestruct.losses import DenialOfService, ExplainedNoise
from hf_selfdestruct.models.denoiser import Denoiser
from hf_selfdestruct.tasks.denoising import Denoising, noise_of, noised_rows

COLUMNS = ("pixel_values", "timestep", "labels")
LOSSES = (ExplainedNoise(),)


def batch_of(task, rows=range(8), split="test"):
    return default_data_collator(task.features(split, [*rows], COLUMNS))


def answers_of(model, batch):
    with torch.no_grad():
        return KIND.answers(model(batch["pixel_values"], batch["timestep"]).logits, batch["labels"]).numpy()


def objective_of(model, *, task=None, losses=LOSSES, **settings):
    usual = {"method": "pool", "inner_steps": 2, "blocking_batch_size": 4}
    adversary = {"head": "keep", "batch_size": 4, **settings.pop("adversary", {})}
    return HardeningObjective(
        model,
        HardeningConfig(**{**usual, **settings}, adversary=adversary),
        [task or denoising_task()],
        collate=default_data_collator,
        losses=losses,
    )


def test_rows_are_noised_as_diffusers_does():
    task = denoising_task()
    batch, rows = batch_of(task), task.test.with_format("torch")[:8]
    noise = torch.stack([noise_of(int(seed), (1, 4, 4)) for seed in rows["noise"]])
    expected = SCHEDULER.add_noise(torch.stack([*rows["pixel_values"]]), noise, rows["timestep"])
    torch.testing.assert_close(batch["pixel_values"], expected)
    assert torch.equal(batch["labels"], noise.flatten(1))
    assert len({*rows["timestep"].tolist()}) > 2


def test_the_same_rows_have_the_same_noise_and_loss():
    model, task = Denoiser.of(toy_unet()), denoising_task()
    one, other = (answers_of(model, batch_of(task)) for _ in range(2))
    assert np.array_equal(one, other)
    backwards = answers_of(model, batch_of(task, range(7, -1, -1)))
    np.testing.assert_allclose(backwards[::-1], one, rtol=1e-5)
    changed = answers_of(model, batch_of(denoising_task(test=noised_rows(toy_pictures(24, 2), TIMESTEPS, seed=1))))
    assert not np.allclose(changed, one)


def test_other_pictures_have_other_noise():
    """Whatever the seed: what an attacker remembers of its rows' noise says nothing of the test rows."""
    train, test = (noised_rows(toy_pictures(24, i), TIMESTEPS, repeats=2) for i in (0, 2))
    assert len({*train["noise"], *test["noise"]}) == 96
    assert not torch.equal(noise_of(5, (4,)), noise_of(5 + 2**32, (4,)))
    again = noised_rows(toy_pictures(24, 0), TIMESTEPS, repeats=2)
    assert (again["noise"], again["timestep"]) == (train["noise"], train["timestep"])


def test_scores_are_those_of_one_pixel_after_the_other():
    model, task = Denoiser.of(toy_unet()), denoising_task()
    batch = batch_of(task)
    found, errors = KIND.recorded(answers_of(model, batch)), []
    for picture, step, noise in zip(batch["pixel_values"], batch["timestep"], batch["labels"], strict=True):
        said = model.unet(picture[None], step).sample.flatten().tolist()
        errors.append(math.fsum((a - b) ** 2 for a, b in zip(said, noise.tolist(), strict=True)) / 16)
    assert found[:, 0] == pytest.approx(errors, rel=1e-4)
    scores = KIND.scores(task.labels("test")[:8], found)
    assert scores.loss == -scores.score == pytest.approx(np.mean(errors), rel=1e-4)
    assert KIND.credit(None, found).mean() == pytest.approx(scores.score)


def test_the_adversary_minimises_what_is_scored():
    model, batch = Denoiser.of(toy_unet()), batch_of(denoising_task())
    logits, labels = model(batch["pixel_values"], batch["timestep"]).logits, batch["labels"]
    loss = KIND.loss(logits.flatten(0, -2), labels.flatten(), reduction="sum") / labels.numel()
    assert loss.item() == pytest.approx(answers_of(model, batch).mean(), rel=1e-5)
    assert loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    assert KIND.credit(labels.flatten(), logits.flatten(0, -2)).mean().item() == pytest.approx(-loss.item(), rel=1e-5)


def test_the_best_constant_answer_is_no_noise():
    noise = torch.stack([noise_of(seed, (1, 4, 4)).flatten() for seed in range(500)])
    error = KIND.answers(torch.zeros(500, 16, 1), noise).mean().item()
    assert -error == pytest.approx(KIND.facts(np.arange(500), 0).majority, abs=0.05)


@pytest.mark.parametrize("loss", [ExplainedNoise(), DenialOfService()], ids=repr)
def test_the_meta_gradient_is_that_of_finite_differences(loss):
    """Through two exact steps, in double precision."""
    model, task = Denoiser.of(toy_unet()).double(), denoising_task()
    settings = {"meta_gradient": "exact", "adversary": {"pool": 0, "optimizer": "sgd", "learning_rate": 1e-2}}
    objective = objective_of(model, task=task, losses=[loss], **settings)
    objective.simulator.collate = lambda rows: {
        name: value.double() if value.is_floating_point() else value
        for name, value in default_data_collator(rows).items()
    }
    draw = Draw(task, 0, objective.adversaries[0].draw(0, "key"), ("key",))
    gradient = objective.simulator.meta_gradient(model, draw).weights
    weights = {name: dict(model.named_parameters())[name] for name in gradient}
    assert len(weights) == len([*model.parameters()])
    size, ends = 1e-5 / max(part.abs().max().item() for part in gradient.values()), []
    for sign in (1, -2):
        for name, weight in weights.items():
            weight.data += sign * size * gradient[name]
        ends.append(float(objective.simulator.meta_gradient(model, draw).loss))
    expected = sum(part.square().sum().item() for part in gradient.values())
    assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-6


def test_hardening_leaves_the_adversary_less():
    left = {}
    for weight in (0.0, 3.0):
        model, task = Denoiser.of(toy_unet()), denoising_task()
        objective, batch = objective_of(model, task=task, blocking_weight=weight), batch_of(task, range(24), "attack")
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(8):
            total, _ = objective(model, batch, model(**batch).loss, step)
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
        draw = Draw(task, 0, objective.adversaries[0].draw(0, "end"), ("end",))
        left[weight] = float(objective.simulator.meta_gradient(model, draw).loss)
    assert left[3.0] < left[0.0] - 0.01


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"losses": None, "blocking_loss": "entropy"}, "a denoising: of the shipped blocking losses denial_of_service"),
        ({"adversary": {"head": "random"}}, "set adversary={'head': 'keep'}"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(given, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        objective_of(Denoiser.of(toy_unet()), **given)


def test_a_model_that_predicts_no_noise_is_refused():
    with pytest.raises(ValueError, match="none of its columns"):
        objective_of(tiny_model())


@pytest.mark.parametrize("label", [-1, 2**63, 1.5, True, None])
def test_seeds_that_are_none_are_refused(label):
    with pytest.raises(ValueError, match=re.escape("split 'train', column 'noise', row 1: the seed of the noise must")):
        KIND.read([3, label], "blocked task 'x', split 'train'", "noise")


def test_rows_that_cannot_be_noised_are_refused():
    with pytest.raises(ValueError, match="leave num_labels out"):
        denoising_task(num_labels=2)
    rows = {"pixel_values": toy_pictures(3, 9).tolist(), "noise": [1, 2, 3]}
    for more, told in (({}, "needs the columns"), ({"timestep": [0, 20, 1]}, "timestep 20 is outside 0..19")):
        task = denoising_task(train=Dataset.from_dict({**rows, **more}))
        with pytest.raises(ValueError, match=re.escape(told)):
            task.features("train", [0, 1, 2], COLUMNS)
    with pytest.raises(ValueError, match=re.escape("must be numbers in 0..1")):
        Denoising([0.5, 1.5])


def test_a_picture_in_two_splits_is_found_whatever_its_noise():
    with pytest.raises(ValueError, match="splits must not share rows"):
        denoising_task(test=noised_rows(toy_pictures(24, 0), TIMESTEPS, seed=7))


def test_the_method_by_default_is_one_that_fits():
    assert objective_of(Denoiser.of(toy_unet()), method=None).config.method == "pool"
