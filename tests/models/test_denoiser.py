"""A U-Net of diffusers stays what it is inside a denoiser, and is published as it was made."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("diffusers", reason="the lowest supported versions of the libraries are too old for diffusers")

from datasets import Dataset
from diffusers import DDPMPipeline, UNet2DModel
from toy_diffusion import SCHEDULER, denoising_task, toy_unet
from transformers import AutoModelForImageToImage, default_data_collator

from hf_selfdestruct import HardeningConfig, HardeningObjective, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.attacks import Entry, FullFineTuning
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.losses import ExplainedNoise
from hf_selfdestruct.models.denoiser import Denoiser, DenoiserConfig
from hf_selfdestruct.report.report import AttackReport

PIXELS, STEPS = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 7, 19])


def test_it_answers_as_its_unet_and_shares_its_weights() -> None:
    unet = toy_unet()
    denoiser, expected = Denoiser.of(unet), unet(PIXELS, STEPS).sample
    logits = denoiser(PIXELS, STEPS).logits
    assert logits.shape == (3, 16, 1)
    assert torch.equal(logits.view_as(expected), expected)
    assert denoiser.unet is unet
    assert {id(p) for p in denoiser.parameters()} == {id(p) for p in unet.parameters()}


def test_its_loss_is_the_mean_squared_error() -> None:
    denoiser, noise = Denoiser.of(toy_unet()), torch.ones(3, 16)
    loss = denoiser(PIXELS, STEPS, noise).loss
    expected = (denoiser.unet(PIXELS, STEPS).sample - 1).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_it_is_loaded_by_its_auto_class(tmp_path) -> None:
    denoiser = Denoiser.of(toy_unet())
    denoiser.save_pretrained(tmp_path)
    loaded = AutoModelForImageToImage.from_pretrained(tmp_path)
    assert type(loaded) is Denoiser
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in denoiser.state_dict().items())


def test_what_predicts_no_noise_of_its_input_alone_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a UNet2DModel of diffusers, got Linear"):
        Denoiser.of(torch.nn.Linear(1, 1))
    config = {name: value for name, value in toy_unet().config.items() if not name.startswith("_")}
    for changed, told in (({"num_class_embeds": 3}, "num_class_embeds"), ({"out_channels": 2}, "other channels")):
        with pytest.raises(ValueError, match=f"{told}.*unconditional"):
            Denoiser.of(UNet2DModel(**{**config, **changed}))


def test_random_weights_are_those_of_diffusers() -> None:
    """transformers would draw them anew by rules of its own."""
    unet = toy_unet(seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        found = Denoiser(DenoiserConfig(Denoiser.of(unet).config.unet)).unet.state_dict()
    assert [n for n, weight in unet.state_dict().items() if not torch.equal(weight, found[n])] == []


def test_a_hardened_unet_is_read_by_diffusers_bit_for_bit(tmp_path) -> None:
    denoiser, task = Denoiser.of(toy_unet()), denoising_task()
    start = {name: weight.clone() for name, weight in denoiser.named_parameters()}
    config = HardeningConfig(method="pool", inner_steps=2, adversary={"head": "keep", "batch_size": 4})
    objective = HardeningObjective(denoiser, config, [task], collate=default_data_collator, losses=[ExplainedNoise()])
    batch = default_data_collator(task.features("attack", range(6), objective.columns))
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-2)
    total, _ = objective(denoiser, batch, denoiser(**batch).loss, 0)
    total.backward()
    optimizer.step()
    assert [n for n, weight in denoiser.named_parameters() if torch.equal(weight, start[n])] == []
    denoiser.unet.save_pretrained(tmp_path / "unet")
    DDPMPipeline(denoiser.unet, SCHEDULER).save_pretrained(tmp_path / "pipeline")
    read = UNet2DModel.from_pretrained(tmp_path / "unet"), DDPMPipeline.from_pretrained(tmp_path / "pipeline").unet
    expected = denoiser.unet(PIXELS, STEPS).sample
    for unet in read:
        assert type(unet) is UNet2DModel
        assert torch.equal(unet(PIXELS, STEPS).sample, expected)


def test_the_trainer_hardens_and_attacks_it(tmp_path) -> None:
    """Its desired rows are noised, and their labels are the noise; the suite is a part of the shipped one."""
    denoiser, task = Denoiser.of(toy_unet()), denoising_task()
    start = {name: weight.clone() for name, weight in denoiser.named_parameters()}
    rows = default_data_collator(task.features("attack", range(12), ("pixel_values", "timestep", "labels")))
    desired = Dataset.from_dict({name: values.tolist() for name, values in rows.items()})
    trainer = SelfDestructTrainer(
        model=denoiser,
        args=SelfDestructTrainingArguments(
            tmp_path, method="pool", inner_steps=2, adversary={"head": "keep", "batch_size": 4}, max_steps=2,
            learning_rate=1e-2, report_to=[],
        ),
        train_dataset=desired,
        eval_dataset=desired,
        blocked_tasks=[task],
        blocking_losses=[ExplainedNoise()],
    )  # fmt: skip
    trainer.train()
    assert [n for n, weight in denoiser.named_parameters() if torch.equal(weight, start[n])] == []
    assert 0 < trainer.evaluate()["eval_loss"] < 100
    trainer.save_model(tmp_path / "hardened")
    loaded = AutoModelForImageToImage.from_pretrained(tmp_path / "hardened")
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in denoiser.state_dict().items())
    SUITES["diffusion"].check_fits([task])
    entry = Entry(FullFineTuning(learning_rates=(1e-2,), steps=(4,), looks=2), (None,))
    suite = dataclasses.replace(SUITES["diffusion"], name="part", entries=(entry,), seeds=1, few_seeds=1, null=False)
    report = trainer.attack(suite)
    assert {run.role for run in report.runs} == {"base", "undefended", "hardened", "scratch"}
    assert all(run.status == "ok" and run.test.score == -run.test.loss < 0 for run in report.runs)
    assert report.distances["base"] > 0
    card = (tmp_path / "README.md").read_text()
    assert "Test negative squared error of the attack that the selection split prefers" in card
    assert AttackReport.load(tmp_path / "selfdestruct" / "report.json") == report
