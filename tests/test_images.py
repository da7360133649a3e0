"""Image classifiers are hardened through the same trainer, batch statistics untouched by the adversary."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from toy_models import tiny_model, toy_images
from transformers import default_data_collator

from hf_selfdestruct.tasks import BlockedTask


def images(rows: int, seed: int, label: str) -> Dataset:
    batch = toy_images(rows, seed=seed)
    return Dataset.from_dict({"pixel_values": batch["pixel_values"].tolist(), label: batch["labels"].tolist()})


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
@pytest.mark.parametrize("mode", ["exact", "first_order"])
def test_image_classifiers_train(make_trainer, tmp_path, architecture, mode) -> None:
    model = tiny_model(architecture, num_labels=3)
    task = BlockedTask(
        "side", train=images(40, 1, "side"), attack=images(30, 2, "side"), label_column="side", num_labels=2
    )
    trainer = make_trainer(
        tmp_path,
        model=model,
        meta_gradient=mode,
        train_dataset=images(16, 3, "labels"),
        eval_dataset=images(8, 4, "labels"),
        blocked_tasks=[task],
        data_collator=default_data_collator,
        remove_unused_columns=False,
    )
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    trainer.simulation.meta_gradient(model, trainer.simulation.draw(0))
    assert not [n for n, b in model.named_buffers() if not torch.equal(b, buffers[n])]
    trainer.simulation._last = (-1, 0)
    trainer.train()
    assert not [
        n for n, p in model.named_parameters() if torch.equal(p, before[n]) and not n.endswith("attention.key.bias")
    ]
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["meta_grad_norm"] > 1e-5 for entry in entries)
