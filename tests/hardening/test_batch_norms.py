"""Adversaries that normalise by the batch, as fine-tuning in training mode does, or by stored statistics."""

import copy
import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_models import tiny_model, toy_pictures
from transformers import default_data_collator

from hf_selfdestruct import BlockedTask, HardeningConfig, HardeningObjective
from hf_selfdestruct.hardening.batch_norms import check_batch_norms
from hf_selfdestruct.models.functional import batch_norms
from hf_selfdestruct.models.stateless import OWN

ADVERSARY = {"steps": 2, "batch_size": 4, "learning_rate": 0.1, "optimizer": "sgd", "head": "random"}


def collate(rows):
    return {n: v.double() if v.is_floating_point() else v for n, v in default_data_collator(rows).items()}


def objective_of(model, **adversary) -> HardeningObjective:
    episode, mode = adversary.pop("episode", "flat"), adversary.pop("mode", "first_order")
    config = HardeningConfig(
        method="mlac_fast",
        meta_gradient=mode,
        blocking_loss="uniform_kl",
        adversary={**ADVERSARY, **adversary},
        method_options={"episode": episode, "hvp": "finite_difference"},
    )
    splits = {role: toy_pictures(40, seed=seed) for seed, role in enumerate(("train", "attack", "test"))}
    return HardeningObjective(model, config, [BlockedTask("blocked", **splits, label_column="labels")], collate=collate)


@pytest.fixture
def model():
    found = tiny_model("resnet").double()
    with torch.no_grad():
        for norm in batch_norms(found):
            norm.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    return found.train()


@pytest.mark.parametrize("batch_norm", ["batch", "stored"])
def test_inner_steps_and_measurements_are_those_of_a_plain_model_in_its_mode(model, batch_norm):
    """The slow twin: a copy of the model, trained by torch's own optimizer."""
    before = copy.deepcopy(model.state_dict())
    objective = objective_of(model, batch_norm=batch_norm)
    draw = objective.simulator.draw(0)
    builder = objective.simulator.builder(model, draw)
    episode = builder.episode()
    twin = copy.deepcopy(model).train(batch_norm == "batch")
    twin.load_state_dict({n.removeprefix(OWN): value for n, value in episode.own.items()}, strict=False)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for batch in builder.blocked:
        optimizer.zero_grad()
        cross_entropy(twin(pixel_values=batch["pixel_values"]).logits, batch["labels"]).backward()
        optimizer.step()
    found = objective.simulator.meta_gradient(model, draw)
    for held in batch_norms(twin):
        held.track_running_stats = batch_norm == "stored"
    logits = twin(pixel_values=builder.held_out["pixel_values"]).logits
    distance = -logits.log_softmax(-1).mean().item() - math.log(logits.shape[1])  # of uniform_kl
    assert found.losses[2] == pytest.approx(distance, rel=1e-9)
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert all(norm.training and norm.track_running_stats for norm in batch_norms(model))


@pytest.mark.parametrize("mode", ["first_order", "exact"])
def test_in_place_is_on_a_copy(model, mode):
    ways = [objective_of(model, mode=mode, episode=one) for one in ("flat", "in_place")]
    flat, placed = (way.simulator.meta_gradient(model, way.simulator.draw(0)) for way in ways)
    ours, theirs = (torch.cat([*map(torch.flatten, one.weights.values())]) for one in (placed, flat))
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= (1e-12 if mode == "first_order" else 1e-7) * theirs.norm()
    stored = objective_of(model, batch_norm="stored", mode=mode)
    other = stored.simulator.meta_gradient(model, stored.simulator.draw(0))
    assert not torch.allclose(torch.cat([*map(torch.flatten, other.weights.values())]), theirs)


def test_both_can_be_drawn(model):
    simulator = objective_of(model, batch_norm=["batch", "stored"]).simulator
    assert {simulator.draw(step).fine_tuning.batch_norm for step in range(20)} == {"batch", "stored"}


def test_what_processes_cannot_share_is_refused(model):
    with pytest.raises(ValueError, match=r"batch_norm must be one of batch, stored; got 'running'"):
        objective_of(model, batch_norm="running")
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(ValueError, match=r"before convert_sync_batchnorm, or set adversary=\{'batch_norm': 'stored'\}"):
        objective_of(synchronised)
    objective_of(synchronised, batch_norm="stored")
    plain = objective_of(tiny_model("resnet").double(), scope="global")
    with pytest.raises(ValueError, match=r"2 processes share each batch .* set adversary=\{'scope': 'local'\}"):
        check_batch_norms(plain.config, plain.simulator.model, plain.adversaries, 2)
